package tui

import (
	"encoding/json"
	"testing"

	"towline/appserver/protocol"
)

// noEngine makes the fake a gate without an engine: it refuses to be greeted,
// says how its engine is, and answers questions about itself.
func (f *fake) noEngine(e protocol.EngineState) {
	f.session(protocol.Session{Host: "dev-server", Engine: e})
	data, err := json.Marshal(map[string]any{"engine": e})
	if err != nil {
		f.t.Fatal(err)
	}
	f.set("initialize", func(json.RawMessage) (any, error) {
		return nil, &protocol.Error{Code: protocol.CodeInternal, Message: e.Problem, Data: data}
	})
}

func TestHostWithoutEngineSaysWhyAndGoesOn(t *testing.T) {
	f := newFake(t)
	f.noEngine(protocol.EngineState{
		Kind: "codex", State: "failed", Problem: "codex is not installed, or not where Towline looks for it",
		Hints: []string{"install it: `npm install -g @openai/codex`", "or say where it is"},
	})
	s := start(t, f, 80, 24)
	s.sees("▲ no engine", "the codex engine has failed: codex is not installed", "→ install it: `npm install -g @openai/codex`", "→ or say where it is", "goes on by itself")
	s.keys("fix the bug")
	s.sees("› fix the bug")

	// Another trouble shows without anything being pressed.
	f.noEngine(protocol.EngineState{Kind: "codex", State: "restarting", Problem: "codex ended while it started"})
	s.sees("is restarting: codex ended while it started")
	s.not("npm install")

	// It is mended: the gate lets go, and the next connection has an engine.
	f.session(protocol.Session{Host: "dev-server"})
	f.reply("initialize", obj{"userAgent": "fake/1.2.3 (test)"})
	f.cut(true)
	s.sees("○ new", "› fix the bug")
	s.not("no engine")
}

func TestHostThatGoesWhileItsEngineIsAwaited(t *testing.T) {
	f := newFake(t)
	f.noEngine(protocol.EngineState{Kind: "codex", State: "failed", Problem: "codex is too old"})
	s := start(t, f, 80, 24)
	s.sees("codex is too old")
	f.cut(false)
	s.sees("⟳ unreachable for", "(attempt")
	s.not("codex is too old")
	s.keys("d")
	if _, err := s.ends(); err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestReadyEngineWithAProblemIsShown(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server", Engine: protocol.EngineState{
		Kind: "codex", State: "ready", Problem: "Codex has no account yet",
		Hints: []string{"log in: `codex login`, or without a browser `codex login --device-auth`"},
	}})
	s := start(t, f, 80, 24)
	s.sees("○ new", "▲ Codex has no account yet", "→ log in: `codex login`")
	f.tell(protocol.NoteEngine, protocol.EngineState{Kind: "codex", State: "ready"})
	s.not("no account yet")
}

// A refusal that is not about the engine is nothing to wait out.
func TestRefusedGreetingEndsTheClient(t *testing.T) {
	f := newFake(t)
	f.refuse("initialize", "you may not")
	s := start(t, f, 80, 24)
	if _, err := s.ends(); err == nil {
		t.Error("Run waits for what will not come")
	}
}
