//go:build unix

package codex

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// lent is a network that comes and goes.
type lent struct {
	mu      sync.Mutex
	url     string
	changed chan struct{}
}

func newLent() *lent { return &lent{changed: make(chan struct{})} }

func (l *lent) Proxy() (string, string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.url, "127.0.0.1,localhost", l.changed
}

func (l *lent) set(url string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.url = url
	close(l.changed)
	l.changed = make(chan struct{})
}

// untilProxy waits for how the proxy is used.
func untilProxy(t *testing.T, e *Engine, want ProxyUse) {
	t.Helper()
	deadline := time.After(patience)
	for {
		use, changed := e.Proxy()
		if use == want {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("the proxy is %q, not %q", use, want)
		}
	}
}

// proxyOf is what a process has in its environment.
func proxyOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for kv := range strings.SplitSeq(string(b), "\x00") {
		if name, v, _ := strings.Cut(kv, "="); strings.EqualFold(name, "HTTPS_PROXY") {
			found = append(found, v)
		}
	}
	if len(found) == 2 && found[0] == found[1] {
		return found[0]
	}
	return strings.Join(found, " ")
}

func TestALentNetworkReachesTheServer(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		network, hold := newLent(), make(chan struct{})
		e, log, _ := run(t, Config{
			Binary: bin, Environ: newHome(t, endpoint(t, "done", hold)), ShareControlSocket: true, Cwd: t.TempDir(), Network: network,
		})
		until(t, e, "ready", ready)
		if got := proxyOf(t, log.pids()[0]); got != "http://127.0.0.1:9" {
			t.Errorf("before, the proxy is %q", got)
		}
		// At work: it is left alone.
		c := connect(t, e)
		var started struct{ Thread struct{ ID string } }
		c.call("thread/start", nil, &started)
		c.call("turn/start", map[string]any{"threadId": started.Thread.ID, "input": []any{map[string]any{"type": "text", "text": "hi"}}}, nil)
		c.await("turn/started")
		network.set("http://127.0.0.1:1234")
		untilProxy(t, e, ProxyWaits)
		if len(log.pids()) != 1 {
			t.Fatalf("a turn runs, and the servers are %v", log.pids())
		}
		close(hold)
		c.await("turn/completed")
		untilProxy(t, e, ProxyUsed)
		until(t, e, "ready", ready)
		pids := log.pids()
		if len(pids) != 2 || proxyOf(t, pids[1]) != "http://127.0.0.1:1234" {
			t.Fatalf("the servers were %v", pids)
		}
		connect(t, e).call("thread/loaded/list", nil, nil)
		// Taken back: it leads out as before, so nothing is ended for it.
		network.set("")
		untilProxy(t, e, ProxyNone)
		network.set("http://127.0.0.1:1234")
		untilProxy(t, e, ProxyUsed)
		if n := len(log.pids()); n != 2 {
			t.Errorf("%d servers were started", n)
		}
	})
}

func TestADaemonOfCodexsOwnCannotBeTold(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		env := newHome(t, "http://127.0.0.1:9/v1")
		first, log, _ := run(t, Config{Binary: bin, Environ: env, ShareControlSocket: true})
		until(t, first, "ready", ready)
		network := newLent()
		network.set("http://127.0.0.1:1234")
		second, _, _ := run(t, Config{Binary: bin, Environ: env, ShareControlSocket: true, Network: network})
		until(t, second, "ready", ready)
		untilProxy(t, second, ProxyForeign)
		if n := len(log.pids()); n != 1 {
			t.Errorf("%d servers were started", n)
		}
	})
}

func TestAnEnvironmentWithOneProxy(t *testing.T) {
	got := withProxy([]string{"A=1", "https_proxy=x", "HTTPS_PROXY=y", "All_Proxy=z", "NO_PROXY=q", "HTTP_PROXYX=k"}, "http://p", "h")
	want := "A=1 HTTP_PROXYX=k HTTPS_PROXY=http://p https_proxy=http://p HTTP_PROXY=http://p http_proxy=http://p NO_PROXY=h no_proxy=h"
	if strings.Join(got, " ") != want {
		t.Errorf("%v", got)
	}
}
