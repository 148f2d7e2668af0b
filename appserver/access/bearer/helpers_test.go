package bearer

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long anything may take on a loaded machine.
const patience = 45 * time.Second

// secret is long enough for HS256.
const secret = "0123456789abcdef0123456789abcdef"

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// clock is a time that moves when it is told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: noon} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// records is an audit file.
type records struct {
	mu   sync.Mutex
	rows []string
}

func (r *records) Record(event string, p access.Principal, attrs ...slog.Attr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, fmt.Sprint(event, " ", p.ID, " ", attrs))
}

func (r *records) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.rows...)
}

func write(t testing.TB, name, text string) string {
	t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(t.TempDir(), name)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// open makes an Authenticator at noon unless c says otherwise.
func open(t testing.TB, c Config) *Authenticator {
	t.Helper()
	if c.Now == nil {
		c.Now = func() time.Time { return noon }
	}
	c.Log = slog.New(slog.DiscardHandler)
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// run runs a until the end of the test.
func run(t testing.TB, a *Authenticator) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func codexMode(t testing.TB, more func(*JWT)) JWT {
	j := JWT{Name: ModeSigned, SecretFile: write(t, "secret", secret), Codex: true, Skew: defaultSkew, Role: protocol.RoleOperator}
	if more != nil {
		more(&j)
	}
	return j
}

var elsewhere = netip.MustParseAddr("192.0.2.7")

func try(t testing.TB, a *Authenticator, header ...string) (access.Principal, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return a.Authenticate(ctx, access.Attempt{Authorization: header, Source: netip.MustParseAddr("127.0.0.1"), Via: "ws"})
}

// outcome is what a stranger sees: "ok", or the status and the body.
func outcome(err error) string {
	var ref *access.Refusal
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &ref):
		return fmt.Sprint(ref.Status, " ", ref.Body)
	}
	return "host: " + err.Error()
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// hs256 signs whatever it is given.
func hs256(key, head, body string) string {
	signed := b64([]byte(head)) + "." + b64([]byte(body))
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(signed))
	return signed + "." + b64(m.Sum(nil))
}

const plainHead = `{"alg":"HS256","typ":"JWT"}`

func signed(body string) string { return hs256(secret, plainHead, body) }

// body is claims in JSON.
func body(m map[string]any) string {
	raw, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(raw)
}
