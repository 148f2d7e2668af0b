package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/account"
	"towline/appserver/account/issuertest"
	"towline/config"
	"towline/config/secret"
	"towline/forward/custody"
)

// twoEnds are a laptop that is logged in and a host that is not, with an issuer
// that gives a refresh token once and revokes the login when one comes twice.
type twoEnds struct {
	t      *testing.T
	issuer *issuertest.Issuer
	laptop end
	host   end
	mu     sync.Mutex // guards notes
	notes  []string   // the host's audit
	served sync.WaitGroup
}

// end is one machine.
type end struct {
	paths config.Paths
	cfg   config.Config
}

func newTwoEnds(t *testing.T, o issuertest.Options) *twoEnds {
	t.Helper()
	for _, name := range []string{
		"CODEX_ACCESS_TOKEN", "CODEX_APP_SERVER_LOGIN_ISSUER", "CODEX_APP_SERVER_LOGIN_CLIENT_ID", "CODEX_REFRESH_TOKEN_URL_OVERRIDE",
		"CODEX_AUTHAPI_BASE_URL", "CODEX_REVOKE_TOKEN_URL_OVERRIDE", "DBUS_SESSION_BUS_ADDRESS",
	} {
		t.Setenv(name, "")
	}
	r := &twoEnds{t: t, issuer: issuertest.Start(t, o)}
	r.laptop, r.host = r.newEnd(), r.newEnd()
	tok := r.issuer.Login(issuertest.User{})
	r.store(r.laptop, secret.Auth{
		Mode: secret.ModeChatGPT, LastRefresh: time.Now(),
		Tokens: &secret.Tokens{
			IDToken: tok.ID, AccessToken: tok.Access, RefreshToken: tok.Refresh, AccountID: tok.AccountID,
			Issuer: r.issuer.URL, ClientID: "app_test", LoginOwnerID: "owner",
		},
	})
	t.Cleanup(r.served.Wait)
	return r
}

func (r *twoEnds) newEnd() end {
	r.t.Helper()
	dir := r.t.TempDir()
	p := config.Paths{Config: filepath.Join(dir, "t"), State: filepath.Join(dir, "t"), Runtime: filepath.Join(dir, "t", "run")}
	must(r.t, p.Ensure())
	c := config.Default(p)
	c.Engine.Codex.Home = filepath.Join(dir, "codex")
	c.Auth.Issuer, c.Auth.ClientID = r.issuer.URL, "app_test"
	must(r.t, os.MkdirAll(c.Engine.Codex.Home, 0o700))
	return end{p, c}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *twoEnds) open(e end) credentials {
	r.t.Helper()
	c, err := openCredentials(e.paths, e.cfg, nil, nil)
	must(r.t, err)
	return c
}

func (r *twoEnds) store(e end, a secret.Auth) {
	r.t.Helper()
	_, err := r.open(e).store.Save(context.Background(), a)
	must(r.t, err)
}

// has is what lies at an end, the zero Auth for nothing.
func (r *twoEnds) has(e end) secret.Auth {
	r.t.Helper()
	a, _, err := r.open(e).store.Load(context.Background())
	if err != nil && !errors.Is(err, secret.ErrNone) {
		r.t.Fatal(err)
	}
	return a
}

// receiving is the host as a receiving process finds it.
func (r *twoEnds) receiving() *receiving {
	r.t.Helper()
	h, err := openReceiving(r.host.paths, r.host.cfg, func(event string, facts ...slog.Attr) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.notes = append(r.notes, event)
	})
	must(r.t, err)
	h.again = time.Millisecond
	return h
}

// serve starts a receiving process on one end of a link; wrap may change the host.
func (r *twoEnds) serve(rw io.ReadWriteCloser, wrap func(custody.Host) custody.Host) {
	h := r.receiving()
	var as custody.Host = h
	if wrap != nil {
		as = wrap(h)
	}
	r.served.Go(func() {
		defer h.close()
		defer func() { _ = rw.Close() }()
		_ = custody.Serve(context.Background(), rw, as, custody.Records{Dir: r.host.paths.Moves()}, custody.About{Version: "test", Name: "host"})
	})
}

// mover moves the laptop's login over links that dial gives.
func (r *twoEnds) mover(dial func(context.Context) (io.ReadWriteCloser, error)) *custody.Mover {
	c := r.open(r.laptop)
	kept, err := openAside(r.laptop.paths, c, 0, nil)
	must(r.t, err)
	mv := &custody.Mover{
		Local: localLogin{c, r.laptop.paths, r.laptop.cfg, "dev"}, Ledger: custody.Ledger{Path: r.laptop.paths.Moving(), Aside: kept},
		Host: "host", Dial: dial,
	}
	mv.ForTest(time.Millisecond, nil)
	return mv
}

// direct is a link without faults.
func (r *twoEnds) direct(context.Context) (io.ReadWriteCloser, error) {
	near, far := newLink(-1, -1)
	r.serve(far, nil)
	return near, nil
}

// settled checks the one thing that must hold whatever happened: the login is at
// one end, works there, and nobody used a refresh token twice.
func (r *twoEnds) settled(where string) {
	r.t.Helper()
	holders, which := 0, end{}
	for name, e := range map[string]end{"laptop": r.laptop, "host": r.host} {
		if a := r.has(e); a.Mode == secret.ModeChatGPT {
			holders++
			which = e
			if where != "" && name != where {
				r.t.Errorf("the login is on the %s", name)
			}
		}
	}
	if holders != 1 {
		r.t.Fatalf("%d ends have the login", holders)
	}
	if p, err := (custody.Ledger{Path: r.laptop.paths.Moving()}).Pending(); p != nil || err != nil {
		r.t.Errorf("the ledger has %v, %v", p, err)
	}
	if _, err := os.Stat(filepath.Join(r.laptop.paths.State, "aside")); err == nil {
		r.t.Error("something is still kept aside")
	}
	m, err := newManager(which.cfg, r.open(which), slog.New(slog.DiscardHandler))
	must(r.t, err)
	defer m.Close()
	if _, err := m.Refresh(context.Background()); err != nil {
		r.t.Errorf("the login that is left does not work: %v", err)
	}
	if n := r.issuer.Reused(); n != 0 {
		r.t.Errorf("%d refresh tokens were used twice", n)
	}
}

// unused checks that nobody on the laptop can use the login while only the host
// knows who has it.
func (r *twoEnds) unused() {
	r.t.Helper()
	m, err := newManager(r.laptop.cfg, r.open(r.laptop), slog.New(slog.DiscardHandler))
	must(r.t, err)
	defer m.Close()
	if _, err := m.Token(context.Background()); !errors.Is(err, account.ErrNotLoggedIn) {
		r.t.Errorf("the laptop has a token while the move is not resolved: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join(r.laptop.cfg.Engine.Codex.Home, "auth.json"))
	if err == nil {
		r.t.Errorf("Codex on the laptop finds %d bytes", len(raw))
	}
}

// link is one end of a stream of bytes in memory.
type link struct {
	r *io.PipeReader
	w *limited
	o *link
}

// limited delivers so many bytes and then cuts the whole link; -1 is no limit.
type limited struct {
	mu   sync.Mutex
	w    *io.PipeWriter
	left int
	cut  func()
}

// newLink is both ends of a link that is cut after so many bytes in either
// direction, all of which arrive.
func newLink(up, down int) (near, far *link) {
	ur, uw := io.Pipe()
	dr, dw := io.Pipe()
	cut := func() {
		for _, p := range []*io.PipeWriter{uw, dw} {
			_ = p.CloseWithError(io.ErrUnexpectedEOF)
		}
		for _, p := range []*io.PipeReader{ur, dr} {
			_ = p.CloseWithError(io.ErrClosedPipe)
		}
	}
	near = &link{r: dr, w: &limited{w: uw, left: up, cut: cut}}
	far = &link{r: ur, w: &limited{w: dw, left: down, cut: cut}}
	near.o, far.o = far, near
	return near, far
}

func (l *limited) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(b)
	if l.left >= 0 {
		n = min(n, l.left)
		l.left -= n
	}
	k, err := 0, error(nil)
	if n > 0 {
		k, err = l.w.Write(b[:n])
	}
	if err == nil && l.left == 0 {
		l.cut()
	}
	if err == nil && k < len(b) {
		err = io.ErrClosedPipe
	}
	return k, err
}

func (l *link) Read(b []byte) (int, error)  { return l.r.Read(b) }
func (l *link) Write(b []byte) (int, error) { return l.w.Write(b) }

func (l *link) Close() error {
	_ = l.w.w.Close()
	_ = l.r.Close()
	return nil
}

// noSecrets fails when any of the secrets is in text.
func noSecrets(t *testing.T, text string, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		if s != "" && strings.Contains(text, s) {
			t.Errorf("a secret is in %q", strings.ReplaceAll(text, s, "[HERE]"))
		}
	}
}
