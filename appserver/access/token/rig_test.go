package token

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config/managed"
	"towline/config/store"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("TOWLINE_TEST_TOKENS_OF"); path != "" {
		os.Exit(changeTokensUntilKilled(path))
	}
	goleak.VerifyTestMain(m)
}

// bound is how long anything may take on a machine that is busy.
const bound = 45 * time.Second

var (
	here  = netip.MustParseAddr("127.0.0.1")
	admin = access.Principal{Kind: access.KindLocal, ID: "uid:1000", Name: "ana", Role: protocol.RoleAdmin}
)

// rig is a Manager with a database, a clock and a policy of its own.
type rig struct {
	*testing.T
	m     *Manager
	path  string       // of the database
	ahead atomic.Int64 // how far its clock is ahead
	root  string       // of the managed files

	mu      sync.Mutex
	entries []string // of the audit
	logged  strings.Builder
}

// Write takes what managers log.
func (r *rig) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logged.Write(b)
}

// until waits for what another goroutine does without saying so.
func (r *rig) until(what string, done func() bool) {
	r.Helper()
	for end := time.Now().Add(bound); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("never: %s", what)
		}
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, path: filepath.Join(t.TempDir(), "state", "towline.db"), root: t.TempDir()}
	r.m = r.another()
	return r
}

// another is a Manager as another process would have it, on the same database.
func (r *rig) another() *Manager {
	r.Helper()
	st, err := store.Open(r.Context(), r.path)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = st.Close() })
	m, err := New(Config{
		Store: st, Now: r.now, Audit: r.audit, Log: slog.New(slog.NewTextHandler(r, nil)),
		Policy: func() (managed.Policy, error) { return managed.Load(managed.Options{Root: r.root}) },
	})
	if err != nil {
		r.Fatal(err)
	}
	return m
}

func (r *rig) now() time.Time       { return time.Now().Add(time.Duration(r.ahead.Load())) }
func (r *rig) pass(d time.Duration) { r.ahead.Add(int64(d)) }
func (r *rig) audited() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.entries...)
}

func (r *rig) auditHas(s string) bool { return strings.Contains(strings.Join(r.audited(), "\n"), s) }

func (r *rig) audit(event string, who access.Principal, attrs ...slog.Attr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, fmt.Sprint(event, " ", who.Key(), " ", attrs))
}

// policy writes /etc/towline/requirements.toml; "" removes it.
func (r *rig) policy(text string) {
	r.Helper()
	if runtime.GOOS == "windows" {
		r.Skip("the managed files have other places there")
	}
	path := filepath.Join(r.root, "etc/towline/requirements.toml")
	if text == "" {
		_ = os.Remove(path)
		return
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // as an administrator leaves it
		r.Fatal(err)
	}
}

func (r *rig) create(p CreateParams) Created {
	r.Helper()
	c, err := r.m.Create(r.Context(), admin, p)
	if err != nil {
		r.Fatal(err)
	}
	return c
}

func (r *rig) verify(text string) access.Principal {
	r.Helper()
	p, err := r.m.Verify(r.Context(), text, here)
	if err != nil {
		r.Fatal(err)
	}
	return p
}

// run runs m until the test is over or stop is called.
func (r *rig) run(m *Manager) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.Error(err)
			}
		})
	}
	r.Cleanup(stop)
	return stop
}

func (r *rig) lapses(what string, p access.Principal) {
	r.Helper()
	select {
	case <-p.Lapsed:
	case <-time.After(bound):
		r.Fatalf("%s: the connection is still granted", what)
	}
}

func (r *rig) stands(what string, p access.Principal) {
	r.Helper()
	select {
	case <-p.Lapsed:
		r.Fatalf("%s: the connection is ended", what)
	default:
	}
}
