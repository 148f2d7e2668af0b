package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Browser is a headless Chromium with one page, on the machine of an account. It
// speaks the DevTools protocol over a pair of pipes: JSON messages, each ended
// by a zero byte.
type Browser struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   *os.File // to the browser
	page string   // the session of its page

	ids  atomic.Int64
	done chan struct{} // closed when the browser says no more

	mu      sync.Mutex // guards what follows, and writing
	waiting map[int64]chan devtoolsMessage
	visited []string // what the page was led to, redirects included
}

type devtoolsMessage struct {
	ID        int64           `json:"id,omitempty"`
	Method    string          `json:"method,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// StartBrowser starts one for the account u, where u is. It accepts the sites of
// w, which may be nil, and knows no others that need a certificate.
func StartBrowser(t testing.TB, u *User, w *Web) *Browser {
	t.Helper()
	Need(t, "chromium")
	profile := u.Mkdir("chromium-" + random(t, 3))
	args := []string{
		"chromium", "--headless=new", "--remote-debugging-pipe", "--user-data-dir=" + profile,
		// The accounts of tests have no namespaces to make a sandbox of.
		"--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--no-proxy-server",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
		"--disable-default-apps", "--metrics-recording-only", "--password-store=basic", "--mute-audio",
	}
	if w != nil {
		args = append(args, "--ignore-certificate-errors-spki-list="+w.pin())
	}
	b := &Browser{t: t, done: make(chan struct{}), waiting: map[int64]chan devtoolsMessage{}}
	theirIn, ourOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ourIn, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	said := &syncBuffer{}
	b.in = ourOut
	b.cmd = u.Command(context.Background(), append(args, "about:blank")...)
	b.cmd.ExtraFiles = []*os.File{theirIn, theirOut} // 3 and 4
	b.cmd.Stdout, b.cmd.Stderr = said, said
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = theirIn.Close(), theirOut.Close()
	go b.read(ourIn)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the browser is at %s, was led to %q and shows:\n%s", b.URL(), b.Visited(), b.Text())
			t.Logf("chromium said:\n%s", said)
		}
		b.Close()
	})
	var target struct{ TargetID string }
	b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.page = attached.SessionID
	b.call(b.page, "Network.enable", nil, nil)
	return b
}

// Close ends the browser and everything it started.
func (b *Browser) Close() {
	_ = b.in.Close() // it leaves when nobody drives it
	if b.cmd.ProcessState != nil {
		return
	}
	// Its children are in its session: StartBrowser began one.
	_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL)
	_ = b.cmd.Wait()
	<-b.done
}

func (b *Browser) read(from *os.File) {
	defer close(b.done)
	defer func() { _ = from.Close() }()
	for in := bufio.NewReader(from); ; {
		raw, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m devtoolsMessage
		if json.Unmarshal(raw[:len(raw)-1], &m) != nil {
			continue
		}
		b.hear(m)
	}
}

func (b *Browser) hear(m devtoolsMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.Method == "Network.requestWillBeSent" {
		var p struct {
			Type        string
			DocumentURL string
			Request     struct{ URL string }
		}
		if json.Unmarshal(m.Params, &p) == nil && p.Type == "Document" {
			b.visited = append(b.visited, p.Request.URL)
		}
	}
	if c, ok := b.waiting[m.ID]; ok {
		delete(b.waiting, m.ID)
		c <- m
	}
}

// ask sends one command and waits for its answer.
func (b *Browser) ask(session, method string, params map[string]any, result any) error {
	id := b.ids.Add(1)
	raw, err := json.Marshal(map[string]any{"id": id, "method": method, "sessionId": session, "params": params})
	if session == "" {
		raw, err = json.Marshal(map[string]any{"id": id, "method": method, "params": params})
	}
	if err != nil {
		return err
	}
	c := make(chan devtoolsMessage, 1)
	b.mu.Lock()
	b.waiting[id] = c
	_, err = b.in.Write(append(raw, 0))
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case m := <-c:
		if m.Error != nil {
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		}
		if result != nil {
			return json.Unmarshal(m.Result, result)
		}
		return nil
	case <-b.done:
		return errors.New("the browser has ended")
	case <-time.After(Patience):
		return fmt.Errorf("%s: no answer", method)
	}
}

func (b *Browser) call(session, method string, params map[string]any, result any) {
	b.t.Helper()
	if err := b.ask(session, method, params, result); err != nil {
		b.t.Fatalf("chromium: %v", err)
	}
}

// eval runs an expression in the page. A page that is just being left has no
// value.
func (b *Browser) eval(expression string, value any) bool {
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	err := b.ask(b.page, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &r)
	return err == nil && r.ExceptionDetails == nil && json.Unmarshal(r.Result.Value, value) == nil
}

// Open leads the page to the address, as typed into the address bar, and
// returns what it came to in the end if nothing was asked on the way.
func (b *Browser) Open(address string) {
	b.t.Helper()
	var r struct{ ErrorText string }
	b.call(b.page, "Page.navigate", map[string]any{"url": address}, &r)
	// A redirect that nobody listens for is the page's business: see Wait.
	if r.ErrorText != "" && !strings.Contains(r.ErrorText, "ERR_CONNECTION") && !strings.Contains(r.ErrorText, "ERR_ABORTED") {
		b.t.Fatalf("chromium opened %s: %s", address, r.ErrorText)
	}
}

// Text is what a person reads on the page now.
func (b *Browser) Text() string {
	var s string
	b.eval("document.body ? document.body.innerText : ''", &s)
	return s
}

// URL is what the address bar shows.
func (b *Browser) URL() string {
	var s string
	b.eval("location.href", &s)
	return s
}

// Visited are the addresses the page was led to so far, redirects included.
func (b *Browser) Visited() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.visited...)
}

// Wait waits until the page shows every one of want and returns its text.
func (b *Browser) Wait(want ...string) string {
	b.t.Helper()
	return b.until(fmt.Sprintf("%q", want), func(text string) bool {
		for _, w := range want {
			if !strings.Contains(text, w) {
				return false
			}
		}
		return true
	})
}

// WaitPath waits until the page's address has the host and path, and returns it.
func (b *Browser) WaitPath(host, path string) *url.URL {
	b.t.Helper()
	var at *url.URL
	b.until(host+path, func(string) bool {
		var err error
		at, err = url.Parse(b.URL())
		return err == nil && at.Host == host && at.Path == path
	})
	return at
}

func (b *Browser) until(what string, ok func(text string) bool) string {
	b.t.Helper()
	for end := time.Now().Add(Patience); ; time.Sleep(30 * time.Millisecond) {
		text := b.Text()
		if ok(text) {
			return text
		}
		if time.Now().After(end) {
			b.t.Fatalf("the page never showed %s; it is %s and shows:\n%s\nit was led to %q", what, b.URL(), text, b.Visited())
		}
	}
}

// Click clicks what the CSS selector names, once it is there.
func (b *Browser) Click(selector string) {
	b.t.Helper()
	b.act(selector, "e.click()")
}

// Fill types text into what the CSS selector names, once it is there.
func (b *Browser) Fill(selector, text string) {
	b.t.Helper()
	raw, _ := json.Marshal(text)
	b.act(selector, "e.value = "+string(raw))
}

func (b *Browser) act(selector, what string) {
	b.t.Helper()
	raw, _ := json.Marshal(selector)
	b.until(selector, func(string) bool {
		var there bool
		return b.eval("(() => { const e = document.readyState == 'complete' && document.querySelector("+string(raw)+"); if (!e) return false; "+what+"; return true })()", &there) && there
	})
}
