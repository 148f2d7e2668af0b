package prompt

import (
	"encoding/json"
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"towline/appserver/protocol"
	"towline/appserver/tui/theme"
)

func key(name string) tea.KeyPressMsg {
	switch name {
	case "enter":
		return tea.KeyPressMsg{Code: tea.KeyEnter}
	case "esc":
		return tea.KeyPressMsg{Code: tea.KeyEscape}
	case "ctrl+r":
		return tea.KeyPressMsg{Code: 'r', Mod: tea.ModCtrl}
	}
	return tea.KeyPressMsg{Code: rune(name[0]), Text: name}
}

func render(p *Prompt, w, h int) string {
	lines, _, _ := p.Render(Look{Theme: theme.Plain(), Width: w, Height: h})
	return ansi.Strip(strings.Join(lines, "\n"))
}

func TestNothingIsApprovedBeforeItWasDrawn(t *testing.T) {
	p := New(Request{Method: protocol.ReqCommandApproval, Params: json.RawMessage(`{"command":"ls"}`)})
	if _, done, _ := p.Key(key("y")); done {
		t.Fatal("approved before it was ever on the screen")
	}
	render(p, 80, 2) // too small for the request
	if _, done, _ := p.Key(key("y")); done {
		t.Fatal("approved though the window had no room for it")
	}
	render(p, 80, 20)
	if a, done, _ := p.Key(key("y")); !done || a.Word != "approved" {
		t.Errorf("Key = %+v, %v", a, done)
	}
}

func TestItemThatComesLaterHasToBeSeenToo(t *testing.T) {
	p := New(Request{Method: protocol.ReqFileApproval, Params: json.RawMessage(`{"itemId":"x"}`)})
	render(p, 80, 20)
	p.SetItem(protocol.Item{ID: "x", Body: &protocol.FileChange{Changes: []protocol.FileUpdate{{Path: "/a", Kind: protocol.UpdateKind{Type: "add"}, Diff: strings.Repeat("line\n", 100)}}}})
	if _, done, _ := p.Key(key("y")); done {
		t.Fatal("approved a diff that was not shown")
	}
	if got := render(p, 80, 20); !strings.Contains(got, "more lines: space to read on") {
		t.Errorf("shows\n%s", got)
	}
}

func TestUnreadableRequestsCanBeRefused(t *testing.T) {
	for _, r := range []Request{
		{Method: "item/brandNew/requestApproval", Params: json.RawMessage(`{"x":1}`)},
		{Method: protocol.ReqCommandApproval, Params: json.RawMessage(`{"command":7}`)},
		{Method: protocol.ReqUserInput, Params: json.RawMessage(`{"questions":[]}`)},
	} {
		p := New(r)
		if got := render(p, 80, 20); !strings.Contains(got, "cannot read") {
			t.Errorf("%s shows\n%s", r.Method, got)
		}
		if _, done, _ := p.Key(key("y")); done {
			t.Errorf("%s can be approved", r.Method)
		}
		if a, done, _ := p.Key(key("d")); !done || a.Word != "denied" {
			t.Errorf("%s cannot be refused: %+v", r.Method, a)
		}
	}
}

func TestLegacyAnswers(t *testing.T) {
	for k, want := range map[string]string{"y": `{"decision":"approved"}`, "d": `{"decision":{"denied":{"rejection":""}}}`, "esc": `{"decision":"abort"}`} {
		p := New(Request{Method: "execCommandApproval", Params: json.RawMessage(`{"command":["bash","-lc","ls -l"],"cwd":"/x"}`)})
		if got := render(p, 80, 20); !strings.Contains(got, "$ ls -l") {
			t.Errorf("shows\n%s", got)
		}
		a, done, _ := p.Key(key(k))
		if got, _ := json.Marshal(a.Result); !done || string(got) != want {
			t.Errorf("%s answers %s, want %s", k, got, want)
		}
	}
}

func TestNetworkRuleIsOffered(t *testing.T) {
	p := New(Request{Method: protocol.ReqCommandApproval, Params: json.RawMessage(`{"command":"curl x","networkApprovalContext":{"host":"example.com","protocol":"https"},
		"availableDecisions":["accept",{"applyNetworkPolicyAmendment":{"network_policy_amendment":{"action":"allow","host":"example.com"}}},"cancel"]}`)})
	if got := render(p, 80, 20); !strings.Contains(got, "to https example.com") || !strings.Contains(got, "h always allow example.com") {
		t.Errorf("shows\n%s", got)
	}
	a, _, _ := p.Key(key("h"))
	if got, _ := json.Marshal(a.Result); string(got) != `{"decision":{"applyNetworkPolicyAmendment":{"network_policy_amendment":{"action":"allow","host":"example.com"}}}}` {
		t.Errorf("answers %s", got)
	}
}

func TestFormatsAreChecked(t *testing.T) {
	for format, values := range map[string][2]string{
		"email": {"ana@example.com", "ana"}, "uri": {"https://x.example/", "x.example"}, "date": {"2026-01-31", "31.1."}, "date-time": {"2026-01-31T12:00:00Z", "noon"},
	} {
		if got := wrongFormat(format, values[0]); got != "" {
			t.Errorf("%s %q: %s", format, values[0], got)
		}
		if got := wrongFormat(format, values[1]); got == "" {
			t.Errorf("%s %q passes", format, values[1])
		}
	}
}

// FuzzRequest: whatever a server asks, there is a prompt that draws at any size
// and can be left with esc.
func FuzzRequest(f *testing.F) {
	methods := []string{
		protocol.ReqCommandApproval, protocol.ReqFileApproval, protocol.ReqPermissionsApproval, protocol.ReqUserInput,
		protocol.ReqElicitation, "execCommandApproval", "applyPatchApproval", "other",
	}
	f.Add(uint8(0), `{"command":"ls","availableDecisions":[{"applyNetworkPolicyAmendment":{}}]}`)
	f.Add(uint8(3), `{"questions":[{"id":"a","header":"h","question":"q","options":[{"label":"x","description":"y"}],"isOther":true}]}`)
	f.Add(uint8(4), `{"mode":"form","requestedSchema":{"properties":{"a":{"type":"array","items":{"enum":["x"]},"default":["x"]},"b":{"type":"number","default":1}}}}`)
	f.Add(uint8(2), `{"permissions":{"fileSystem":{"entries":[{"access":"read"}]}}}`)
	f.Fuzz(func(t *testing.T, m uint8, params string) {
		p := New(Request{Method: methods[int(m)%len(methods)], Params: json.RawMessage(params)})
		for _, size := range [][2]int{{80, 24}, {20, 5}, {3, 3}} {
			render(p, size[0], size[1])
		}
		for _, k := range []string{"y", "enter", "1", " ", "x", "enter"} {
			if _, done, _ := p.Key(key(k)); done {
				return
			}
			render(p, 40, 10)
		}
		p.Key(key("esc")) // leaves a reason being typed, if any
		if _, done, _ := p.Key(key("esc")); !done && p.form == nil && p.reason == nil {
			for _, c := range p.choices {
				if c.key == "esc" {
					t.Fatal("esc does not leave")
				}
			}
		}
	})
}

func TestCommandHidesNothing(t *testing.T) {
	params, _ := json.Marshal(map[string]any{"command": "rm -rf /\recho hello\x1b[2K\u202egnp.exe", "cwd": "/a\rb"})
	got := render(New(Request{Method: protocol.ReqCommandApproval, Params: params}), 80, 20)
	for _, want := range []string{"rm -rf /", "echo hello", "<U+202E>", "␛[2K"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not shown:\n%s", want, got)
		}
	}
	if strings.ContainsAny(got, "\r\x1b\u202e") {
		t.Errorf("it acts on the terminal: %q", got)
	}
}
