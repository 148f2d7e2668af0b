package prompt

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// Ways to decide, for [Prompt.Decide]: the keys of the screen.
const (
	Approve        = "y"
	ApproveSession = "a"
	Deny           = "d"
	Stop           = "esc"
)

// Lines is the whole request for somebody without the screen, in plain text at most
// width cells wide; questions come with what may be answered.
func (p *Prompt) Lines(width int) []string {
	out := p.body(theme.Plain(), width)
	for i := range out {
		out[i] = ansi.Strip(out[i]) // what the request itself has of those is shown as text by now
	}
	if p.form == nil {
		return out
	}
	for _, f := range p.form.fields {
		out = append(out, text.Wrap(f.label+": "+f.help, width)...)
		for _, o := range f.options {
			line := "- " + o.label
			if o.detail != "" {
				line += ": " + o.detail
			}
			out = append(out, text.Wrap(line, width)...)
		}
	}
	return out
}

// Decide is the answer for one of the ways to decide, with a reason for a refusal;
// it is not ok when the request cannot be answered so.
func (p *Prompt) Decide(how, reason string) (a Answer, ok bool) {
	if p.form != nil {
		switch {
		case how == Stop:
			return p.form.cancel, true
		case how == Deny && p.form.refuse != nil:
			return p.form.refuse(), true
		}
		return Answer{}, false
	}
	for _, c := range p.choices {
		if c.key != how || c.reason {
			continue
		}
		if c.stop {
			return stopTurn, true
		}
		return Answer{Result: c.result(reason), Word: c.word}, true
	}
	return Answer{}, false
}

// Fields is how many questions there are to fill in; none when the request is
// decided with [Prompt.Decide].
func (p *Prompt) Fields() int {
	if p.form == nil {
		return 0
	}
	return len(p.form.fields)
}

// Fill answers the questions, one text each: an option by its label,
// several separated by commas where several may be chosen. Its error says which of
// them will not do, and why.
func (p *Prompt) Fill(texts []string) (Answer, error) {
	if p.form == nil {
		return Answer{}, errors.New("this is not a question to answer in words")
	}
	if len(texts) != len(p.form.fields) {
		return Answer{}, fmt.Errorf("there are %d questions, and %d answers", len(p.form.fields), len(texts))
	}
	for i, f := range p.form.fields {
		if err := f.fill(texts[i]); err != nil {
			return Answer{}, fmt.Errorf("%s: %w", f.label, err)
		}
		if why := f.wrong(); why != "" {
			return Answer{}, fmt.Errorf("%s: %s", f.label, why)
		}
	}
	return p.form.submit(p.form.fields), nil
}

func (f *field) fill(s string) error {
	switch f.kind {
	case fieldChoice:
		if i := f.option(s); i >= 0 {
			f.picked = i
			return nil
		}
		if !f.other {
			return fmt.Errorf("%q is none of the answers", s)
		}
	case fieldMulti:
		for w := range strings.SplitSeq(s, ",") {
			i := f.option(strings.TrimSpace(w))
			if i < 0 {
				return fmt.Errorf("%q is none of the answers", strings.TrimSpace(w))
			}
			f.on[i] = true
		}
		return nil
	}
	f.buf.Set(s)
	return nil
}

// option finds one by its label or its value; -1 is none.
func (f *field) option(s string) int {
	return slices.IndexFunc(f.options, func(o option) bool { return strings.EqualFold(o.label, s) || o.value == s })
}
