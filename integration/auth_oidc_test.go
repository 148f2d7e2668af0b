package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/integration/peer"
)

// idToken is one of the provider's own: what a program gets that has its owner's
// consent and no secret.
func idToken(t *testing.T, p *peer.OIDCProvider) string {
	t.Helper()
	post := func(path string, form url.Values, to any) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
		defer cancel()
		form.Set("client_id", peer.OIDCClient)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.Addr+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(raw, to) != nil {
			t.Fatalf("%s: %s, %v: %s", path, resp.Status, err, raw)
		}
	}
	var device struct {
		Device string `json:"device_code"`
		User   string `json:"user_code"`
	}
	post("/device/auth", url.Values{"scope": {"openid email"}}, &device)
	p.TypeCode(device.User, false)
	var tokens struct {
		ID string `json:"id_token"`
	}
	post("/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {device.Device}}, &tokens)
	if strings.Count(tokens.ID, ".") != 2 {
		t.Fatal("the provider gave no id token")
	}
	return tokens.ID
}

// A token of an independent OpenID provider opens a listener for as much as a rule
// says, and nothing on the host is a secret.
func TestIdentityTokenBecomesAPrincipal(t *testing.T) {
	t.Parallel()
	provider := peer.StartOIDC(t, peer.OIDC{Auto: "allow"})
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("let me in")
	h := peer.Start(t, peer.HostConfig{
		Args: []string{"--listen", "ws://127.0.0.1:0"},
		TOML: fmt.Sprintf(`
[engine]
kind = "native"
[engine.native]
rehearsal = true
[[app_server.auth.capability]]
name = "phone"
file = %q
[[app_server.auth.jwt]]
name = "ci"
issuer = %q
audience = [%q]
  [[app_server.auth.jwt.rules]]
  claims = { email = "*@example.com", email_verified = "true" }
  principal = "{email}"
`, file, provider.URL, peer.OIDCClient),
	})
	dial := func(token string) (*talker, error) {
		ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
		defer cancel()
		s, err := transport.DialWith(ctx, h.WS(), transport.DialOptions{Token: token})
		if err != nil {
			return nil, err
		}
		c := newTalker(s, false)
		t.Cleanup(c.end)
		return c, c.hello(ctx)
	}
	refused := func(token, want string) {
		t.Helper()
		_, err := dial(token)
		var no *rpc.HandshakeError
		if !errors.As(err, &no) || fmt.Sprint(no.Status, " ", no.Text) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	good := idToken(t, provider)
	c, err := dial(good)
	if err != nil {
		t.Fatal(err)
	}
	var opened protocol.ThreadOpened
	if err := c.Call(t.Context(), "thread/start", map[string]any{}, &opened); err != nil {
		t.Errorf("what its scope allows: %v", err)
	}
	for method, params := range map[string]any{
		"fs/readFile":    map[string]any{"path": "/etc/hostname"},
		"command/exec":   map[string]any{"command": []string{"id"}},
		"account/logout": map[string]any{},
		"thread/start":   map[string]any{"sandbox": "danger-full-access"},
	} {
		if err := c.Call(t.Context(), method, params, nil); err == nil {
			t.Errorf("%s is beyond its scope and was allowed", method)
		}
	}

	part := strings.Split(good, ".")
	refused("", "401 missing websocket bearer token")
	refused(part[0]+"."+part[1]+"."+part[2][:len(part[2])-4]+"AAAA", "401 invalid websocket jwt")
	refused(part[0]+"."+part[1]+".", "401 invalid websocket jwt")
	provider.Skew(-2 * time.Hour)
	late := idToken(t, provider)
	refused(late, "401 expired websocket jwt")
	provider.Skew(0)
	another := idToken(t, provider)
	provider.Outage() // the keys are known by now
	if _, err := dial(another); err != nil {
		t.Errorf("while the provider is away: %v", err)
	}

	// Another credential beside it, exchanged while the host runs.
	phone, err := dial("let me in")
	if err != nil {
		t.Fatal(err)
	}
	write("open sesame")
	select {
	case <-phone.done:
	case <-time.After(peer.Patience):
		t.Error("who came by a secret that was taken away is still there")
	}
	refused("let me in", "401 invalid websocket bearer token")
	if _, err := dial("open sesame"); err != nil {
		t.Error(err)
	}
	select {
	case <-c.done:
		t.Error("somebody else's connection ended with it")
	default:
	}

	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	audit, err := os.ReadFile(filepath.Join(h.Home, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"ci ` + peer.OIDCSubject + `"`, `"` + peer.OIDCEmail + `"`, `"auth.refused"`, "it expired"} {
		if !strings.Contains(string(audit), want) {
			t.Errorf("the audit does not hold %s:\n%s", want, audit)
		}
	}
	for _, token := range []string{good, late, another} {
		for _, secret := range strings.Split(token, ".")[1:] {
			if strings.Contains(h.Log()+string(audit), secret) {
				t.Error("a part of a token is in the log or the audit")
			}
		}
	}
}
