package prompt

import (
	"encoding/json"
	"strings"
	"testing"

	"towline/appserver/protocol"
)

func TestRequestsAreDecidedWithoutAScreen(t *testing.T) {
	command := Request{Method: protocol.ReqCommandApproval, Params: json.RawMessage(`{"command":"rm -rf \u001b[2Jx","cwd":"/srv","reason":"why not"}`)}
	questions := Request{Method: protocol.ReqUserInput, Params: json.RawMessage(`{"questions":[
		{"id":"a","header":"Database","question":"Which one?","options":[{"label":"staging","description":"a copy"},{"label":"live","description":""}]},
		{"id":"b","header":"Name","question":"What is it called?"}]}`)}
	permissions := Request{Method: protocol.ReqPermissionsApproval, Params: json.RawMessage(`{"cwd":"/srv","permissions":{"network":{"enabled":true}}}`)}
	for name, tc := range map[string]struct {
		r           Request
		how, reason string
		want        string // the result, "" for none
	}{
		"approve":              {command, Approve, "", `{"decision":"accept"}`},
		"approve for long":     {command, ApproveSession, "", `{"decision":"acceptForSession"}`},
		"deny":                 {command, Deny, "", `{"decision":"decline"}`},
		"deny with a reason":   {command, Deny, "no", `{"decision":"decline","reason":"no"}`},
		"grant":                {permissions, Approve, "", `{"permissions":{"network":{"enabled":true}},"scope":"turn"}`},
		"refuse":               {permissions, Deny, "no", `{"permissions":{},"scope":"turn","reason":"no"}`},
		"a question":           {questions, Approve, "", ""},
		"what nobody has seen": {Request{Method: "x/y", Params: json.RawMessage(`{}`)}, Approve, "", ""},
		"and refused":          {Request{Method: "x/y", Params: json.RawMessage(`{}`)}, Deny, "", `{"decision":"decline"}`},
	} {
		a, ok := New(tc.r).Decide(tc.how, tc.reason)
		got, err := json.Marshal(a.Result)
		if ok != (tc.want != "") || ok && (err != nil || string(got) != tc.want) {
			t.Errorf("%s: %s %v", name, got, ok)
		}
	}
	lines := strings.Join(New(command).Lines(40), "\n")
	if strings.Contains(lines, "\x1b") || !strings.Contains(lines, "[2Jx") || !strings.Contains(lines, "/srv") || !strings.Contains(lines, "why not") {
		t.Errorf("%q", lines)
	}
	lines = strings.Join(New(questions).Lines(40), "\n")
	if !strings.Contains(lines, "Which one?") || !strings.Contains(lines, "- staging: a copy") {
		t.Errorf("%q", lines)
	}
}

func TestQuestionsAreAnsweredInWords(t *testing.T) {
	params := json.RawMessage(`{"questions":[
		{"id":"a","header":"Database","question":"Which one?","options":[{"label":"staging","description":""},{"label":"live","description":""}]},
		{"id":"b","header":"Name","question":"What is it called?"}]}`)
	for name, tc := range map[string]struct {
		texts []string
		want  string // in the error, or the answer
	}{
		"answered":         {[]string{"Staging", "shop"}, `{"answers":{"a":{"answers":["staging"]},"b":{"answers":["shop"]}}}`},
		"no such option":   {[]string{"x", "shop"}, `"x" is none of the answers`},
		"nothing":          {[]string{"live", " "}, "an answer is needed"},
		"one for two":      {[]string{"live"}, "2 questions, and 1 answers"},
		"three are no two": {[]string{"live", "a", "b"}, "2 questions, and 3 answers"},
	} {
		a, err := New(Request{Method: protocol.ReqUserInput, Params: params}).Fill(tc.texts)
		got, merr := json.Marshal(a.Result)
		if merr != nil {
			t.Fatal(merr)
		}
		if err != nil {
			got = []byte(err.Error())
		}
		if !strings.Contains(string(got), tc.want) {
			t.Errorf("%s: %s", name, got)
		}
	}
	if _, err := New(Request{Method: protocol.ReqCommandApproval, Params: json.RawMessage(`{"command":"x"}`)}).Fill([]string{"y"}); err == nil {
		t.Error("a command was answered in words")
	}
}
