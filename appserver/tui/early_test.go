package tui

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"towline/appserver/protocol"
)

// People type before the other end is ready; enter then is a promise.
func TestEnterBeforeTheThreadIsOpenSendsOnceItIs(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	open := make(chan struct{})
	release := sync.OnceFunc(func() { close(open) })
	defer release()
	f.set("thread/start", func(json.RawMessage) (any, error) { <-open; return opened("t-1", ""), nil })
	s := start(t, f, 80, 24)
	s.sees("○ opening")
	s.keys("hurry", "<enter>")
	s.sees("sent as soon as the thread is open", "› hurry")
	release()
	if got := f.wait("turn/start", 1); !strings.Contains(string(got), `"text":"hurry"`) {
		t.Errorf("sent %s", got)
	}
}

// The same a moment earlier, while it is still being found out where to land.
func TestEnterBeforeLandingBeginsTheThreadWithIt(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	listed := make(chan struct{})
	release := sync.OnceFunc(func() { close(listed) })
	defer release()
	f.set("thread/list", func(json.RawMessage) (any, error) { <-listed; return obj{"data": []obj{}}, nil })
	s := start(t, f, 80, 24)
	s.sees("dev-server")
	s.keys("hurry", "<enter>")
	release()
	if got := f.wait("turn/start", 1); !strings.Contains(string(got), `"text":"hurry"`) {
		t.Errorf("sent %s", got)
	}
}

func TestTypingOnAfterAnEarlyEnterTakesItBack(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	open := make(chan struct{})
	release := sync.OnceFunc(func() { close(open) })
	defer release()
	f.set("thread/start", func(json.RawMessage) (any, error) { <-open; return opened("t-1", ""), nil })
	s := start(t, f, 80, 24)
	s.sees("○ opening")
	s.keys("hurry", "<enter>", " no")
	s.sees("› hurry no")
	release()
	s.sees("○ new", "› hurry no")
	for _, m := range f.methods() {
		if m == "turn/start" {
			t.Error("sent what was still being typed")
		}
	}
}
