package run

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"towline/appserver/protocol"
	"towline/config"
)

// asks are the questions of the agent's to people, in the order they came. They are
// answered elsewhere.
type asks struct {
	all   []*ask
	files map[string]string // item -> the files of a patch that has begun
	more  bool              // there were more than MaxListed
}

type ask struct {
	Approval
	request string // its id on the wire
	item    string
	since   time.Time
	unsure  bool // it was open when the connection was lost
}

// asked enters a question; one that comes again, after a resume, is the old one.
func (t *turn) asked(request, method string, params json.RawMessage) {
	if turn := protocol.StringField(params, "turnId"); turn != "" && turn != t.id {
		return
	}
	if a := t.asks.byRequest(request); a != nil && !a.Answered {
		a.unsure = false
		return
	}
	if len(t.asks.all) >= MaxListed {
		t.asks.more = true
		return
	}
	a := &ask{request: request, item: protocol.StringField(params, "itemId"), since: time.Now()}
	a.Kind, a.Subject, a.Reason = describe(method, params, t.asks.files)
	t.asks.all = append(t.asks.all, a)
	t.note(Note{Kind: NoteWaiting, Approval: &a.Approval})
}

// describe is a question in the words of a Result.
func describe(method string, params json.RawMessage, files map[string]string) (kind, subject, reason string) {
	reason = protocol.StringField(params, "reason")
	switch method {
	case protocol.ReqCommandApproval, "execCommandApproval":
		subject = protocol.StringField(params, "command")
		if n := protocol.Field(params, "networkApprovalContext"); n != nil && string(n) != "null" {
			subject = "network access to " + protocol.StringField(n, "host")
		}
		return "command", subject, reason
	case protocol.ReqFileApproval, "applyPatchApproval":
		return "file_change", files[protocol.StringField(params, "itemId")], reason
	case protocol.ReqPermissionsApproval:
		return "permissions", string(protocol.Field(params, "permissions")), reason
	case protocol.ReqUserInput:
		var q protocol.UserInputRequest
		_ = json.Unmarshal(params, &q) // what does not fit has no text
		for _, one := range q.Questions {
			subject = strings.TrimSpace(subject + " " + one.Question)
		}
		return "question", subject, reason
	}
	return "question", protocol.StringField(params, "message"), reason
}

// subject remembers what a patch is about: the question whether it may be applied
// does not say.
func (s *asks) subject(it protocol.Item) {
	f, ok := it.Body.(*protocol.FileChange)
	if !ok {
		return
	}
	var paths []string
	for _, c := range f.Changes[:min(len(f.Changes), 20)] {
		paths = append(paths, c.Path)
	}
	if s.files == nil || len(s.files) > 1000 {
		s.files = make(map[string]string)
	}
	s.files[it.ID] = strings.Join(paths, ", ")
}

func (s *asks) byRequest(id string) *ask {
	for _, a := range slices.Backward(s.all) {
		if a.request == id {
			return a
		}
	}
	return nil
}

// resolved learns that a question was settled; what the answer was, a gate says, or
// the item's end.
func (t *turn) resolved(request string) {
	if a := t.asks.byRequest(request); a != nil && t.why == "" { // what we gave up is settled too, and was not answered
		t.settle(a)
	}
}

func (t *turn) settle(a *ask) {
	if a.Answered {
		return
	}
	a.Answered, a.WaitedMs = true, time.Since(a.since).Milliseconds()
	t.note(Note{Kind: NoteAnswered, Approval: &a.Approval})
}

// ledger takes what a gate says of an approval of this thread.
func (t *turn) ledger(raw json.RawMessage) {
	var row protocol.Approval
	if json.Unmarshal(raw, &row) != nil || row.ThreadID != t.thread {
		return
	}
	a := t.asks.byRequest(string(row.RequestID))
	if a == nil {
		if row.State != protocol.ApprovalOpen {
			return
		}
		t.asked(string(row.RequestID), row.Method, row.Params)
		if a = t.asks.byRequest(string(row.RequestID)); a == nil {
			return
		}
	}
	a.ID = row.ID
	if row.State != protocol.ApprovalAnswered || row.By == nil && t.why != "" { // the end of the turn settles it too
		return
	}
	a.Decision = decision(row.Method, row.Result)
	if row.By != nil {
		a.By = &By{Name: row.By.Name, Kind: row.By.Kind, Role: row.By.Role.String(), Via: row.By.Via}
	}
	t.settle(a)
}

// decision is an answer in one word.
func decision(method string, result json.RawMessage) string {
	switch method {
	case protocol.ReqUserInput:
		return "answered"
	case protocol.ReqElicitation:
		return protocol.StringField(result, "action")
	case protocol.ReqPermissionsApproval:
		if p := strings.TrimSpace(string(protocol.Field(result, "permissions"))); p == "" || p == "{}" || p == "null" {
			return protocol.DecisionDecline
		}
		return protocol.DecisionAccept
	}
	if s := protocol.StringField(result, "decision"); s != "" {
		return s
	}
	for name := range protocol.Members(protocol.Field(result, "decision")) {
		return name // an amendment, which is an object
	}
	return ""
}

// answeredBy learns from an item's end how a question was answered, where nobody said.
func (t *turn) answeredBy(it protocol.Item) {
	status := ""
	switch b := it.Body.(type) {
	case *protocol.CommandExecution:
		status = b.Status
	case *protocol.FileChange:
		status = b.Status
	default:
		return
	}
	for _, a := range t.asks.all {
		if a.item != it.ID || a.Decision != "" || t.why != "" && !a.Answered {
			continue
		}
		if a.Decision = protocol.DecisionAccept; status == protocol.ItemDeclined {
			a.Decision = protocol.DecisionDecline
		}
		if !a.Answered {
			a.Answered, a.WaitedMs = true, time.Since(a.since).Milliseconds()
		}
	}
}

// unsure is for a lost connection: a question that is still open comes again.
func (s *asks) unsure() {
	for _, a := range s.all {
		a.unsure = !a.Answered
	}
}

// open is how many questions wait.
func (s *asks) open() int {
	n := 0
	for _, a := range s.all {
		if !a.Answered && !a.unsure {
			n++
		}
	}
	return n
}

// deadline is when the first of them has waited for long enough; zero when none
// waits, or when they may wait.
func (s *asks) deadline(patience time.Duration) time.Time {
	if patience >= 0 {
		for _, a := range s.all {
			if !a.Answered && !a.unsure {
				return a.since.Add(patience)
			}
		}
	}
	return time.Time{}
}

// unanswered says which question nobody answered.
func (s *asks) unanswered() string {
	for _, a := range s.all {
		if !a.Answered {
			if a.Subject == "" {
				return "nobody answered a question of the kind " + a.Kind
			}
			return fmt.Sprintf("nobody answered: may it %s %s", verb(a.Kind), config.OneLine(a.Subject))
		}
	}
	return "nobody answered"
}

func verb(kind string) string {
	switch kind {
	case "command":
		return "run"
	case "file_change":
		return "change"
	case "permissions":
		return "have"
	}
	return "know"
}

// refusal is the no that ended a turn, nil when there was none.
func (s *asks) refusal() *Approval {
	for _, a := range slices.Backward(s.all) {
		switch {
		case !a.Answered:
			continue
		case a.Decision == protocol.DecisionCancel, a.Decision == "abort":
			return &a.Approval
		case a.By == nil && (a.Decision == protocol.DecisionDecline || a.Decision == ""):
			return &a.Approval // a stock server does not say which no it was
		}
		return nil
	}
	return nil
}

func (s *asks) list() []Approval {
	out := make([]Approval, 0, len(s.all))
	for _, a := range s.all {
		if !a.Answered {
			a.WaitedMs = time.Since(a.since).Milliseconds()
		}
		out = append(out, a.Approval)
	}
	return out
}
