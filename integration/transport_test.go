package integration

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"towline/integration/peer"
)

// Credentials of the journeys here. Each is made for the run, or worth nothing
// outside of it.
const (
	capability   = "a capability of these tests, and of nothing else"
	sharedSecret = "what signs the tokens of these tests, 32 bytes and more"
)

// secretFile is a file with text that only this user reads.
func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// capabilityText is a capability without what HTTP does not carry well.
var capabilityText = base64.RawURLEncoding.EncodeToString([]byte(capability))

// signed is a bearer token for an hour, signed with sharedSecret.
func signed(t *testing.T) string {
	t.Helper()
	part := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	text := part(map[string]string{"alg": "HS256", "typ": "JWT"}) + "." +
		part(map[string]any{"iss": "tests", "aud": "towline", "exp": time.Now().Add(time.Hour).Unix()})
	mac := hmac.New(sha256.New, []byte(sharedSecret))
	_, _ = mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// signedFlags are Codex's flags for tokens of signed.
func signedFlags(t *testing.T) []string {
	return []string{"--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", secretFile(t, sharedSecret), "--ws-issuer", "tests", "--ws-audience", "towline"}
}

// wss is a host's wss:// listener.
func wss(t *testing.T, h *peer.Host) string {
	t.Helper()
	for _, l := range h.Listen {
		if strings.HasPrefix(l, "wss://") {
			return l
		}
	}
	t.Fatalf("the host has no wss listener: %v", h.Listen)
	return ""
}

// guarded is a host that is open to whoever has a credential of any kind, by ws
// and by wss, and a token of its own making.
func guarded(t *testing.T, ca *peer.Authority) (h *peer.Host, token string) {
	t.Helper()
	cert, key := ca.Issue("127.0.0.1", "localhost")
	args := []string{"--listen", "ws://127.0.0.1:0", "--listen", "wss://127.0.0.1:0", "--ws-tls-cert", cert, "--ws-tls-key", key}
	h = peer.Start(t, peer.HostConfig{
		Args: append(args, signedFlags(t)...),
		// Codex has one secret or the other; here they go together.
		TOML: fmt.Sprintf(`[engine]
kind = "native"
[engine.native]
rehearsal = true
[app_server.auth]
access_tokens = true
[[app_server.auth.capability]]
name = "journey"
file = %q
scope = ["all"]
`, secretFile(t, capabilityText)),
	})
	out, errs, err := h.Run("token", "create", "--name", "journey", "--scope", "all")
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	return h, strings.TrimSpace(out)
}

// withToken is a stock client's environment with a token in $TOKEN.
func withToken(t *testing.T, token string, more ...string) []string {
	t.Helper()
	return append(append(peer.CodexEnv(t, "http://127.0.0.1:9/v1"), "TOKEN="+token), more...)
}

// promptAndApproval is a turn that answers, and one that asks first and then
// does it.
func promptAndApproval(t *testing.T, term *peer.Terminal, project, file string) {
	t.Helper()
	say(term, "hello there")
	term.Wait("Rehearsal", "Worked for")
	say(term, "run touch "+file+" outside the sandbox")
	term.Wait("Would you like to run the following command?", "touch "+file)
	term.Keys("y")
	term.Wait("ended well")
	if _, err := os.Stat(filepath.Join(project, file)); err != nil {
		t.Errorf("approved, but not run: %v", err)
	}
}

// A stock `codex --remote` comes in by every credential there is, and is at home.
func TestStockCodexOnEveryTransport(t *testing.T) {
	t.Parallel()
	ca := peer.NewAuthority(t, "Journey Root")
	h, token := guarded(t, ca)
	for _, c := range peer.Codexes(t) {
		hashed := codexHost(t, c, "--listen", "ws://127.0.0.1:0", "--ws-auth", "capability-token", "--ws-token-sha256", sha256Hex(capabilityText))
		for name, way := range map[string]struct {
			host       *peer.Host
			url, token string
			env        []string
		}{
			"capability":        {host: h, url: h.WS(), token: capabilityText},
			"capability hashed": {host: hashed, url: hashed.WS(), token: capabilityText}, // with Codex behind it
			"signed":            {host: h, url: h.WS(), token: signed(t)},
			"access token":      {host: h, url: h.WS(), token: token},
			"private authority": {host: h, url: wss(t, h), token: token, env: []string{"SSL_CERT_FILE=" + ca.File}},
		} {
			t.Run(c.Version+" "+name, func(t *testing.T) {
				t.Parallel()
				scheme, addr, _ := strings.Cut(way.url, "://")
				link := peer.NewLink(t, addr)
				term := peer.Open(t, 110, 40, withToken(t, way.token, way.env...), c.Bin, "--remote", scheme+"://"+link.Addr, "--remote-auth-token-env", "TOKEN")
				term.Wait("Ask Codex to do anything")
				promptAndApproval(t, term, way.host.Project, "made-"+strings.ReplaceAll(t.Name()[strings.LastIndex(t.Name(), "/")+1:], ".", "-"))
				if scheme == "wss" { // the credential and the certificate count again
					link.Cut()
					term.Wait("Reconnecting to server")
					link.Mend()
					term.WaitGone("Reconnecting to server")
					say(term, "hello after the cut")
					term.WaitMatch(`(?s)hello after the cut.*Rehearsal.*Worked for`)
				}
			})
		}
		t.Run(c.Version+" refused", func(t *testing.T) {
			t.Parallel()
			term := peer.Open(t, 140, 24, withToken(t, "wrong"), c.Bin, "--remote", h.WS(), "--remote-auth-token-env", "TOKEN")
			term.Wait("failed to connect to remote app server", "401 Unauthorized")
			term = peer.Open(t, 140, 24, withToken(t, token), c.Bin, "--remote", wss(t, h), "--remote-auth-token-env", "TOKEN")
			term.Wait("failed to connect to remote app server") // it does not know the authority
		})
	}
}

// run runs a program to its end and returns what it said.
func run(t *testing.T, env []string, argv ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = env, t.TempDir()
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("%v: %v", argv, err)
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

// What `codex agents`, `queue`, `archive`, `unarchive`, `delete`, `resume` and
// `fork` do on a server of their own, they do here.
func TestStockCodexCommandsOnATokenListener(t *testing.T) {
	t.Parallel()
	h, token := guarded(t, peer.NewAuthority(t, "Journey Root"))
	remote := []string{"--remote", h.WS(), "--remote-auth-token-env", "TOKEN"}
	for _, c := range peer.Codexes(t) {
		t.Run(c.Version, func(t *testing.T) {
			t.Parallel()
			env := withToken(t, token)
			ours := append(peer.Environ(t), "TOWLINE_HOME="+t.TempDir(), "TOKEN="+token)
			out, code := run(t, ours, append([]string{peer.Binary(t), "exec", "--json", "--skip-git-repo-check", "-C", h.Project, "hello from " + c.Version}, remote...)...)
			var first struct {
				Thread string `json:"thread_id"`
			}
			if line, _, _ := strings.Cut(out, "\n"); code != 0 || json.Unmarshal([]byte(line), &first) != nil || first.Thread == "" {
				t.Fatalf("exec --remote: %d\n%s", code, out)
			}
			ran := func(want string, args ...string) {
				t.Helper()
				out, code := run(t, env, append(append([]string{c.Bin}, args...), remote...)...)
				if code != 0 || !strings.Contains(out, want) {
					t.Errorf("codex %v: %d, %q; want %q", args, code, out, want)
				}
			}
			ran("Archived session "+first.Thread, "archive", first.Thread)
			if out, _ := run(t, env, append([]string{c.Bin, "archive", first.Thread + "0"}, remote...)...); !strings.Contains(out, "No active session found") {
				t.Errorf("archive of nothing: %q", out)
			}
			ran("Unarchived session "+first.Thread, "unarchive", first.Thread)
			ran("Queued message", "queue", "--thread", first.Thread, "--message", "count to 3")

			resumed := peer.Open(t, 110, 40, env, append([]string{c.Bin, "resume", first.Thread}, remote...)...)
			resumed.WaitMatch(`(?s)count to 3.*1 2 3.*Ask Codex to do anything`) // what was queued has run
			forked := peer.Open(t, 110, 40, env, append([]string{c.Bin, "fork", first.Thread}, remote...)...)
			forked.Wait("count to 3", "Ask Codex to do anything")
			say(forked, "hello on the fork")
			forked.WaitMatch(`(?s)hello on the fork.*Rehearsal`)
			if strings.Contains(resumed.Scrollback(), "hello on the fork") {
				t.Error("what is said on a fork is on the thread it came from")
			}
			agents := peer.Open(t, 110, 40, env, append([]string{c.Bin, "agents"}, remote...)...)
			agents.Wait("Agent command center", "Ready")
			agents.WaitMatch(`hello from |count to 3|hello on the fork`)

			ran("", "delete", "--force", first.Thread)
			if out, code := run(t, env, append([]string{c.Bin, "archive", first.Thread}, remote...)...); code == 0 {
				t.Errorf("a deleted thread is still there: %q", out)
			}
		})
	}
}

// Our UI is at home on a stock `codex app-server`, whoever that lets in.
func TestOurUIOnAStockServer(t *testing.T) {
	t.Parallel()
	model := peer.Rehearsal(t)
	for _, c := range peer.Codexes(t) {
		for name, way := range map[string]struct {
			flags []string
			token string
		}{
			"open":              {},
			"capability":        {[]string{"--ws-auth", "capability-token", "--ws-token-file", secretFile(t, capabilityText)}, capabilityText},
			"capability hashed": {[]string{"--ws-auth", "capability-token", "--ws-token-sha256", sha256Hex(capabilityText)}, capabilityText},
			"signed":            {signedFlags(t), signed(t)},
		} {
			t.Run(c.Version+" "+name, func(t *testing.T) {
				t.Parallel()
				s := c.StartServer(t, peer.CodexEnv(t, model), way.flags...)
				link := peer.NewLink(t, strings.TrimPrefix(s.URL, "ws://"))
				env := append(peer.Environ(t), "TOWLINE_HOME="+t.TempDir())
				argv := []string{peer.Binary(t), "--remote", "ws://" + link.Addr, "--new"}
				if way.token != "" {
					if out, code := run(t, env, peer.Binary(t), "status", "--remote", s.URL); code != 5 || !strings.Contains(out, "missing websocket bearer token") || !strings.Contains(out, "--remote-auth-token-env") {
						t.Errorf("without a token: %d\n%s", code, out)
					}
					env = append(env, "TOKEN="+way.token)
					argv = append(argv, "--remote-auth-token-env", "TOKEN")
				}
				if out, code := run(t, env, append([]string{peer.Binary(t), "status"}, slices.DeleteFunc(slices.Clone(argv[1:]), func(s string) bool { return s == "--new" })...)...); code != 0 || !strings.Contains(out, "codex "+c.Version) {
					t.Errorf("status: %d\n%s", code, out)
				}
				term := peer.Open(t, 100, 30, env, argv...)
				term.Wait("? help")
				say(term, "hello there")
				term.Wait("Rehearsal")
				if name == "open" || name == "signed" {
					say(term, "run touch made-by-us outside the sandbox")
					choose(term, askCommand, answerNow)
					term.Wait("ended well")
				}
				if name != "capability" {
					return
				}
				// A lost link comes back, and what was there still is.
				link.Cut()
				term.Wait("reconnecting")
				link.Mend()
				term.WaitGone("reconnecting")
				say(term, "hello after the cut")
				term.WaitMatch(`(?s)hello after the cut.*Rehearsal`)
				// A server that wants another token now is no reason to knock for ever.
				s.Restart("--ws-auth", "capability-token", "--ws-token-sha256", sha256Hex("another"))
				term.Wait("401 Unauthorized", "$TOKEN does not count there", "come back with", "[exit 5]")
				if strings.Contains(term.Scrollback(), way.token) {
					t.Error("the token is on the screen")
				}
			})
		}
	}
}

// On a Towline the stream outlives its link, also through TLS; a token that is
// revoked ends the UI, with the reason.
func TestOurUIOnATokenListener(t *testing.T) {
	t.Parallel()
	ca := peer.NewAuthority(t, "Journey Root")
	h, token := guarded(t, ca)
	link := peer.NewLink(t, strings.TrimPrefix(wss(t, h), "wss://"))
	env := append(peer.Environ(t), "TOWLINE_HOME="+t.TempDir(), "TOKEN="+token)
	url := "wss://" + link.Addr

	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"unknown authority": {[]string{"--remote", url}, `signed by "Journey Root", which this machine does not trust`},
		"another authority": {[]string{"--remote", url, "--remote-ca", peer.NewAuthority(t, "Other Root").File}, "--remote-ca FILE"},
		"plain to TLS":      {[]string{"--remote", "ws" + strings.TrimPrefix(url, "wss")}, "wss://" + link.Addr},
		"no token":          {[]string{"--remote", url, "--remote-ca", ca.File}, "missing websocket bearer token"},
	} {
		out, code := run(t, env, append([]string{peer.Binary(t), "status"}, tc.args...)...)
		if code == 0 || !strings.Contains(out, tc.want) || strings.Contains(out, token) {
			t.Errorf("%s: %d\n%s", name, code, out)
		}
	}
	if out, code := run(t, append(env, "SSL_CERT_FILE="+ca.File), peer.Binary(t), "status", "--remote", url, "--remote-auth-token-env", "TOKEN"); code != 0 || !strings.Contains(out, "running for") {
		t.Errorf("SSL_CERT_FILE: %d\n%s", code, out)
	}

	term := peer.Open(t, 100, 30, env, peer.Binary(t), "--remote", url, "--remote-auth-token-env", "TOKEN", "--remote-ca", ca.File)
	term.Wait("? help")
	say(term, "count to 200 slowly")
	term.Wait("1 2 3")
	link.Cut()
	term.Wait("reconnecting")
	link.Mend()
	term.WaitGone("reconnecting")
	term.Wait("back after") // nothing was lost: the turn goes on
	term.Keys("Escape")
	if out, errs, err := h.Run("token", "revoke", "journey"); err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	term.Wait("401 Unauthorized", "$TOKEN has ended", "[exit 5]")
	if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", h.PID())); err == nil && bytes.Contains(raw, []byte(token)) {
		t.Error("the token is in a command line")
	}
}
