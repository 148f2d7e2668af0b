package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/rpc"
	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 40 * time.Second

// wire is an SSH connection without the SSH: it can be cut, and gone silent.
type wire struct {
	done   chan struct{}
	once   sync.Once
	err    error
	silent atomic.Bool // answers nothing any more, and does not end
}

func newWire() *wire { return &wire{done: make(chan struct{})} }

func (w *wire) cut(err error) { w.once.Do(func() { w.err = err; close(w.done) }) }

func (w *wire) Exec(ctx context.Context, _ string, _ remote.ExecOptions) (remote.Process, error) {
	if w.silent.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, errors.New("this fake runs nothing")
}

func (w *wire) DialUnix(context.Context, string) (net.Conn, error) { return nil, io.EOF }
func (w *wire) DialTCP(context.Context, string) (net.Conn, error)  { return nil, io.EOF }
func (w *wire) Server() string                                     { return "SSH-2.0-fake" }
func (w *wire) Done() <-chan struct{}                              { return w.done }

func (w *wire) Err() error {
	select {
	case <-w.done:
		return w.err
	default:
		return nil
	}
}

func (w *wire) Close() error { w.cut(net.ErrClosed); return nil }

// world is a host and the way to it: the edge of the network is false, what is
// behind it (resumable streams, both halves) is real.
type world struct {
	t        *testing.T
	sessions *rpc.Sessions
	busy     bool // the daemon there is at work
	plain    bool // the host is a stock Codex: streams end with their link

	mu     sync.Mutex
	wires  []*wire
	fail   map[string]error // by part
	probes int
	stale  int // how many opens fail from here on
	opens  int
	answer func(m []byte) []byte // nil: the echo
	agents []rpc.Stream          // the far end of each stream that is new
	got    chan string           // what the far ends read
	choice bootstrap.Choice
	report bootstrap.Report
	events []remote.Event
	asks   person
	reach  chan struct{} // nil, or closed when the host can be reached
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, fail: make(map[string]error), got: make(chan string, 1000),
		report: bootstrap.Report{OS: "linux", Arch: "amd64", Home: "/home/ana", InstallDir: "/home/ana/.local/share/towline"},
		choice: bootstrap.Choice{Action: bootstrap.Join, Candidate: bootstrap.Candidate{Kind: bootstrap.Towline, Version: "1.2.3", Path: "/usr/bin/towline"}, Why: "towline 1.2.3 is running"},
	}
	w.sessions = rpc.NewSessions(rpc.SessionsConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.sessions.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

// accept is the host's app-server: it answers each message with its echo.
func (w *world) accept(ctx context.Context, s rpc.Stream) {
	w.mu.Lock()
	w.agents = append(w.agents, s)
	w.mu.Unlock()
	for {
		m, err := s.Read(ctx)
		if err != nil {
			return
		}
		w.got <- string(m)
		out := append([]byte("echo "), m...)
		if w.answer != nil {
			if out = w.answer(m); out == nil {
				continue
			}
		}
		if s.Write(ctx, out) != nil {
			return
		}
	}
}

func (w *world) failure(part string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fail[part]
}

func (w *world) setFailure(part string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail[part] = err
}

func (w *world) parts() parts {
	return parts{
		resolve: func(_ context.Context, _ sshconfig.Options, name string) (sshconfig.Target, error) {
			return sshconfig.Target{Alias: name, HostName: "192.0.2.7", User: "ana", Port: 22}, w.failure("resolve")
		},
		dial: func(ctx context.Context, d dialing) (remote.Conn, error) {
			w.mu.Lock()
			reach := w.reach
			w.mu.Unlock()
			if reach != nil {
				select {
				case <-reach:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			if err := w.failure("dial"); err != nil {
				return nil, err
			}
			for _, stage := range []string{remote.StageDial, remote.StageHostKey, remote.StageAuth} {
				d.events(remote.Event{Stage: stage})
				d.events(remote.Event{Stage: stage, Done: true})
			}
			c := newWire()
			w.mu.Lock()
			w.wires = append(w.wires, c)
			w.mu.Unlock()
			return c, nil
		},
		probe: func(_ context.Context, _ bootstrap.Remote, o bootstrap.Options) (bootstrap.Report, error) {
			w.mu.Lock()
			w.probes++
			w.mu.Unlock()
			if err := w.failure("probe"); err != nil {
				return bootstrap.Report{}, err
			}
			for _, stage := range []string{remote.StageShell, remote.StageProbe} {
				o.Events(remote.Event{Stage: stage, Done: true})
			}
			return w.report, nil
		},
		choose: func(bootstrap.Report, bootstrap.Options) (bootstrap.Choice, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.choice, w.fail["choose"]
		},
		install: func(_ context.Context, _ bootstrap.Remote, _ bootstrap.Report, b bootstrap.Build, progress func(done, total int64)) (bootstrap.Choice, error) {
			progress(b.Size/2, b.Size)
			progress(b.Size, b.Size)
			return bootstrap.Choice{Action: bootstrap.Start, Candidate: bootstrap.Candidate{Kind: bootstrap.Towline, Version: b.Version}, Why: "just installed"}, w.failure("install")
		},
		handOver: func(context.Context, bootstrap.Remote, bootstrap.Report, bootstrap.Choice) (bool, error) {
			err := w.failure("handOver")
			return err == nil && !w.busy, err
		},
		open: func(_ context.Context, r bootstrap.Remote, _ bootstrap.Report, ch bootstrap.Choice) (rpc.Stream, bootstrap.Opened, error) {
			w.mu.Lock()
			w.opens++
			err := w.fail["open"]
			if w.stale > 0 {
				w.stale--
				err = errors.New("no such file")
			}
			w.mu.Unlock()
			if err != nil {
				return nil, bootstrap.Opened{}, err
			}
			c := r.(*wire)
			select {
			case <-c.done:
				return nil, bootstrap.Opened{}, c.err
			default:
			}
			return w.link(c), bootstrap.Opened{Kind: ch.Candidate.Kind, Version: ch.Candidate.Version, Resumable: !w.plain}, nil
		},
	}
}

// link is a stream over c that ends when c does.
func (w *world) link(c *wire) rpc.Stream {
	near, far := rpc.Pipe(64)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		if w.plain {
			w.accept(ctx, far)
			_ = far.Close(nil)
			return
		}
		_ = w.sessions.Serve(ctx, far, "ana", w.accept)
	})
	wg.Go(func() {
		select {
		case <-c.done:
		case <-ctx.Done():
		}
		_ = near.Close(nil) // both ends at once, as a cut link does
		_ = far.Close(nil)
		cancel()
	})
	w.t.Cleanup(func() { c.cut(net.ErrClosed); wg.Wait() })
	return near
}

func (w *world) config() Config {
	return Config{
		Host: "dev", Version: "1.2.3", Ask: &w.asks, parts: w.parts(),
		Events: func(e remote.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
		Environ: func(string) string { return "" },
	}
}

func (w *world) connect(cfg Config) *Session {
	w.t.Helper()
	s, err := Connect(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	return s
}

// dials is how many connections were made; cut cuts the newest.
func (w *world) dials() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.wires)
}

func (w *world) newest() *wire {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wires[len(w.wires)-1]
}

// cutAndWait cuts the newest connection and waits for the next.
func (w *world) cutAndWait(s *Session) {
	w.t.Helper()
	n := w.dials()
	w.newest().cut(errors.New("connection reset"))
	w.waitDials(s, n+1)
}

// waitDials waits until that many connections were made and the last one is up.
func (w *world) waitDials(s *Session, n int) {
	w.t.Helper()
	end := time.After(patience)
	for w.dials() < n {
		select {
		case <-time.After(time.Millisecond): // it is told to nobody
		case <-end:
			w.t.Fatalf("no new connection: %+v", s.State())
		}
	}
	waitUp(w.t, s)
}

// stages is the end of each stage in order, "!" before one that failed.
func (w *world) stages() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, e := range w.events {
		switch {
		case e.Err != nil:
			out = append(out, "!"+e.Stage)
		case e.Done:
			out = append(out, e.Stage)
		}
	}
	return out
}

func send(t *testing.T, s rpc.Stream, m string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Write(ctx, []byte(m)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, s rpc.Stream) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(m)
}

func dialStream(t *testing.T, s *Session) rpc.Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	st, err := s.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func aBuild(goos, arch string) (bootstrap.Build, error) {
	if arch == "sparc" {
		return bootstrap.Build{}, &config.Problem{Stage: remote.StageInstall, Err: errors.New("there is no towline for sparc here"), Hints: []string{"build it: `make builds`"}}
	}
	return bootstrap.Build{Size: 100, Version: "1.2.3", OS: goos, Arch: arch, Open: func() (io.ReadCloser, error) { return nil, io.EOF }}, nil
}

func problemOf(t *testing.T, err error) *config.Problem {
	t.Helper()
	var p *config.Problem
	if !errors.As(err, &p) || error(p) != err {
		t.Fatalf("not a Problem: %v", err)
	}
	if !known(p.Stage) || len(config.Hints(p)) == 0 || config.ExitCode(p) == 0 {
		t.Errorf("a failure lacks a stage, a hint or a status: %#v", fmt.Sprintf("%+v", *p))
	}
	return p
}
