package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// echo answers every message with itself.
func echoStream(ctx context.Context, s Stream) {
	for {
		b, err := s.Read(ctx)
		if err != nil || s.Write(ctx, b) != nil {
			return
		}
	}
}

// hand speaks the wire format by hand.
type hand struct {
	t *testing.T
	s Stream
}

func (g *rig) hand() hand {
	g.t.Helper()
	s, err := g.dial(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	return hand{g.t, s}
}

func (h hand) say(frames ...string) hand {
	h.t.Helper()
	for _, f := range frames {
		if err := h.s.Write(h.t.Context(), []byte(f)); err != nil {
			h.t.Fatalf("say %q: %v", f, err)
		}
	}
	return h
}

// hear wants these frames next.
func (h hand) hear(frames ...string) hand {
	h.t.Helper()
	for _, want := range frames {
		got, err := h.s.Read(h.t.Context())
		if err != nil || string(got) != want {
			h.t.Fatalf("heard %.200q, %v; want %q", got, err, want)
		}
	}
	return h
}

// gone wants the link to end.
func (h hand) gone() {
	h.t.Helper()
	if got, err := h.s.Read(h.t.Context()); err == nil {
		h.t.Errorf("heard %.200q, want the end of the link", got)
	}
}

const (
	idA, idB = "000102030405060708090a0b0c0d0e0f", "100102030405060708090a0b0c0d0e0f"
	secretA  = "ffffffffffffffffffffffffffffff00"
	secretB  = "ffffffffffffffffffffffffffffff01"
	opening  = "o " + idA + " " + secretA + " 0"
	resuming = "r " + idA + " " + secretA + " "
	unknown  = "e lost 0 this host does not know it any more"
)

func TestWireFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, echoStream)
		g.hand().say(opening).hear("w 0 0").say("m 1 0 one").hear("m 1 1 one").say("p").hear("q").
			say("a 1", "m 2 1 two").hear("m 2 2 two", "p", "p").gone() // after 45 s of silence
		// What was sent and not received comes again, once.
		g.hand().say(resuming+"1 1").hear("w 2 2", "m 2 2 two").say("m 3 2 three").hear("m 3 3 three").
			say("e closed 3").hear("e closed 3").gone()
		// It is over.
		g.hand().say(resuming + "3 3").hear(unknown).gone()
	})
}

func TestTakenIsToldSoonOrWithAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, func(ctx context.Context, s Stream) {
			for {
				b, err := s.Read(ctx)
				if err != nil {
					return
				}
				if string(b) == "answer" {
					_ = s.Write(ctx, []byte("yes"))
				}
			}
		})
		h := g.hand().say(opening).hear("w 0 0")
		began := time.Now()
		h.say("m 1 0 x", "m 2 0 x").hear("a 2")
		if d := time.Since(began); d != ackDelay {
			t.Errorf("told after %v", d)
		}
		h.say("m 3 0 answer").hear("m 1 3 yes")
		for i := range ackMessages {
			h.say(fmt.Sprintf("m %d 1 x", 4+i))
		}
		began = time.Now()
		h.hear(fmt.Sprintf("a %d", 3+ackMessages))
		if d := time.Since(began); d != 0 {
			t.Errorf("many were told after %v", d)
		}
		_ = h.s.Close(nil)
	})
}

func TestOnlyItsOwnerFindsASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, echoStream)
		h := g.hand().say(opening).hear("w 0 0")
		for name, tc := range map[string]struct{ owner, hello string }{
			"another secret":              {"ana/admin", "r " + idA + " " + secretB + " 0 0"},
			"another secret, opening":     {"ana/admin", "o " + idA + " " + secretB + " 0"},
			"another owner":               {"bob/admin", resuming + "0 0"},
			"the same with another role":  {"ana/observer", resuming + "0 0"},
			"one that never was":          {"ana/admin", "r " + idB + " " + secretA + " 0 0"},
			"an owner that is a prefix":   {"ana/", resuming + "0 0"},
			"nobody, with the right keys": {"", resuming + "0 0"},
		} {
			g.owner = tc.owner
			g.hand().say(tc.hello).hear(unknown).gone()
			_ = name
		}
		// Another owner may have a session of that very name.
		g.owner = "bob/admin"
		g.hand().say(opening).hear("w 0 0").say("m 1 0 bob").hear("m 1 1 bob").say("e closed 1").hear("e closed 1")
		// None of this disturbed the first.
		h.say("m 1 0 ana").hear("m 1 1 ana").say("e closed 1").hear("e closed 1")
	})
}

func TestNewLinkEndsTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, echoStream)
		old := g.hand().say(opening).hear("w 0 0").say("m 1 0 one").hear("m 1 1 one")
		h := g.hand().say(resuming+"0 0").hear("w 1 1", "m 1 1 one")
		old.gone()
		h.say("m 2 1 two").hear("m 2 2 two").say("e closed 2").hear("e closed 2")
	})
}

func TestBrokenRulesEndTheSession(t *testing.T) {
	for name, frames := range map[string][]string{
		"a gap":                         {"m 2 0 x"},
		"a number again":                {"m 1 0 x", "m 1 0 x"},
		"taken before it was sent":      {"a 7"},
		"no frame":                      {"hello"},
		"nothing":                       {""},
		"a second opening":              {opening},
		"a number that is none":         {"m 01 0 x"},
		"more in pieces than a message": append(pieces(MaxMessage/pieceBytes+1), "m 1 0 "),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan error, 1)
				g := newRig(t, SessionsConfig{}, func(ctx context.Context, s Stream) {
					for {
						if _, err := s.Read(ctx); err != nil {
							ended <- err
							return
						}
					}
				})
				h := g.hand().say(opening).hear("w 0 0")
				go func() {
					for _, f := range frames {
						_ = h.s.Write(t.Context(), []byte(f))
					}
				}()
				for {
					b, err := h.s.Read(t.Context())
					if err != nil {
						t.Fatalf("not told: %v", err)
					}
					if strings.HasPrefix(string(b), "e lost ") {
						break
					}
				}
				h.gone()
				if err := <-ended; !errors.Is(err, ErrLost) {
					t.Errorf("the application reads %v", err)
				}
				g.hand().say(resuming + "0 0").hear(unknown).gone()
			})
		})
	}
	for name, hello := range map[string]string{"an answer": "w 0 0", "no hello": "m 1 0 x", "nonsense": "GET / HTTP/1.1"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, SessionsConfig{}, echoStream)
				g.hand().say(hello).gone()
			})
		})
	}
	t.Run("silence instead of a hello", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, SessionsConfig{}, echoStream)
			began := time.Now()
			g.hand().gone()
			if d := time.Since(began); d != helloTime {
				t.Errorf("given up after %v", d)
			}
		})
	})
	t.Run("claims to have received what was not sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, SessionsConfig{}, echoStream)
			h := g.hand().say(opening).hear("w 0 0")
			_ = h.s.Close(nil)
			g.hand().say(resuming + "5 0").hear("e lost 0 " + errViolation.Error()).gone()
		})
	})
}

func pieces(n int) (out []string) {
	b := strings.Repeat("x", pieceBytes)
	for i := range n {
		out = append(out, fmt.Sprintf("c %d 0 %s", i+1, b))
	}
	return out
}

func TestAbsenceHasALimit(t *testing.T) {
	for name, tc := range map[string]struct {
		keep  string
		cfg   SessionsConfig
		after time.Duration
	}{
		"by default":     {"0", SessionsConfig{}, time.Hour},
		"as configured":  {"0", SessionsConfig{Away: time.Minute}, time.Minute},
		"as asked for":   {"7200", SessionsConfig{}, 2 * time.Hour},
		"but not longer": {"99999999999", SessionsConfig{}, 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ended time.Time
				done := make(chan struct{})
				g := newRig(t, tc.cfg, func(ctx context.Context, s Stream) {
					_, err := s.Read(ctx)
					if ended = time.Now(); !errors.Is(err, ErrLost) {
						t.Errorf("read %v", err)
					}
					close(done)
				})
				h := g.hand().say("o " + idA + " " + secretA + " " + tc.keep).hear("w 0 0")
				_ = h.s.Close(nil)
				synctest.Wait()
				time.Sleep(tc.after - time.Second)
				h = g.hand().say(resuming + "0 0").hear("w 0 0") // it counts from the last link's end
				_ = h.s.Close(nil)
				synctest.Wait()
				began := time.Now()
				<-done
				if d := ended.Sub(began); d != tc.after {
					t.Errorf("ended after %v, want %v", d, tc.after)
				}
				g.hand().say(resuming + "0 0").hear(unknown).gone()
			})
		})
	}
}

func TestSessionWithALinkDoesNotExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{Away: time.Minute}, echoStream)
		r := g.client(ResumeOptions{})
		if err := r.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.drop()
		time.Sleep(3 * time.Hour)
		if err := r.Write(t.Context(), []byte("x")); err != nil {
			t.Fatal(err)
		}
		if b, err := r.Read(t.Context()); string(b) != "x" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func TestTooMuchForAnAbsentClientLosesTheSession(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg SessionsConfig
		fit int // of 1000 bytes
	}{
		"bytes":             {SessionsConfig{BufferBytes: 10 * (1000 + keepOverhead)}, 10},
		"messages":          {SessionsConfig{BufferMessages: 5}, 5},
		"all of an owner's": {SessionsConfig{OwnerBytes: 7 * (1000 + keepOverhead)}, 7},
		"all there are":     {SessionsConfig{TotalBytes: 3 * (1000 + keepOverhead)}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				go1, wrote := make(chan struct{}), make(chan int, 1)
				g := newRig(t, tc.cfg, func(ctx context.Context, s Stream) {
					<-go1
					for n := 0; ; n++ {
						if err := s.Write(ctx, make([]byte, 1000)); err != nil {
							if !errors.Is(err, ErrLost) {
								t.Errorf("write: %v", err)
							}
							wrote <- n
							return
						}
					}
				})
				r := g.client(ResumeOptions{})
				if err := r.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				g.set(func() { g.fault = errors.New("no network") })
				g.drop()
				synctest.Wait()
				close(go1)
				if n := <-wrote; n != tc.fit {
					t.Errorf("%d messages were kept, want %d", n, tc.fit)
				}
				g.set(func() { g.fault = nil })
				if _, err := r.Read(t.Context()); !errors.Is(err, ErrLost) {
					t.Errorf("the client reads %v", err)
				}
				if held := g.sessions.total.Load(); held != 0 {
					t.Errorf("%d bytes are still counted", held)
				}
			})
		})
	}
}

func TestNumberOfSessionsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{PerOwner: 2, Total: 3}, echoStream)
		open := func(id string) hand { return g.hand().say("o " + id + " " + secretA + " 0") }
		id := func(i int) string { return fmt.Sprintf("%032x", i) }
		first := open(id(1)).hear("w 0 0")
		_ = first.s.Close(nil)
		time.Sleep(time.Second)
		open(id(2)).hear("w 0 0")
		// The absent one makes room; one with a link does not.
		open(id(3)).hear("w 0 0")
		g.hand().say("r " + id(1) + " " + secretA + " 0 0").hear(unknown).gone()
		open(id(4)).hear("e busy 0 there are too many sessions here").gone()
		// Another owner has room until there are too many in all.
		g.owner = "bob/admin"
		open(id(5)).hear("w 0 0")
		open(id(6)).hear("e busy 0 there are too many sessions here").gone()
	})
}

func TestServerEndReachesAClientThatWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		g := newRig(t, SessionsConfig{}, func(ctx context.Context, s Stream) {
			<-end
			_ = s.Write(ctx, []byte("last words"))
		})
		r := g.client(ResumeOptions{})
		if err := r.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.set(func() { g.fault = errors.New("no network") })
		g.drop()
		synctest.Wait()
		close(end)
		synctest.Wait()
		g.set(func() { g.fault = nil })
		if b, err := r.Read(t.Context()); string(b) != "last words" {
			t.Errorf("%q, %v", b, err)
		}
		if _, err := r.Read(t.Context()); err != io.EOF {
			t.Errorf("%v", err)
		}
		synctest.Wait()
		if len(g.sessions.byKey) != 0 {
			t.Error("the session is still kept")
		}
	})
}

func TestSlowClientIsToldThatItLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, func(ctx context.Context, s Stream) { _ = s.Close(ErrSlow) })
		r := g.client(ResumeOptions{})
		_, err := r.Read(t.Context())
		if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "did not read") {
			t.Errorf("%v", err)
		}
	})
}

// A reader that does not read slows the writer down, and costs bounded memory;
// the link stays up meanwhile.
func TestUnreadMessagesHoldTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrote := 0
		g := newRig(t, SessionsConfig{BufferMessages: 40}, func(ctx context.Context, s Stream) {
			for ; wrote < 1000; wrote++ {
				if s.Write(ctx, []byte("x")) != nil {
					return
				}
			}
		})
		r := g.client(ResumeOptions{})
		if err := r.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if wrote != 10 || !r.State().Up || g.dials.Load() != 1 {
			t.Errorf("%d messages written, %+v, %d links", wrote, r.State(), g.dials.Load())
		}
		for range 1000 {
			if _, err := r.Read(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Read(t.Context()); err != io.EOF {
			t.Errorf("%v", err)
		}
	})
}

// When a server stops, clients with a link hear the last words; sessions without
// one hold nothing up.
func TestStoppingSaysGoodbyeAndWaitsForNobodyAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, func(ctx context.Context, s Stream) {
			<-ctx.Done()
			_ = s.Write(context.WithoutCancel(ctx), []byte("goodbye"))
		})
		here, away := g.client(ResumeOptions{}), g.client(ResumeOptions{})
		if err := errors.Join(away.Connect(t.Context()), func() error { g.drop(); synctest.Wait(); return here.Connect(t.Context()) }()); err != nil {
			t.Fatal(err)
		}
		g.set(func() { g.fault = errors.New("stopped") })
		synctest.Wait()
		began := time.Now()
		g.close()
		if d := time.Since(began); d > closeTime {
			t.Errorf("stopping took %v", d)
		}
		if b, err := here.Read(t.Context()); string(b) != "goodbye" {
			t.Errorf("%q, %v", b, err)
		}
		if _, err := here.Read(t.Context()); err != io.EOF {
			t.Errorf("%v", err)
		}
	})
}

// Whoever's link is taken away has said their last: what still comes on it
// counts no more, and what was said before is answered.
func TestNothingIsTakenFromALinkWhoseTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, echoStream)
		c, s, _ := wires(-1, -1)
		ctx, revoke := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.sessions.Serve(ctx, newFramed(s), "ana/admin", g.accept) }()
		h := hand{t, newFramed(c)}
		h.say(opening).hear("w 0 0").say("m 1 0 one").hear("m 1 1 one")
		began := time.Now()
		revoke()
		synctest.Wait()
		h.say("m 2 0 two").gone()
		if d := time.Since(began); d != closeTime {
			t.Errorf("the link ended after %v", d)
		}
		<-ended
		g.hand().say(resuming + "1 1").hear("w 1 1") // two never arrived
	})
}

// A key that is revoked takes its session along: what was sent ahead is not acted
// on, and nobody finds the session again.
func TestSecurityRevocationEndsTheSessionAndItsQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var read []string
		busy, over := make(chan struct{}), make(chan struct{})
		accept := func(ctx context.Context, s Stream) {
			defer close(over)
			for {
				b, err := s.Read(ctx)
				if err != nil {
					return
				}
				read = append(read, string(b))
				<-busy // a turn
			}
		}
		g := newRig(t, SessionsConfig{}, accept)
		c, s, _ := wires(-1, -1)
		ctx, revoke := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.sessions.Serve(ctx, newFramed(s), "ana/admin", g.accept) }()
		h := hand{t, newFramed(c)}
		h.say(opening).hear("w 0 0").say("m 1 0 one", "m 2 0 two", "m 3 0 three", "c 4 0 fo").hear("a 1")
		synctest.Wait()
		revoke(fmt.Errorf("the key is gone: %w", ErrExpelled))
		h.hear("e lost 1 access to this host was changed or removed").gone()
		<-ended
		close(busy)
		<-over
		if len(read) != 1 {
			t.Errorf("read %q after the revocation", read[1:])
		}
		g.accept = echoStream
		g.hand().say(resuming + "0 0").hear(unknown).gone()
	})
}

// Half a message that waits for its other half is held for an absent client as
// much as what waits to be sent to it.
func TestSecurityUnfinishedMessagesCountAgainstTheirOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{OwnerBytes: 1 << 20}, echoStream)
		id := func(i int) string { return fmt.Sprintf("%032x %032x", i, i) }
		kept := 0
		for i := range 8 {
			h := g.hand().say("o " + id(i) + " 0").hear("w 0 0")
			for n := range 3 {
				h.say(fmt.Sprintf("c %d 0 %s", n+1, strings.Repeat("x", pieceBytes)))
			}
			synctest.Wait()
			_ = h.s.Close(nil)
			synctest.Wait()
		}
		for i := range 8 {
			h := g.hand().say("r " + id(i) + " 0 0")
			if b, err := h.s.Read(t.Context()); err != nil {
				t.Error(err)
			} else if string(b) == "w 3 0" {
				kept++
				h.say("m 4 0 end").hear("c 1 4 " + strings.Repeat("x", pieceBytes)) // none the worse for it
			}
			_ = h.s.Close(nil)
			synctest.Wait()
		}
		if kept != 2 {
			t.Errorf("%d of 8 are kept, each with %d bytes, of at most %d", kept, 3*pieceBytes, 1<<20)
		}
		g.sessions.mu.Lock()
		defer g.sessions.mu.Unlock()
		for name, o := range g.sessions.owners {
			if n := o.bytes.Load(); n > 1<<20 || n < 0 {
				t.Errorf("%s is counted with %d bytes", name, n)
			}
		}
	})
}

func TestPanicEndsOneSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, func(ctx context.Context, s Stream) {
			if b, _ := s.Read(ctx); string(b) == "boom" {
				panic("boom")
			}
		})
		h := g.hand().say("o " + idB + " " + secretA + " 0").hear("w 0 0")
		g.hand().say(opening).hear("w 0 0").say("m 1 0 boom").hear("a 1", "e closed 1").say("e closed 0").gone()
		h.say("m 1 0 x").hear("a 1", "e closed 1")
	})
}
