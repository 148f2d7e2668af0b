package prompt

import (
	"encoding/json"
	"fmt"
	"math"
	"net/mail"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

func buildQuestions(p *Prompt) error {
	var q protocol.UserInputRequest
	if err := json.Unmarshal(p.Req.Params, &q); err != nil {
		return err
	}
	if len(q.Questions) == 0 {
		return errIncomplete
	}
	p.title = "The agent asks"
	p.body = func(*theme.Theme, int) []string { return []string{} }
	f := &form{cancel: stopTurn, keys: "esc stop the turn", submit: answerQuestions}
	for _, u := range q.Questions {
		fd := &field{
			id: u.ID, label: text.CleanLine(u.Header), help: text.Clean(u.Question),
			secret: u.IsSecret, required: true, picked: -1,
		}
		if fd.label == "" {
			fd.label = "Question"
		}
		if len(u.Options) > 0 {
			fd.kind, fd.other = fieldChoice, u.IsOther
			for _, o := range u.Options {
				fd.options = append(fd.options, option{o.Label, text.CleanLine(o.Label), text.CleanLine(o.Description)})
			}
		}
		f.fields = append(f.fields, fd)
	}
	p.form = f
	return nil
}

func answerQuestions(fields []*field) Answer {
	out := protocol.UserInputAnswer{Answers: map[string]protocol.UserAnswer{}}
	for _, f := range fields {
		out.Answers[f.id] = protocol.UserAnswer{Answers: []string{f.value()}}
	}
	return Answer{Result: out, Word: "answered"}
}

// elicitation is the request of any mode; each uses its part.
type elicitation struct {
	ServerName, Mode, Message, URL, Title, Description string
	RequestedSchema                                    struct {
		Properties json.RawMessage `json:"properties"`
		Required   []string        `json:"required"`
	}
}

func buildElicitation(p *Prompt) error {
	var q elicitation
	if err := json.Unmarshal(p.Req.Params, &q); err != nil {
		return err
	}
	p.title = text.CleanLine(q.ServerName) + " asks"
	action := func(name, word string) choice {
		return choice{word: word, result: fixed(protocol.ElicitationAnswer{Action: name, Content: json.RawMessage("null")})}
	}
	with := func(c choice, key, label string) choice { c.key, c.label = key, label; return c }
	no := with(action("decline", "declined"), "d", "decline")
	cancel := with(action("cancel", "cancelled"), "esc", "cancel")
	switch q.Mode {
	case "url":
		p.body = func(th *theme.Theme, w int) []string {
			out := text.Wrap(text.Clean(q.Message), w)
			out = append(out, "", th.Dim.Render("open this address, then come back:"))
			return append(out, text.Wrap(text.Reveal(q.URL, tab), w)...)
		}
		p.choices = []choice{with(action("accept", "accepted"), "y", "done"), no, cancel}
		p.choices[0].seen = true
		return nil
	case "openai/userVerification":
		p.title = "Verification is wanted: " + text.CleanLine(q.Title)
		p.body = func(_ *theme.Theme, w int) []string {
			return append(text.Wrap(text.Clean(q.Description), w), "", "A terminal cannot prove who you are to that service; another client of this thread may.")
		}
		p.choices = []choice{no, cancel}
		return nil
	}
	p.body = func(_ *theme.Theme, w int) []string { return text.Wrap(text.Clean(q.Message), w) }
	fields, err := schemaFields(q.RequestedSchema.Properties, q.RequestedSchema.Required)
	if err != nil {
		return err
	}
	if len(fields) == 0 {
		yes := choice{
			key: "y", label: "accept", seen: true, word: "accepted",
			result: fixed(protocol.ElicitationAnswer{Action: "accept", Content: json.RawMessage("{}")}),
		}
		p.choices = []choice{yes, no, cancel}
		return nil
	}
	p.form = &form{
		fields: fields, keys: "ctrl+r decline   esc cancel", submit: answerElicitation,
		refuse: func() Answer { return Answer{Result: no.result(""), Word: no.word} },
		cancel: Answer{Result: cancel.result(""), Word: cancel.word},
	}
	return nil
}

func answerElicitation(fields []*field) Answer {
	content := map[string]any{}
	for _, f := range fields {
		switch v := f.value(); {
		case f.kind == fieldMulti:
			if vs := f.values(); f.required || len(vs) > 0 {
				content[f.id] = vs
			}
		case v == "":
		case f.kind == fieldNumber || f.kind == fieldInteger:
			content[f.id] = json.Number(v)
		case f.boolean:
			content[f.id] = v == "true"
		default:
			content[f.id] = v
		}
	}
	raw, err := json.Marshal(content)
	if err != nil { // only a number the check let through could do this
		raw = json.RawMessage("{}")
	}
	return Answer{Result: protocol.ElicitationAnswer{Action: "accept", Content: raw}, Word: "answered"}
}

// property is one member of the flat schemas elicitations use.
type property struct {
	Type, Title, Description, Format string
	Enum, EnumNames                  []string
	OneOf                            []struct{ Const, Title string }
	Items                            struct {
		Enum  []string
		AnyOf []struct{ Const, Title string }
	}
	Default              json.RawMessage
	Minimum, Maximum     *float64
	MinLength, MaxLength *int
	MinItems, MaxItems   *int
}

// schemaFields reads the properties in the order they were written.
func schemaFields(raw json.RawMessage, required []string) ([]*field, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var out []*field
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, errIncomplete
		}
		var p property
		if err := d.Decode(&p); err != nil {
			return nil, fmt.Errorf("property %q: %w", name, err)
		}
		f := newField(name, p)
		for _, r := range required {
			f.required = f.required || r == name
		}
		out = append(out, f)
	}
	return out, nil
}

func newField(name string, p property) *field {
	f := &field{id: name, label: text.CleanLine(p.Title), help: text.Clean(p.Description), picked: -1}
	if f.label == "" {
		f.label = text.CleanLine(name)
	}
	add := func(value, label string) {
		f.options = append(f.options, option{value: value, label: text.CleanLine(label)})
	}
	switch {
	case p.Type == "boolean":
		f.kind, f.boolean = fieldChoice, true
		add("true", "yes")
		add("false", "no")
	case p.Type == "array":
		f.kind = fieldMulti
		for _, e := range p.Items.Enum {
			add(e, e)
		}
		for _, e := range p.Items.AnyOf {
			add(e.Const, e.Title)
		}
		f.on = make([]bool, len(f.options))
	case len(p.Enum) > 0:
		f.kind = fieldChoice
		for i, e := range p.Enum {
			label := e
			if i < len(p.EnumNames) && p.EnumNames[i] != "" {
				label = p.EnumNames[i]
			}
			add(e, label)
		}
	case len(p.OneOf) > 0:
		f.kind = fieldChoice
		for _, e := range p.OneOf {
			add(e.Const, e.Title)
		}
	case p.Type == "integer":
		f.kind = fieldInteger
	case p.Type == "number":
		f.kind = fieldNumber
	}
	f.check = func(f *field) string { return p.wrong(f) }
	f.preset(p.Default)
	return f
}

// preset fills in the default.
func (f *field) preset(raw json.RawMessage) {
	var v any
	if json.Unmarshal(raw, &v) != nil || v == nil {
		return
	}
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			for i, o := range f.options {
				if f.kind == fieldMulti && o.value == fmt.Sprint(e) {
					f.on[i] = true
				}
			}
		}
		return
	case float64:
		f.buf.Set(strconv.FormatFloat(v, 'f', -1, 64))
		return
	}
	s := fmt.Sprint(v)
	if f.kind == fieldChoice {
		for i, o := range f.options {
			if o.value == s {
				f.cursor, f.picked = i, i
			}
		}
		return
	}
	f.buf.Set(s)
}

// wrong checks a value against the schema, in words.
func (p property) wrong(f *field) string {
	v := f.value()
	switch f.kind {
	case fieldMulti:
		n := len(f.values())
		if p.MinItems != nil && n < *p.MinItems || f.required && n == 0 {
			return fmt.Sprintf("choose at least %d", max(1, value(p.MinItems)))
		}
		if p.MaxItems != nil && n > *p.MaxItems {
			return fmt.Sprintf("choose at most %d", *p.MaxItems)
		}
	case fieldNumber, fieldInteger:
		x, err := strconv.ParseFloat(v, 64)
		if err != nil || math.IsInf(x, 0) || math.IsNaN(x) || !json.Valid([]byte(v)) {
			return "this has to be a number"
		}
		if f.kind == fieldInteger && x != math.Trunc(x) {
			return "this has to be a whole number"
		}
		if p.Minimum != nil && x < *p.Minimum {
			return fmt.Sprintf("at least %v", *p.Minimum)
		}
		if p.Maximum != nil && x > *p.Maximum {
			return fmt.Sprintf("at most %v", *p.Maximum)
		}
	case fieldText:
		if n := utf8.RuneCountInString(v); p.MinLength != nil && n < *p.MinLength {
			return fmt.Sprintf("at least %d characters", *p.MinLength)
		} else if p.MaxLength != nil && n > *p.MaxLength {
			return fmt.Sprintf("at most %d characters", *p.MaxLength)
		}
		return wrongFormat(p.Format, v)
	}
	return ""
}

func wrongFormat(format, v string) string {
	var err error
	switch format {
	case "email":
		_, err = mail.ParseAddress(v)
	case "uri":
		u, e := url.Parse(v)
		if err = e; err == nil && u.Scheme == "" {
			err = errIncomplete
		}
	case "date":
		_, err = time.Parse(time.DateOnly, v)
	case "date-time":
		_, err = time.Parse(time.RFC3339, v)
	}
	if err == nil {
		return ""
	}
	return map[string]string{
		"email": "this has to be a mail address", "uri": "this has to be an address such as https://…",
		"date": "this has to be a date such as 2026-01-31", "date-time": "this has to be a time such as 2026-01-31T12:00:00Z",
	}[format]
}

func value(n *int) int {
	if n == nil {
		return 0
	}
	return *n
}
