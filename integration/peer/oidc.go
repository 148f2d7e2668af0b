package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// OIDC says what an independent OpenID provider is like: panva's oidc-provider,
// run by node with integration/testdata/oidc/server.mjs, where the words are
// explained. The zero value asks whoever logs in, with buttons #allow and #deny.
type OIDC struct {
	// Issuer is its name; empty is where it listens, on loopback. With Machines
	// the name is a site of theirs: https://NAME.
	Issuer   string
	Machines []*Machine
	// Auto decides for whoever is asked: "allow" or "deny".
	Auto string

	AccessTTL, CodeTTL, DeviceTTL, Interval time.Duration // in whole seconds
}

// The one account and the one client of an [OIDCProvider].
const (
	OIDCClient  = "towline-test"
	OIDCEmail   = "grace@example.com"
	OIDCSubject = "grace-1906"
)

// OIDCProvider is a running one.
type OIDCProvider struct {
	URL  string // of the issuer
	Addr string // where it listens: 127.0.0.1:PORT
	*Web        // of the machines; nil without

	t   testing.TB
	cmd *exec.Cmd

	mu  sync.Mutex // one command at a time
	in  io.WriteCloser
	out *bufio.Reader
}

// moduleRoot is the checkout, above whichever folder the test runs in.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = up
	}
}

// StartOIDC starts one until the end of the test.
func StartOIDC(t testing.TB, o OIDC) *OIDCProvider {
	t.Helper()
	Need(t, "node")
	dir := filepath.Join(moduleRoot(t), "integration", "testdata", "oidc")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "oidc-provider")); err != nil {
		Lacking(t, "panva's oidc-provider: run `npm ci --prefix integration/testdata/oidc`")
	}
	p := &OIDCProvider{t: t}
	p.cmd = exec.Command("node", filepath.Join(dir, "server.mjs")) //nolint:noctx // ended below
	said := &syncBuffer{}
	p.cmd.Stderr = said
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NODE_ENV=production"}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("the provider said:\n%s", said)
		}
	})
	config := map[string]any{"client": OIDCClient, "email": OIDCEmail, "subject": OIDCSubject, "auto": o.Auto}
	if o.Issuer != "" {
		config["issuer"] = o.Issuer
	}
	for name, d := range map[string]time.Duration{"accessTTL": o.AccessTTL, "codeTTL": o.CodeTTL, "deviceTTL": o.DeviceTTL, "interval": o.Interval} {
		if d > 0 {
			config[name] = int(d.Seconds())
		}
	}
	var ready struct {
		Ready bool
		Port  int
	}
	p.exchange(config, &ready)
	p.Addr = fmt.Sprintf("127.0.0.1:%d", ready.Port)
	p.URL = o.Issuer
	if p.URL == "" {
		p.URL = "http://" + p.Addr
	}
	if len(o.Machines) > 0 {
		p.Web = NewWeb(t)
		p.Serve(&httputil.ReverseProxy{ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: p.Addr})
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		}}, []string{strings.TrimPrefix(o.Issuer, "https://")}, o.Machines...)
	}
	return p
}

// exchange sends one line and reads the answer.
func (p *OIDCProvider) exchange(line, answer any) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	raw, err := json.Marshal(line)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.in.Write(append(raw, '\n')); err != nil {
		p.t.Fatalf("the provider is gone: %v", err)
	}
	type read struct {
		line []byte
		err  error
	}
	c := make(chan read, 1)
	go func() { b, err := p.out.ReadBytes('\n'); c <- read{b, err} }() // ends with the process
	select {
	case r := <-c:
		if r.err != nil {
			p.t.Fatalf("the provider ended: %v", r.err)
		}
		if err := json.Unmarshal(r.line, answer); err != nil {
			p.t.Fatalf("the provider said %q: %v", r.line, err)
		}
	case <-time.After(Patience):
		p.t.Fatalf("the provider does not answer %s", raw)
	}
}

func (p *OIDCProvider) tell(command string, value any) {
	p.t.Helper()
	var ignored map[string]any
	p.exchange(map[string]any{command: value}, &ignored)
}

// Skew sets its clock off by d from now on.
func (p *OIDCProvider) Skew(d time.Duration) { p.t.Helper(); p.tell("skew", d.Seconds()) }

// SlowDown tells the next n polls for a device code that they come too often.
func (p *OIDCProvider) SlowDown(n int) { p.t.Helper(); p.tell("slowDown", n) }

// Auto decides for whoever is asked from now on: "allow", "deny", or "" to ask.
func (p *OIDCProvider) Auto(decision string) { p.t.Helper(); p.tell("auto", decision) }

// Outage closes its port and every connection, until Return.
func (p *OIDCProvider) Outage() { p.t.Helper(); p.tell("listen", false) }

// Return ends an Outage. It has forgotten nothing.
func (p *OIDCProvider) Return() { p.t.Helper(); p.tell("listen", true) }

// Stats is how often things have happened: "polls", "polled early", "told to
// slow down", "grant.success authorization_code", "grant.error refresh_token",
// "grant.revoked".
func (p *OIDCProvider) Stats() map[string]int {
	p.t.Helper()
	var answer struct{ Stats map[string]int }
	p.exchange(map[string]any{"stats": true}, &answer)
	return answer.Stats
}

var deviceForm = regexp.MustCompile(`name="(xsrf|user_code)" value="([^"]*)"|action="([^"]+)"`)

// TypeCode is the person who types a device code into the provider's page,
// confirms it, and meets what Auto decides; or, with abort, says it is not theirs.
// It returns the last page.
func (p *OIDCProvider) TypeCode(userCode string, abort bool) string {
	p.t.Helper()
	jar, _ := cookiejar.New(nil)
	c := &http.Client{Jar: jar, Timeout: Patience}
	page := p.get(c, "http://"+p.Addr+"/device?user_code="+url.QueryEscape(userCode))
	// The page with the code filled in posts itself where there are scripts.
	for step := 0; step < 2 && strings.Contains(page, "<form"); step++ {
		form := url.Values{"user_code": {userCode}}
		for _, m := range deviceForm.FindAllStringSubmatch(page, -1) {
			if m[1] != "" {
				form.Set(m[1], m[2])
			}
		}
		if strings.Contains(page, `id="confirm"`) {
			form.Set("confirm", "yes")
			if abort {
				form.Set("abort", "yes")
			}
		}
		resp, err := c.PostForm("http://"+p.Addr+"/device", form)
		page = p.body(resp, err)
	}
	return page
}

func (p *OIDCProvider) get(c *http.Client, address string) string {
	p.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, address, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := c.Do(req)
	return p.body(resp, err)
}

func (p *OIDCProvider) body(resp *http.Response, err error) string {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(raw)
}
