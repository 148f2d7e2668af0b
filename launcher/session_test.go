package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"towline/appserver/rpc"
	"towline/config"
	"towline/launcher/remote"
)

func TestAStreamOutlivesTheConnection(t *testing.T) {
	w := newWorld(t)
	s := w.connect(w.config())
	st := dialStream(t, s)
	send(t, st, "0")
	if got := receive(t, st); got != "echo 0" {
		t.Fatalf("got %q", got)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		for i := 1; i <= 200; i++ {
			m, err := st.Read(ctx)
			if err != nil || string(m) != fmt.Sprintf("echo %d", i) {
				t.Errorf("message %d is %q, %v", i, m, err)
				return
			}
		}
	})
	for i := 1; i <= 200; i++ {
		if i%40 == 0 {
			w.cutAndWait(s) // while answers are on their way
		}
		send(t, st, fmt.Sprint(i))
	}
	wg.Wait()
	if len(w.agents) != 1 {
		t.Errorf("the app-server saw %d clients", len(w.agents))
	}
	if w.dials() != 6 || w.asks.asked != 0 || w.probes != 1 {
		t.Errorf("%d connections, %d questions, %d probes", w.dials(), w.asks.asked, w.probes)
	}
	if h, ok := st.(interface {
		State() rpc.LinkState
		Changed() <-chan struct{}
		Retry()
	}); !ok || h.State().Attempt > 1 {
		t.Errorf("the stream does not say how its link is: %v", ok)
	}
}

// A bridge's first client may come long after the bridge. What Connect opened is
// dead by then: the host heard nothing on it, or the link was cut.
func TestTheFirstStreamMayBeAskedForLate(t *testing.T) {
	for _, plain := range []bool{false, true} {
		for name, ruin := range map[string]func(w *world, s *Session){
			"too late": func(_ *world, s *Session) { s.firstAt = s.firstAt.Add(-time.Hour) },
			"the link was cut": func(w *world, s *Session) {
				w.newest().cut(errors.New("connection reset"))
				<-s.firstOn.Done()
			},
			"the host gave up on it": func(_ *world, s *Session) {
				if s.opened.Resumable { // nothing shows that of a plain one
					_ = s.first.Close(nil)
				}
			},
		} {
			t.Run(fmt.Sprintf("%s, plain %v", name, plain), func(t *testing.T) {
				w := newWorld(t)
				w.plain = plain
				s := w.connect(w.config())
				ruin(w, s)
				st := dialStream(t, s)
				send(t, st, "0")
				if got := receive(t, st); got != "echo 0" {
					t.Errorf("got %q", got)
				}
			})
		}
	}
}

func TestStreamsThatComeBackShareOneConnection(t *testing.T) {
	w := newWorld(t)
	s := w.connect(w.config())
	var all []rpc.Stream
	for range 8 {
		all = append(all, dialStream(t, s))
	}
	if w.dials() != 1 {
		t.Fatalf("%d connections for 8 streams", w.dials())
	}
	w.mu.Lock()
	w.reach = make(chan struct{})
	w.mu.Unlock()
	w.newest().cut(errors.New("connection reset"))
	for i, st := range all {
		waitFor(t, st, func(ls rpc.LinkState) bool { return !ls.Up })
		send(t, st, fmt.Sprint(i)) // waits in the stream
	}
	if s.State().Up {
		t.Error("a link that is cut is called up")
	}
	close(w.reach)
	for i, st := range all {
		if got := receive(t, st); got != fmt.Sprintf("echo %d", i) {
			t.Errorf("stream %d got %q", i, got)
		}
	}
	if w.dials() != 2 {
		t.Errorf("%d connections were made", w.dials())
	}
	waitUp(t, s)
}

// waitFor waits until a stream's link is as ok says.
func waitFor(t *testing.T, st rpc.Stream, ok func(rpc.LinkState) bool) {
	t.Helper()
	h := st.(healing)
	end := time.After(patience)
	for {
		ch := h.Changed()
		if ok(h.State()) {
			return
		}
		select {
		case <-ch:
		case <-end:
			t.Fatalf("it stays %+v", h.State())
		}
	}
}

func waitUp(t *testing.T, s *Session) {
	t.Helper()
	end := time.After(patience)
	for {
		ch := s.Changed()
		if st := s.State(); st.Up && st.Doing == "" {
			return
		}
		select {
		case <-ch:
		case <-end:
			t.Fatalf("never up again: %+v", s.State())
		}
	}
}

func TestWithAStockCodexTheStreamEndsAndTheNextIsFresh(t *testing.T) {
	w := newWorld(t)
	w.plain = true
	w.choice.Candidate.Kind = "codex"
	s := w.connect(w.config())
	st := dialStream(t, s)
	send(t, st, "1")
	if got := receive(t, st); got != "echo 1" {
		t.Fatalf("got %q", got)
	}
	if _, heals := st.(interface{ State() rpc.LinkState }); heals {
		t.Error("a stream that ends with its link claims to heal")
	}
	w.newest().cut(errors.New("connection reset"))
	if _, err := st.Read(t.Context()); err == nil {
		t.Error("the stream goes on after its link")
	}
	_ = st.Close(nil)
	again := dialStream(t, s)
	send(t, again, "2")
	if got := receive(t, again); got != "echo 2" || w.dials() != 2 {
		t.Errorf("got %q over %d connections", got, w.dials())
	}
}

// After sleep the peer may be gone without a word: waiting for the keepalive, or
// for a login shell that never answers, takes most of a minute.
func TestAConnectionThatFellSilentIsReplaced(t *testing.T) {
	w := newWorld(t)
	s := w.connect(w.config())
	st := dialStream(t, s)
	first := w.newest()
	first.silent.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	s.check(ctx)
	w.waitDials(s, 2)
	send(t, st, "hello")
	if got := receive(t, st); got != "echo hello" || w.dials() != 2 {
		t.Errorf("got %q over %d connections", got, w.dials())
	}
}

func TestAHostThatRefusesIsTriedSlowly(t *testing.T) {
	w := newWorld(t)
	s := w.connect(w.config())
	st := dialStream(t, s)
	w.setFailure("dial", &config.Problem{Stage: remote.StageHostKey, Err: errors.New("the host key changed"), Hints: []string{"run `ssh-keygen -R dev`"}})
	w.newest().cut(errors.New("connection reset"))
	_, _, err := s.link(t.Context())
	p := problemOf(t, err)
	if !errors.Is(err, rpc.ErrRefused) || p.Stage != remote.StageHostKey || !strings.Contains(strings.Join(config.Hints(p), ""), "ssh-keygen -R dev") {
		t.Errorf("got %v, hints %q", err, config.Hints(err))
	}
	waitFor(t, st, func(ls rpc.LinkState) bool { return !ls.NextTry.IsZero() })
	w.setFailure("dial", nil)
	send(t, st, "1")
	s.Retry() // a person pressed r
	if got := receive(t, st); got != "echo 1" {
		t.Errorf("got %q", got)
	}
}

func TestAHostThatChangedMeanwhileIsLookedAtAgain(t *testing.T) {
	w := newWorld(t)
	s := w.connect(w.config())
	st := dialStream(t, s)
	w.mu.Lock()
	w.stale = 1
	w.mu.Unlock()
	w.cutAndWait(s)
	send(t, st, "1")
	if got := receive(t, st); got != "echo 1" || w.probes != 2 {
		t.Errorf("got %q after %d probes", got, w.probes)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	w := newWorld(t)
	s := w.connect(w.config())
	one, two := dialStream(t, s), dialStream(t, s)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, st := range []rpc.Stream{one, two} {
		if _, err := st.Read(t.Context()); !errors.Is(err, rpc.ErrClosed) && !errors.Is(err, io.EOF) {
			t.Errorf("read after the end: %v", err)
		}
	}
	if _, err := s.Dial(t.Context()); err == nil {
		t.Error("a closed session dials")
	}
	if w.newest().Err() == nil {
		t.Error("the connection is still there")
	}
	_ = s.Close()
}

func TestReconnectsTellTheirSteps(t *testing.T) {
	w := newWorld(t)
	s := w.connect(w.config())
	st := dialStream(t, s)
	before := len(w.stages())
	w.cutAndWait(s)
	send(t, st, "1")
	_ = receive(t, st)
	want := []string{remote.StageDial, remote.StageHostKey, remote.StageAuth, remote.StageStart, remote.StageHandshake}
	if diff := cmp.Diff(want, w.stages()[before:]); diff != "" {
		t.Errorf("steps of a reconnect:\n%s", diff)
	}
}
