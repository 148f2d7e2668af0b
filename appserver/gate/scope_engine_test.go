package gate

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"towline/appserver/protocol"
)

// The story of a pipeline on real engines: it starts a thread in its project, works
// in it, finds it again, and sees nothing of what a person does elsewhere.
func TestEngineScopes(t *testing.T) {
	eachEngine(t, func(t *testing.T, e Engine, m *model) {
		home, work, other := folders(t)
		m.script = func(_ int, say func(any)) { say(message("all done")) }
		g, _, _, _ := startGate(t, e, t.TempDir(), func(c *Config) { c.Project = home }, true)
		enter := func(words ...string) *person {
			p := dialAs(t, g, scopedPrincipal(t, "ci", protocol.RoleOperator, words...))
			p.hello("ci")
			return p
		}
		start := func(p *person, params string) string {
			return protocol.StringField(protocol.Field(p.must("thread/start", json.RawMessage(params)), "thread"), "id")
		}
		ana := attach(t, g, "ana", protocol.RoleOperator, false)
		work1, hidden := start(ana, `{"cwd":"`+work+`"}`), start(ana, `{"cwd":"`+other+`"}`)
		ci := enter("exec", "project:"+work)
		own := start(ci, `{"approvalPolicy":"never","sandbox":"read-only","config":{"model_reasoning_effort":"low"}}`)
		for _, id := range []string{own, work1, hidden} {
			who := ana
			if id == own {
				who = ci
			}
			who.turn(id, "go")
			who.wait("the end", 0, func(e protocol.Envelope) bool {
				return e.Method == "turn/completed" && protocol.StringField(e.Params, "threadId") == id
			})
		}
		_ = ci.leave()
		ci = enter("exec", "project:"+work)
		ci.must("thread/resume", map[string]any{"threadId": own, "excludeTurns": true})
		ci.must("thread/read", map[string]any{"threadId": work1})
		ci.must("turn/start", map[string]any{"threadId": own, "input": []any{protocol.Text("again")}, "cwd": work})
		ci.wait("the end", 0, func(e protocol.Envelope) bool { return e.Method == "turn/completed" })
		for _, method := range []string{"thread/read", "thread/resume", "thread/turns/list"} {
			if _, err := ci.call(method, map[string]any{"threadId": hidden}); err == nil || !strings.Contains(err.Error(), "outside the scope of ci") {
				t.Errorf("%s: %v", method, err)
			}
		}
		for _, method := range []string{"thread/list", "thread/loaded/list"} {
			all := func(p *person) (got []string) {
				params := map[string]any{"limit": 1}
				for {
					raw := p.must(method, params)
					got = append(got, ids(t, raw)...)
					cursor := protocol.StringField(raw, "nextCursor")
					if cursor == "" {
						return got
					}
					params["cursor"] = cursor
				}
			}
			// Versions differ in which threads of one second a small page leaves out.
			want := slices.DeleteFunc(all(ana), func(id string) bool { return id == hidden })
			if got := all(ci); !slices.Equal(got, want) || len(got) == 0 {
				t.Errorf("%s: %v, not %v", method, got, want)
			}
		}
		only := enter("exec") // the same token without the project: what it started
		only.must("thread/read", map[string]any{"threadId": own})
		if _, err := only.call("thread/read", map[string]any{"threadId": work1}); err == nil {
			t.Error("somebody else's thread was read")
		}
		// The handshake of a stock client gets its answers, and nothing in them.
		for _, method := range []string{"config/read", "account/read", "skills/list", "configRequirements/read", "model/list"} {
			raw := only.must(method, map[string]any{})
			if strings.Contains(string(raw), work) || strings.Contains(string(raw), home) {
				t.Errorf("%s tells %s", method, raw)
			}
		}
		ana.must("thread/settings/update", map[string]any{"threadId": work1, "cwd": other})
		if _, err := ci.call("thread/read", map[string]any{"threadId": work1}); err == nil {
			t.Error("a thread that was moved out was read")
		}
	})
}
