package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRedialSlowsDownAndNeverEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Time
		fault := errors.New("no route to host")
		r := NewResumable(ResumeOptions{Dial: func(context.Context) (Stream, error) {
			tries = append(tries, time.Now())
			return nil, fault
		}})
		r.world.addrs = func() string { return "" }
		defer r.Close(nil)
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if _, err := r.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("gave up: %v", err)
		}
		synctest.Wait()
		for i := range tries[1:] {
			d := tries[i+1].Sub(tries[i])
			want := min(firstDelay<<min(i, 20), maxDelay)
			if d < want*3/4 || d > min(want*5/4, maxDelay) {
				t.Errorf("try %d came after %v, want about %v", i+2, d, want)
			}
		}
		st := r.State()
		if st.Up || st.Attempt != len(tries) || !errors.Is(st.Err, fault) || !st.NextTry.After(time.Now()) {
			t.Errorf("%+v after %d tries", st, len(tries))
		}
	})
}

func TestWhatOnlyAPersonCanMendIsTriedSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		denied := fmt.Errorf("authenticate: %w: permission denied (publickey)", ErrRefused)
		r := NewResumable(ResumeOptions{Dial: func(context.Context) (Stream, error) {
			tries.Add(1)
			return nil, denied
		}})
		r.world.addrs = func() string { return "" }
		defer r.Close(nil)
		r.start()
		time.Sleep(10*time.Minute + 30*time.Second)
		if n := tries.Load(); n > 11 {
			t.Errorf("%d tries in ten minutes", n)
		}
		if err := r.State().Err; err != denied {
			t.Errorf("State says %v", err)
		}
		n := tries.Load()
		r.Retry()
		synctest.Wait()
		if tries.Load() != n+1 {
			t.Error("Retry did not try")
		}
	})
}

func TestRetryDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, echoStream)
		g.fault = errors.New("no network")
		r := g.client(ResumeOptions{})
		r.start()
		time.Sleep(20 * time.Minute)
		g.set(func() { g.fault = nil })
		if r.State().NextTry.IsZero() {
			t.Fatal("no try is planned")
		}
		r.Retry()
		synctest.Wait()
		if st := r.State(); !st.Up || st.Attempt != 0 || st.Err != nil {
			t.Errorf("%+v", st)
		}
	})
}

// A try that hangs, as one begun before the lid was closed does, is replaced.
func TestRetryReplacesATryThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, echoStream)
		hang := true
		tries := 0
		r := NewResumable(ResumeOptions{Dial: func(ctx context.Context) (Stream, error) {
			if tries++; hang {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return g.dial(ctx)
		}})
		r.world.addrs = func() string { return "" }
		defer r.Close(nil)
		r.start()
		time.Sleep(time.Second)
		r.Retry()
		synctest.Wait()
		if tries != 1 {
			t.Error("a young try was replaced")
		}
		time.Sleep(stuckDial)
		hang = false
		r.Retry()
		synctest.Wait()
		if st := r.State(); !st.Up {
			t.Errorf("%+v", st)
		}
	})
}

func TestWakingUpTriesAtOnce(t *testing.T) {
	for name, change := range map[string]func(*atomic.Int64, *atomic.Value){
		"sleep":       func(slept *atomic.Int64, _ *atomic.Value) { slept.Add(int64(8 * time.Hour)) },
		"new network": func(_ *atomic.Int64, net *atomic.Value) { net.Store("10.0.0.2/24") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var slept atomic.Int64
				var network atomic.Value
				network.Store("192.168.1.7/24")
				g := newRig(t, SessionsConfig{}, echoStream)
				r := g.client(ResumeOptions{})
				r.world = world{
					wall:  func() time.Time { return time.Now().Round(0).Add(time.Duration(slept.Load())) },
					addrs: func() string { return network.Load().(string) },
				}
				if err := r.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				// Down, and waiting for long.
				g.set(func() { g.fault = errors.New("no network") })
				g.drop()
				time.Sleep(20 * time.Minute)
				g.set(func() { g.fault = nil })
				change(&slept, &network)
				began := time.Now()
				for !r.State().Up {
					<-r.Changed()
				}
				if d := time.Since(began); d > lookEvery {
					t.Errorf("up again after %v", d)
				}
				// Up, as it seems: a link that died meanwhile is found out at once.
				network.Store("172.16.0.9/16")
				time.Sleep(time.Minute)
				if n := g.dials.Load(); !r.State().Up {
					t.Errorf("a healthy link was given up; %d links", n)
				}
			})
		})
	}
}

func TestWakingUpFindsADeadLinkSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, echoStream)
		var st *stalled
		r := NewResumable(ResumeOptions{Dial: func(ctx context.Context) (Stream, error) {
			s, err := g.dial(ctx)
			st = &stalled{Stream: s}
			return st, err
		}})
		r.world.addrs = func() string { return "" }
		defer r.Close(nil)
		if err := r.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		st.stalled.Store(true)
		began := time.Now()
		r.Retry()
		time.Sleep(time.Second)
		r.Retry() // asking again does not put it off
		<-r.Changed()
		if d := time.Since(began); d != probeTime {
			t.Errorf("noticed after %v", d)
		}
	})
}

func TestConnectTellsTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, echoStream)
		g.fault = errors.New("connection refused")
		r := g.client(ResumeOptions{})
		if err := r.Connect(t.Context()); err != g.fault {
			t.Errorf("%v", err)
		}
		if _, err := r.Read(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Read: %v", err)
		}
		hanging := NewResumable(ResumeOptions{Dial: func(ctx context.Context) (Stream, error) { <-ctx.Done(); return nil, ctx.Err() }})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := hanging.Connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		// A server that does not speak the protocol.
		mute := NewResumable(ResumeOptions{Dial: func(context.Context) (Stream, error) { a, _ := Pipe(1); return a, nil }})
		if err := mute.Connect(t.Context()); !errors.Is(err, errSilent) {
			t.Errorf("%v", err)
		}
	})
}

func TestFirstLinkIsUsedBeforeDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, echoStream)
		first, _ := g.dial(t.Context())
		r := g.client(ResumeOptions{First: first})
		if err := r.Connect(t.Context()); err != nil || g.dials.Load() != 1 {
			t.Errorf("%v, %d links", err, g.dials.Load())
		}
		unused, far := Pipe(1)
		_ = NewResumable(ResumeOptions{First: unused}).Close(nil)
		if _, err := far.Read(t.Context()); err == nil {
			t.Error("the link of a stream that never began is left open")
		}
	})
}

// The words of somebody who presses a key and leaves arrive.
func TestCloseLetsWhatWasWrittenArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan string, 100)
		g := newRig(t, SessionsConfig{}, func(ctx context.Context, s Stream) {
			defer close(got)
			for {
				b, err := s.Read(ctx)
				if err != nil {
					return
				}
				got <- string(b)
			}
		})
		r := g.client(ResumeOptions{})
		if err := r.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			if err := r.Write(t.Context(), []byte(message("up", i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(nil); err != nil {
			t.Errorf("Close: %v", err)
		}
		i := 0
		for m := range got {
			if m != message("up", i) {
				t.Fatalf("message %d is %.40q", i, m)
			}
			i++
		}
		if i != 50 {
			t.Errorf("%d messages arrived", i)
		}
		synctest.Wait()
		if len(g.sessions.byKey) != 0 {
			t.Error("the session is still kept")
		}
	})
}

// What was said and may not have been heard is never lost without a word.
func TestWhatWasNotHeardIsHandedBack(t *testing.T) {
	long := strings.Repeat("long ", pieceBytes/2)
	connect := func(t *testing.T, accept func(context.Context, Stream)) (*rig, *Resumable) {
		g := newRig(t, SessionsConfig{}, accept)
		r := g.client(ResumeOptions{})
		if err := r.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		return g, r
	}
	write := func(t *testing.T, r *Resumable, msgs ...string) {
		for _, m := range msgs {
			if err := r.Write(t.Context(), []byte(m)); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(t *testing.T, err error, unsure, unsent []string) {
		t.Helper()
		var lost *LostError
		if !errors.As(err, &lost) || !errors.Is(err, ErrLost) {
			t.Fatalf("%v", err)
		}
		same := func(got [][]byte, want []string) bool {
			if len(got) != len(want) {
				return false
			}
			for i := range got {
				if string(got[i]) != want[i] {
					return false
				}
			}
			return true
		}
		if !same(lost.Unsure, unsure) || !same(lost.Unsent, unsent) {
			t.Errorf("%d unsure, %d unsent; want %d and %d", len(lost.Unsure), len(lost.Unsent), len(unsure), len(unsent))
		}
	}
	mute := func(ctx context.Context, s Stream) { <-ctx.Done() }

	t.Run("closed while away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, r := connect(t, echoStream)
			write(t, r, "heard")
			time.Sleep(time.Second)
			g.set(func() { g.fault = errors.New("no network") })
			g.drop()
			synctest.Wait()
			write(t, r, "approve", long)
			began := time.Now()
			err := r.Close(nil)
			check(t, err, nil, []string{"approve", long})
			if d := time.Since(began); d != 0 {
				t.Errorf("Close waited %v for a link that is not there", d)
			}
			check(t, r.Close(nil), nil, []string{"approve", long}) // each time
		})
	})
	t.Run("session gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, r := connect(t, mute)
			write(t, r, "sent")
			time.Sleep(time.Second)
			g.set(func() { g.fault = errors.New("no network") })
			g.drop()
			synctest.Wait()
			write(t, r, "kept")
			time.Sleep(2 * time.Hour)
			g.set(func() { g.fault = nil })
			_, err := r.Read(t.Context())
			check(t, err, []string{"sent"}, []string{"kept"})
			check(t, r.Write(t.Context(), []byte("more")), []string{"sent"}, []string{"kept"})
			check(t, r.Close(nil), []string{"sent"}, []string{"kept"})
		})
	})
	t.Run("server left unread", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			leave := make(chan struct{})
			_, r := connect(t, func(context.Context, Stream) { <-leave })
			write(t, r, "approve")
			time.Sleep(time.Second)
			close(leave)
			if _, err := r.Read(t.Context()); err == nil || errors.Is(err, ErrLost) {
				t.Errorf("Read: %v", err)
			}
			check(t, r.Close(nil), []string{"approve"}, nil)
		})
	})
	t.Run("link dead and not yet noticed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, SessionsConfig{}, mute)
			var st *stalled
			r := NewResumable(ResumeOptions{Dial: func(ctx context.Context) (Stream, error) {
				s, err := g.dial(ctx)
				st = &stalled{Stream: s}
				return st, err
			}})
			r.world.addrs = func() string { return "" }
			if err := r.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			st.stalled.Store(true)
			write(t, r, "approve")
			began := time.Now()
			check(t, r.Close(nil), []string{"approve"}, nil)
			if d := time.Since(began); d != closeTime {
				t.Errorf("Close took %v", d)
			}
			g.drop()
		})
	})
}

// A client whose room is full waits; nothing is dropped.
func TestFullClientWaitsForTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, echoStream)
		r := g.client(ResumeOptions{BufferMessages: 4})
		g.fault = errors.New("no network")
		wrote := 0
		done := make(chan struct{})
		go func() { defer close(done); sendAll(t, &tally{r, &wrote}, "up", 200) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if wrote != 4 {
			t.Errorf("%d written without a link", wrote)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Write(ctx, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Write: %v", err)
		}
		g.set(func() { g.fault = nil })
		r.Retry()
		readAll(t, r, "up", 200)
		<-done
	})
}

type tally struct {
	Stream
	n *int
}

func (c *tally) Write(ctx context.Context, b []byte) error {
	err := c.Stream.Write(ctx, b)
	if err == nil {
		*c.n++
	}
	return err
}

func TestLinkThatCarriesNothingIsNotTriedInALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, SessionsConfig{}, echoStream)
		g.limits = func(int) (int64, int64) { return -1, 15 } // a welcome and no more
		r := g.client(ResumeOptions{})
		if err := r.Write(t.Context(), []byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if n := g.dials.Load(); n > 500 || n < 100 {
			t.Errorf("%d links in ten minutes", n)
		}
		g.set(func() { g.limits = nil })
		if b, err := r.Read(t.Context()); string(b) != "x" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func TestResumeTakesOneRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const trip = 100 * time.Millisecond // there and back
		g := newRig(t, SessionsConfig{}, func(ctx context.Context, s Stream) {
			for i := 0; ; i++ {
				time.Sleep(time.Minute)
				if s.Write(ctx, fmt.Append(nil, i)) != nil {
					return
				}
			}
		})
		r := NewResumable(ResumeOptions{Dial: func(ctx context.Context) (Stream, error) {
			s, err := g.dial(ctx)
			return &distant{s, trip}, err
		}})
		r.world.addrs = func() string { return "" }
		defer r.Close(nil)
		if err := r.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.set(func() { g.fault = errors.New("no network") })
		g.drop()
		time.Sleep(2 * time.Minute) // something to replay
		g.set(func() { g.fault = nil })
		began := time.Now()
		r.Retry()
		if b, err := r.Read(t.Context()); string(b) != "0" || time.Since(began) != trip {
			t.Errorf("%q, %v after %v", b, err, time.Since(began))
		}
	})
}

// distant is a link whose answers take time; what follows one comes right
// behind it.
type distant struct {
	Stream
	trip time.Duration
}

func (d *distant) Read(ctx context.Context) ([]byte, error) {
	b, err := d.Stream.Read(ctx)
	time.Sleep(d.trip)
	d.trip = 0
	return b, err
}
