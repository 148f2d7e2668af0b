package integration

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"towline/appserver/account"
	"towline/appserver/account/issuertest"
	"towline/config/secret"
	"towline/integration/peer"
)

// refresherVariable makes the test's program a refresher: see refresher.
const refresherVariable = "TOWLINE_TEST_REFRESHER"

// refresher is a process that wants a token, as a daemon does: it opens the
// login of CODEX_HOME, waits for a line of input, and prints a digest of the
// token it was given. A token whose digest is in REJECTED was not accepted.
func refresher(issuer string) int {
	fail := func(err error) int { _, _ = fmt.Println("error:", err); return 1 }
	store, err := secret.Open(secret.Options{
		CodexHome: os.Getenv("CODEX_HOME"), StateDir: os.Getenv("STATE"), Kind: secret.Kind(os.Getenv("KIND")), KeyringTimeout: peer.Patience,
	})
	if err != nil {
		return fail(err)
	}
	if os.Getenv("PUT") != "" {
		return put(store)
	}
	m, err := account.New(account.Config{Store: store, Issuer: account.Issuer{
		URL: issuer, Kind: account.IssuerKind(os.Getenv("ISSUER_KIND")), ClientID: os.Getenv("ISSUER_CLIENT"),
	}})
	if err != nil {
		return fail(err)
	}
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), peer.Patience)
	defer cancel()
	b, err := m.Token(ctx)
	if err == nil && os.Getenv("REJECTED") == digest(b.Token) {
		b, err = m.Rejected(ctx, b)
	}
	if err != nil {
		return fail(err)
	}
	_, _ = fmt.Println("token", digest(b.Token))
	return 0
}

// put stores the login that is on the input.
func put(store *secret.Store) int {
	line, err := bufio.NewReader(os.Stdin).ReadBytes('\n')
	if err != nil {
		return 1
	}
	a, err := secret.Parse(line)
	if err == nil {
		_, err = store.Save(context.Background(), a)
	}
	if err != nil {
		_, _ = fmt.Println("error:", err)
		return 1
	}
	_, _ = fmt.Println("token", digest(a.Tokens.AccessToken))
	return 0
}

func digest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:8])
}

// rotation is a login that expired an hour ago, and its issuer.
type rotation struct {
	issuer      *issuertest.Issuer
	url         string // the issuer's
	home, state string
	kind        secret.Kind
	env         []string // further environment of refreshers
	u           *peer.User
	tokens      issuertest.Tokens
	back        atomic.Int64  // how late the issuer's clock is
	answered    chan struct{} // one for every answer of the issuer
}

func newRotation(t *testing.T) *rotation {
	t.Helper()
	r := &rotation{home: t.TempDir(), state: t.TempDir(), kind: secret.KindFile, answered: make(chan struct{}, 100)}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.issuer.ServeHTTP(w, q)
		_ = http.NewResponseController(w).Flush()
		r.answered <- struct{}{}
	}))
	r.issuer = issuertest.New(issuertest.Options{
		URL: "http://" + srv.Listener.Addr().String(), AccessTTL: ttl,
		Now: func() time.Time { return time.Now().Add(-time.Duration(r.back.Load())) },
	})
	r.url = r.issuer.URL
	srv.Start()
	t.Cleanup(func() { r.issuer.Release(""); srv.Close() })
	r.loginAgo(t, 2*time.Hour)
	return r
}

// ttl is how long access tokens last.
const ttl = time.Hour

// loginAgo logs in some time ago.
func (r *rotation) loginAgo(t *testing.T, d time.Duration) {
	t.Helper()
	r.back.Store(int64(d))
	r.tokens = r.issuer.Login(issuertest.User{})
	r.back.Store(0)
	r.put(t)
}

// auth is the login as Codex stores it.
func (r *rotation) auth() secret.Auth {
	return secret.Auth{
		Mode: secret.ModeChatGPT, LastRefresh: time.Now().Add(-2 * time.Hour),
		Tokens: &secret.Tokens{
			IDToken: r.tokens.ID, AccessToken: r.tokens.Access, RefreshToken: r.tokens.Refresh, AccountID: r.tokens.AccountID,
			Issuer: r.issuer.URL, ClientID: account.OpenAIClientID,
		},
	}
}

// put stores the login as it was.
func (r *rotation) put(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.home, "auth.json"), r.auth().File(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// running is a refresher that waits for its line.
type running struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *collected
}

func (r *rotation) start(t *testing.T, env ...string) *running {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^$") //nolint:noctx // killed below
	if r.u != nil {
		if _, err := os.Stat(r.u.Path("bin/refresher")); err != nil {
			r.u.Place(self, "bin/refresher")
		}
		cmd = r.u.Command(context.Background(), r.u.Path("bin/refresher"), "-test.run=^$")
	}
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + r.home, refresherVariable + "=" + r.url,
		"CODEX_HOME=" + r.home, "STATE=" + r.state, "KIND=" + string(r.kind),
		"GORACE=atexit_sleep_ms=0", // the race detector would wait a second at the end
	}, append(r.env, env...)...)
	p := &running{cmd: cmd, out: &collected{}}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return p
}

func (p *running) begin(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		t.Fatal(err)
	}
}

// token waits for the digest of what the refresher was given.
func (p *running) token(t *testing.T) string {
	t.Helper()
	err := p.cmd.Wait()
	d, ok := strings.CutPrefix(strings.TrimSpace(p.out.String()), "token ")
	if !ok || err != nil {
		t.Fatalf("a refresher was given nothing: %v\n%s", err, p.out)
	}
	return d
}

// Many daemons on one host find the login expired in the same moment: the
// refresh token is used once, and all go on with what it brought.
func TestRefreshersAtOnceUseTheTokenOnce(t *testing.T) {
	t.Parallel()
	r := newRotation(t)
	var all []*running
	for range 6 {
		all = append(all, r.start(t))
	}
	r.issuer.Hold("/oauth/token") // all of them are at it before the first is answered
	for _, p := range all {
		p.begin(t)
	}
	peer.Eventually(t, "a refresh", func() bool { return r.issuer.Count("/oauth/token") > 0 })
	r.issuer.Release("/oauth/token")
	first := all[0].token(t)
	for _, p := range all[1:] {
		if d := p.token(t); d != first {
			t.Errorf("two refreshers have different tokens: %s and %s", first, d)
		}
	}
	if first == digest(r.tokens.Access) {
		t.Error("they go on with the expired token")
	}
	if n, again := r.issuer.Rotated(), r.issuer.Reused(); n != 1 || again != 0 {
		t.Errorf("the refresh token was used %d times, used ones %d times", n, again)
	}
}

// A stock Codex that runs with the same login takes what Towline's refresh
// brought, and the reverse: nobody uses a token that was used. (Codex locks the
// store while it writes, not while it asks; Towline refreshes well before the
// end, so that a Codex finds nothing to do.)
func TestTowlineAndCodexTakeTurns(t *testing.T) {
	t.Parallel()
	peer.EachCodex(t, func(t *testing.T, c peer.Codex) {
		t.Parallel()
		r := newRotation(t)
		// Every token is about to expire: Towline refreshes it, and a Codex that
		// is not told to sees no reason to.
		r.loginAgo(t, ttl-7*time.Minute)
		r.back.Store(int64(ttl - 7*time.Minute))
		codex := startCodexPipe(t, c, r.home, r.issuer.URL)
		have := digest(r.tokens.Access)
		for turn := range 3 {
			ours := r.start(t)
			ours.begin(t)
			d := ours.token(t)
			if d == have {
				t.Fatalf("turn %d: Towline goes on with the token that is about to expire", turn)
			}
			have = d
			theirs, err := codex.token()
			if err != nil {
				t.Fatalf("turn %d: Codex is logged out: %v", turn, err)
			}
			if theirs == digest(r.tokens.Access) {
				t.Errorf("turn %d: Codex goes on with the first token", turn)
			}
			have = theirs
			if n := r.issuer.Reused(); n != 0 {
				t.Fatalf("turn %d: a used refresh token came back %d times", turn, n)
			}
		}
	})
}

// codexPipe is a stock app-server that is asked for its token.
type codexPipe struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader

	calls int
}

func startCodexPipe(t *testing.T, c peer.Codex, home, issuer string) *codexPipe {
	t.Helper()
	cmd := exec.Command(c.Bin, "app-server", "--listen", "stdio://") //nolint:noctx // killed below
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "CODEX_HOME=" + home, "CODEX_REFRESH_TOKEN_URL_OVERRIDE=" + issuer + "/oauth/token",
		"HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost",
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	p := &codexPipe{cmd: cmd, in: in, out: bufio.NewReader(out)}
	var ignored json.RawMessage
	if err := p.call(1, "initialize", `{"clientInfo":{"name":"test","version":"0"}}`, &ignored); err != nil {
		t.Fatal(err)
	}
	return p
}

// call sends a request and reads up to its answer.
func (p *codexPipe) call(id int, method, params string, result any) error {
	if _, err := fmt.Fprintf(p.in, "{\"id\":%d,\"method\":%q,\"params\":%s}\n", id, method, params); err != nil {
		return err
	}
	for {
		line, err := p.out.ReadBytes('\n')
		if err != nil {
			return err
		}
		var m struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if json.Unmarshal(line, &m) != nil || m.ID != id {
			continue
		}
		if m.Error != nil {
			return errors.New(m.Error.Message)
		}
		return json.Unmarshal(m.Result, result)
	}
}

// token is the digest of the token of a Codex that was told to refresh.
func (p *codexPipe) token() (string, error) {
	var answer struct {
		AuthToken string
	}
	p.calls++
	if err := p.call(p.calls+1, "getAuthStatus", `{"includeToken":true,"refreshToken":true}`, &answer); err != nil {
		return "", err
	}
	if answer.AuthToken == "" {
		return "", errors.New("it has no token")
	}
	return digest(answer.AuthToken), nil
}

// Killed without warning at any moment from the issuer's answer on, the host is
// still logged in: what was received is stored, or is found where it was put
// before that.
func TestKilledWhileStoringNeverLosesTheLogin(t *testing.T) {
	t.Parallel()
	const rounds = 30
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number does
	rng := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not a secret
	// How long it takes here, from the answer to the end.
	r := newRotation(t)
	p := r.start(t)
	p.begin(t)
	<-r.answered
	begun := time.Now()
	p.token(t)
	took := time.Since(begun)

	var early, between, late int
	for round := range rounds {
		r := newRotation(t)
		p := r.start(t)
		p.begin(t)
		<-r.answered
		for at := time.Now().Add(time.Duration(rng.Int64N(int64(took)))); time.Now().Before(at); { //nolint:revive // a sleep is too coarse
		}
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		stored, err := os.ReadFile(filepath.Join(r.home, "auth.json"))
		if err != nil {
			t.Fatalf("round %d of seed %d: the store is gone: %v", round, seed, err)
		}
		if _, err := secret.Parse(stored); err != nil {
			t.Errorf("round %d of seed %d: the store is torn: %v", round, seed, err)
		}
		switch was := strings.Contains(string(stored), r.tokens.Refresh); {
		case !was:
			late++ // stored, though perhaps not tidied up
		case len(r.journals(t)) > 0:
			between++
		default:
			early++ // what the issuer gave out had not come to be written
			continue
		}
		next := r.start(t)
		next.begin(t)
		if d := next.token(t); d == digest(r.tokens.Access) {
			t.Errorf("round %d of seed %d: the expired token is back", round, seed)
		}
		if n, again := r.issuer.Rotated(), r.issuer.Reused(); n != 1 || again != 0 {
			t.Errorf("round %d of seed %d: %d refreshes, and a used token came back %d times", round, seed, n, again)
		}
		if left := r.journals(t); len(left) > 0 {
			t.Errorf("round %d of seed %d: still on disk: %q", round, seed, left)
		}
	}
	t.Logf("%v from the answer to the end; killed before anything was on disk %d times, before it was in its place %d, after that %d", took, early, between, late)
	if between+late == 0 {
		t.Error("no kill met what it was meant to meet")
	}
}

// journals are the files in which something received waits to be stored.
func (r *rotation) journals(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, dir := range []string{r.home, r.state} {
		found, err := filepath.Glob(filepath.Join(dir, "*.journal"))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	return out
}

// The keyring stops answering when the issuer has answered: what was received
// waits on disk, private, and though the process that received it is killed, the
// next one finds it.
func TestKilledWhileTheKeyringHangsNeverLosesTheLogin(t *testing.T) {
	t.Parallel()
	u := peer.NewUser(t, peer.Account{})
	k := peer.StartKeyring(t, u)
	r := newRotation(t)
	r.u, r.env, r.kind = u, k.Environ, secret.KindKeyring
	r.home, r.state = u.Mkdir(".codex"), u.Mkdir("state")
	put := r.start(t, "PUT=1")
	if _, err := put.in.Write(append(r.auth().Compact(), '\n')); err != nil {
		t.Fatal(err)
	}
	put.token(t)

	p := r.start(t)
	r.issuer.Hold("/oauth/token")
	p.begin(t)
	peer.Eventually(t, "a refresh", func() bool { return r.issuer.Count("/oauth/token") > 0 })
	k.Hang()
	r.issuer.Release("/oauth/token")
	peer.Eventually(t, "what was received, on disk", func() bool { return len(r.journals(t)) > 0 })
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	for _, path := range r.journals(t) {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	k.Resume()

	next := r.start(t)
	next.begin(t)
	if d := next.token(t); d == digest(r.tokens.Access) {
		t.Error("the expired token is back")
	}
	if n, again := r.issuer.Rotated(), r.issuer.Reused(); n != 1 || again != 0 {
		t.Errorf("%d refreshes, and a used token came back %d times", n, again)
	}
	if left := r.journals(t); len(left) > 0 {
		t.Errorf("still on disk: %q", left)
	}
	if stored := k.Lookup("service", "Codex Auth"); !strings.Contains(stored, "refresh_token") || strings.Contains(stored, r.tokens.Refresh) {
		t.Error("the keyring has not what was received")
	}
}
