//go:build linux || darwin

package handover

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// fake is a daemon that writes down what it is told.
type fake struct {
	file    *os.File
	refuse  error // of Offer
	stuck   error // of Yield
	started string

	mu    sync.Mutex // guards what follows
	said  []string
	notes []Note
}

func (f *fake) say(s string) { f.mu.Lock(); defer f.mu.Unlock(); f.said = append(f.said, s) }

func (f *fake) heard() string { f.mu.Lock(); defer f.mu.Unlock(); return strings.Join(f.said, " ") }

func (f *fake) Offer() (Offer, error) {
	return Offer{Format: Format, PID: os.Getpid(), Version: "1", Kind: "native"}, f.refuse
}

func (f *fake) Yield(context.Context) (Offer, map[string]*os.File, error) {
	f.say("yield")
	if f.stuck != nil {
		return Offer{}, nil, f.stuck
	}
	dup, err := os.Open(f.file.Name())
	if err != nil {
		return Offer{}, nil, err
	}
	o, _ := f.Offer()
	return o, map[string]*os.File{"home": dup}, nil
}

func (f *fake) TakeBack(error) { f.say("back") }
func (f *fake) Retire(int)     { f.say("retire") }
func (f *fake) Note(n Note)    { f.mu.Lock(); defer f.mu.Unlock(); f.notes = append(f.notes, n) }

func (f *fake) Start(p string) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started = p
	return 7, nil
}

func (f *fake) Guest(_ context.Context, g Guest, c net.Conn) {
	f.say("guest " + g.Name)
	_, _ = io.Copy(c, c)
}

// serve runs a daemon and returns where it is met.
func serve(t *testing.T, f *fake) (path string, over <-chan struct{}) {
	t.Helper()
	dir := t.TempDir()
	f.file = mustCreate(t, filepath.Join(dir, "lock"))
	path = filepath.Join(dir, socketName)
	s, err := Listen(path, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ctx, f) }()
	t.Cleanup(func() { cancel(); <-done; _ = s.Close() })
	return path, done
}

func mustCreate(t *testing.T, path string) *os.File {
	t.Helper()
	if err := os.WriteFile(path, []byte("locked"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// eventually waits until the daemon has been told want.
func eventually(t *testing.T, f *fake, want string) {
	t.Helper()
	for end := time.Now().Add(patience); f.heard() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the daemon was told %q, want %q", f.heard(), want)
		}
	}
}

func TestHandOverGivesTheFilesAndEndsTheDaemon(t *testing.T) {
	f := &fake{}
	path, over := serve(t, f)
	h, err := Dial(t.Context(), path, "2")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if h.Offer.Kind != "native" || f.heard() != "" {
		t.Errorf("an offer alone: %+v, %q", h.Offer, f.heard())
	}
	if err := h.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	lock := h.Take("home")
	if lock == nil || h.Take("home") != nil {
		t.Fatal("the file comes once")
	}
	defer func() { _ = lock.Close() }()
	if b, err := io.ReadAll(lock); string(b) != "locked" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if err := h.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-over
	eventually(t, f, "yield retire")
}

// Whatever an heir does before the last word, the daemon takes everything back.
func TestHeirThatFailsChangesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(t *testing.T, h *Heir)
		want string
	}{
		"dies before it claims":   {func(_ *testing.T, h *Heir) { h.Close() }, ""},
		"dies with the files":     {func(t *testing.T, h *Heir) { claim(t, h); h.Close() }, "yield back"},
		"says something else":     {func(t *testing.T, h *Heir) { claim(t, h); _ = h.w.send(t.Context(), message{Do: "nonsense"}) }, "yield back"},
		"is out of turn at first": {func(t *testing.T, h *Heir) { _ = h.w.send(t.Context(), message{Do: doReady}) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fake{}
			path, over := serve(t, f)
			h, err := Dial(t.Context(), path, "2")
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			tc.do(t, h)
			eventually(t, f, tc.want)
			select {
			case <-over:
				t.Error("the daemon stopped listening")
			default:
			}
			// And another heir may come, once the first is done with.
			again, err := Dial(t.Context(), path, "2")
			for end := time.Now().Add(patience); err != nil && time.Now().Before(end); again, err = Dial(t.Context(), path, "2") {
				time.Sleep(time.Millisecond)
			}
			if err != nil {
				t.Fatal(err)
			}
			again.Close()
		})
	}
}

func claim(t *testing.T, h *Heir) {
	t.Helper()
	if err := h.Claim(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRefusalsReachTheHeirWithTheirHints(t *testing.T) {
	f := &fake{refuse: &config.Problem{Stage: "upgrade", Err: errors.New("not now"), Hints: []string{"wait"}}}
	path, _ := serve(t, f)
	_, err := Dial(t.Context(), path, "2")
	var r *RefusedError
	if !errors.As(err, &r) || r.Text != "not now" || len(r.Hints) != 1 {
		t.Errorf("%v", err)
	}
	f = &fake{stuck: errors.New("somebody does not leave")}
	path, _ = serve(t, f)
	h, err := Dial(t.Context(), path, "2")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Claim(t.Context()); !errors.As(err, &r) || r.Text != "somebody does not leave" {
		t.Errorf("%v", err)
	}
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none"), "2"); !errors.Is(err, ErrNobody) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestOneHeirAtATime(t *testing.T) {
	f := &fake{}
	path, _ := serve(t, f)
	h, err := Dial(t.Context(), path, "2")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var r *RefusedError
	if _, err := Dial(t.Context(), path, "3"); !errors.As(err, &r) || !strings.Contains(r.Text, "already") {
		t.Errorf("a second heir: %v", err)
	}
}

func TestGuestsNotesAndStarts(t *testing.T) {
	f := &fake{}
	path, _ := serve(t, f)
	p := access.Principal{Kind: access.KindKey, ID: "SHA256:x", Name: "laptop", Role: protocol.RoleObserver, Lapsed: make(chan struct{})}
	c, err := Visit(t.Context(), path, GuestOf(p, "ssh", "1.2.3.4:5"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello\n" {
		t.Errorf("%q, %v", b, err)
	}
	_ = c.Close()
	if got := GuestOf(p, "ssh", "").Principal(); got.Key() != p.Key() || got.Role != p.Role || got.Name != p.Name {
		t.Errorf("the guest is %+v", got)
	}
	if err := Tell(t.Context(), path, NoteOf("ssh.logout", p, []slog.Attr{slog.String("why", "gone"), slog.Int("n", 3)})); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	if len(f.notes) != 1 || f.notes[0].Event != "ssh.logout" || f.notes[0].Who.Name != "laptop" || len(f.notes[0].Attrs()) != 2 {
		t.Errorf("noted: %+v", f.notes)
	}
	f.mu.Unlock()
	if pid, err := Start(t.Context(), path, "/usr/bin/new"); pid != 7 || err != nil {
		t.Errorf("%d, %v", pid, err)
	}
	f.mu.Lock()
	if f.started != "/usr/bin/new" {
		t.Errorf("started %q", f.started)
	}
	f.mu.Unlock()
	if _, err := Start(t.Context(), path, "new"); err == nil {
		t.Error("a relative program was started")
	}
	if o, err := Ask(t.Context(), path); err != nil || o.PID != os.Getpid() {
		t.Errorf("%+v, %v", o, err)
	}
}

// What is no message of ours ends the connection and nothing else.
func TestNonsenseOnTheSocket(t *testing.T) {
	f := &fake{}
	path, _ := serve(t, f)
	for _, say := range []string{"", "\n", "{}\n", `{"do":"succeed","format":99}` + "\n", `{"do":"guest"}` + "\n", `{"do":"go"}{"do":"go"}` + "\n", strings.Repeat("x", maxMessage+1)} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(say))
		_ = c.(*net.UnixConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}
	if f.heard() != "" {
		t.Errorf("it made the daemon do %q", f.heard())
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
}
