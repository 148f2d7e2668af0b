//go:build unix

package login

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/forward/sshfwd"
)

// patience bounds waits on what takes milliseconds.
const patience = 45 * time.Second

// port is a free one of the loopback.
func port(t testing.TB) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().(*net.TCPAddr).Port
}

// box is a host whose programs are functions of the test. Its loopback is a map:
// the ports here are the same machine's.
type box struct {
	t        testing.TB
	programs map[string]func(p *prog) int // by their arguments
	forbids  bool

	mu    sync.Mutex
	ports map[int]string // of its loopback, to real addresses
	ran   []string
	open  int // programs that have not been closed
}

func (b *box) DialTCP(ctx context.Context, addr string) (net.Conn, error) {
	_, p, _ := net.SplitHostPort(addr)
	var n int
	_, _ = fmt.Sscan(p, &n)
	b.mu.Lock()
	to := b.ports[n]
	b.mu.Unlock()
	if b.forbids || to == "" {
		return nil, errors.New("administratively prohibited")
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to)
}

func (b *box) Exec(context.Context, string) (sshfwd.Process, error) { return nil, sshfwd.ErrNoShell }

func (b *box) Run(_ context.Context, c Command) (sshfwd.Process, error) {
	name := c.Program.String() + " " + strings.Join(c.Args, " ")
	b.mu.Lock()
	f := b.programs[name]
	b.ran = append(b.ran, name)
	b.open++
	b.mu.Unlock()
	if f == nil {
		f = func(p *prog) int { p.say("error: unknown command\n"); return 2 }
	}
	p := &prog{b: b, over: make(chan struct{}), gone: make(chan struct{})}
	p.out, p.outW = io.Pipe()
	p.inR, p.in = io.Pipe()
	go func() { // ends with Close at the latest
		status := f(p)
		if status != 0 {
			p.err = fmt.Errorf("exit status %d", status)
		}
		close(p.over)
		_ = p.outW.Close()
	}()
	return p, nil
}

// prog is one of them.
type prog struct {
	b    *box
	out  *io.PipeReader
	outW *io.PipeWriter
	inR  *io.PipeReader
	in   *io.PipeWriter
	over chan struct{}
	gone chan struct{} // closed by Close
	once sync.Once
	err  error
}

func (p *prog) Stdin() io.WriteCloser { return p.in }
func (p *prog) Stdout() io.Reader     { return p.out }
func (p *prog) Stderr() io.Reader     { return strings.NewReader("") }
func (p *prog) Wait() error           { <-p.over; return p.err }
func (p *prog) Close() error {
	p.once.Do(func() {
		close(p.gone)
		_, _ = p.out.Close(), p.inR.Close()
		<-p.over
		p.b.mu.Lock()
		p.b.open--
		p.b.mu.Unlock()
	})
	return nil
}

func (p *prog) say(format string, args ...any) { _, _ = fmt.Fprintf(p.outW, format, args...) }

const state = "S-t_4te"

func pageOf(port int) string {
	return fmt.Sprintf("https://auth.example/oauth/authorize?redirect_uri=%s&state=%s", url.QueryEscape(fmt.Sprintf("http://127.0.0.1:%d/auth/callback", port)), state)
}

// codexLogin is a `codex login` that waits on a port of the box.
func (b *box) codexLogin(port int) func(p *prog) int {
	return func(p *prog) int {
		done := make(chan int, 1)
		mux := http.NewServeMux()
		mux.HandleFunc("/auth/callback", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("state") != state {
				http.Error(w, "State mismatch", http.StatusBadRequest)
				return
			}
			http.Redirect(w, r, fmt.Sprintf("http://localhost:%d/success?id_token=canary", port), http.StatusFound)
		})
		mux.HandleFunc("/cancel", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "Login cancelled")
			done <- 1
		})
		mux.HandleFunc("/success", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "all is well")
			select {
			case done <- 0:
			default:
			}
		})
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.t.Error(err)
			return 1
		}
		srv := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
		var wg sync.WaitGroup
		wg.Go(func() { _ = srv.Serve(ln) })
		defer wg.Wait()
		defer func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_ = srv.Shutdown(ctx)
		}()
		b.mu.Lock()
		b.ports[port] = ln.Addr().String()
		b.mu.Unlock()
		p.say("Starting local login server on http://localhost:%d.\n\n%s\n\n", port, pageOf(port))
		select {
		case status := <-done:
			p.say("%s\n", []string{"Successfully logged in", "Error logging in: Login cancelled"}[status])
			return status
		case <-p.gone:
			return 1
		}
	}
}

// codeLogin is a `codex login --device-auth` that is allowed as soon as its code was
// shown.
func codeLogin(p *prog) int {
	p.say("1. Open this link\n   https://auth.example/codex/device\n2. Enter this one-time code\n   ABCD-12345\nSuccessfully logged in\n")
	return 0
}

func statusOf(text string, status int) func(*prog) int {
	return func(p *prog) int { p.say("WARNING: x\n%s\n", text); return status }
}

// somebody is a Person of the test.
type somebody struct {
	mu     sync.Mutex
	told   []Event
	agrees bool
	absent bool
	pastes chan string
	page   chan Event
}

func newSomebody() *somebody {
	return &somebody{pastes: make(chan string), page: make(chan Event, 8)}
}

func (s *somebody) Tell(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, e)
	if e.Event == EventURL || e.Event == EventDevice {
		s.page <- e
	}
}

func (s *somebody) Confirm(context.Context, string) (bool, error) {
	if s.absent {
		return false, ErrNobody
	}
	return s.agrees, nil
}

func (s *somebody) Paste(ctx context.Context) (string, error) {
	select {
	case text := <-s.pastes:
		return text, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// text is all that was told.
func (s *somebody) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, e := range s.told {
		fmt.Fprintf(&b, "%+v\n", e)
	}
	return b.String()
}

// newCase is a box with a codex, a person and a Config.
func newCase(t *testing.T) (*box, *somebody, Config) {
	t.Helper()
	b := &box{t: t, ports: map[int]string{}}
	who := newSomebody()
	c := Config{Host: b, Name: "box", Person: who, HasCodex: true, ports: [2]int{port(t), port(t)}}
	b.programs = map[string]func(*prog) int{
		"codex login":               b.codexLogin(c.ports[0]),
		"codex login --device-auth": codeLogin,
		"codex login status":        statusOf("Logged in using ChatGPT", 0),
		"codex app-server": func(p *prog) int {
			_, _ = bufio.NewReader(p.inR).ReadString('\n')
			go func() { _, _ = io.Copy(io.Discard, p.inR) }() // ends with Close
			p.say(`{"method":"x"}` + "\n" + `{"id":1,"result":{}}` + "\n" + `{"id":2,"result":{"account":{"type":"chatgpt","email":"ana@b.c","planType":"pro"}}}` + "\n")
			return 0
		},
	}
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.open != 0 {
			t.Errorf("%d programs were left running", b.open)
		}
		for _, p := range c.ports {
			if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p)); err == nil {
				_ = ln.Close()
			} else if sshfwd.Busy(err) && !strings.Contains(t.Name(), "Busy") {
				t.Errorf("port %d is left", p)
			}
		}
	})
	return b, who, c
}
