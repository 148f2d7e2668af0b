//go:build unix

package sshfwd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/config"
)

// pythonHere is the real interpreter: a version manager's needs a whole PATH.
func tool(t testing.TB, way Way) string {
	t.Helper()
	if way != Python {
		return only(t, string(way))
	}
	for _, p := range []string{"/usr/bin/python3", "/usr/local/bin/python3"} {
		if _, err := os.Stat(p); err == nil {
			dir := only(t)
			if err := os.Symlink(p, filepath.Join(dir, "python3")); err != nil {
				t.Fatal(err)
			}
			return dir
		}
	}
	return only(t, "python3") + ":" + os.Getenv("PATH")
}

// Each way carries a request and its answer both ways at once, ends when the host
// ends, and leaves no process.
func TestEachWay(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<14) // 256 KiB each way
	port := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%x", sha256.Sum256(body))
		_, _ = w.Write(big)
	})
	for _, way := range []Way{Netcat, Bash, Socat, Python, Perl} {
		t.Run(string(way), func(t *testing.T) {
			c := NewCarrier(local{forbids: true, noise: "echo Welcome; printf 'no end'"}, port, Options{Check: speaksHTTP, path: tool(t, way)})
			c.way = "" // nothing is known
			if err := c.try(t.Context(), way); err != nil {
				t.Fatal(err)
			}
			l, err := Listen(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			wg.Go(func() {
				if err := l.Serve(ctx, c.Dial, nil); err != nil {
					t.Error(err)
				}
			})
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
			var asks sync.WaitGroup
			for range 3 {
				asks.Go(func() {
					resp, err := client.Post(fmt.Sprintf("http://127.0.0.1:%d/", l.Port()), "text/plain", bytes.NewReader(big)) //nolint:noctx // Timeout
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if want := fmt.Sprintf("%x%s", sha256.Sum256(big), big); err != nil || string(got) != want {
						t.Errorf("got %d bytes, %v", len(got), err)
					}
				})
			}
			asks.Wait()
		})
	}
}

// Where the server opens the connection itself no command is run.
func TestDirectComesFirst(t *testing.T) {
	port := server(t, http.NotFound)
	c := NewCarrier(execless{t: t}, port, Options{Check: speaksHTTP})
	if way, err := c.Find(t.Context()); err != nil || way != Direct {
		t.Fatalf("way %q, %v", way, err)
	}
}

type execless struct {
	local
	t testing.TB
}

func (e execless) Exec(context.Context, string) (Process, error) {
	e.t.Error("a command was run")
	return nil, ErrNoShell
}

// A tool that is there and does not work is passed over for one that does.
func TestFindPassesOverWhatDoesNotWork(t *testing.T) {
	port := server(t, http.NotFound)
	dir := only(t, "perl")
	for _, name := range []string{"nc", "bash", "socat"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho no such option >&2\nexit 1\n"), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	c := NewCarrier(local{forbids: true}, port, Options{Check: speaksHTTP, path: dir})
	if way, err := c.Find(t.Context()); err != nil || way != Perl {
		t.Fatalf("way %q, %v", way, err)
	}
}

func TestFindSaysWhatWasTried(t *testing.T) {
	port := server(t, http.NotFound)
	for name, tc := range map[string]struct {
		host Host
		path string
		says string
	}{
		"no tools":        {local{forbids: true}, only(t), "there is none of towline, nc, bash, socat, python3 and perl"},
		"no shell":        {shellless{}, "", "direct-tcpip: forbidden"},
		"a mute shell":    {local{forbids: true, noise: "exit 0"}, "", "the login shell did not run the script"},
		"prints for ever": {local{forbids: true, noise: "yes aaaaaaaaaaaaaaaaaaaaaaaaaaa; exit"}, "", "prints without end"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewCarrier(tc.host, port, Options{Name: "box", Check: speaksHTTP, path: tc.path}).Find(t.Context())
			var p *config.Problem
			if !errors.As(err, &p) || p.Stage != Stage || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("error %v does not say %q", err, tc.says)
			}
			if hints := strings.Join(config.Hints(err), "\n"); !strings.Contains(hints, "towline login box --device-auth") {
				t.Errorf("hints %q", hints)
			}
		})
	}
}

type shellless struct{}

func (shellless) DialTCP(context.Context, string) (net.Conn, error) {
	return nil, errors.New("forbidden")
}
func (shellless) Exec(context.Context, string) (Process, error) { return nil, ErrNoShell }

// A port that leads to something else than what is wanted is no way.
func TestFindChecks(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "220 mail.example ESMTP\r\n")
			_ = c.Close()
		}
	})
	defer wg.Wait()
	defer func() { _ = ln.Close() }()
	c := NewCarrier(local{}, ln.Addr().(*net.TCPAddr).Port, Options{Check: speaksHTTP, path: only(t)})
	if way, err := c.Find(t.Context()); err == nil {
		t.Fatalf("way %q", way)
	}
}

func TestHold(t *testing.T) {
	for _, program := range []Way{Python, Perl} {
		t.Run(string(program), func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			port := ln.Addr().(*net.TCPAddr).Port
			path := tool(t, program)
			if _, err := Hold(t.Context(), local{}, port, Options{path: path}); err == nil {
				t.Fatal("a port was held that is busy")
			}
			_ = ln.Close()
			release, err := Hold(t.Context(), local{}, port, Options{path: path})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Listen(t.Context(), port); !Busy(err) {
				t.Errorf("the port is not held: %v", err)
			}
			// Whoever comes is hung up on at once: a login that asks for the port waits
			// for an answer otherwise.
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)) //nolint:noctx // loopback
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(patience))
			if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read %d, %v", n, err)
			}
			_ = c.Close()
			release()
			l, err := Listen(t.Context(), port)
			if err != nil {
				t.Fatalf("the port is still held: %v", err)
			}
			_ = l.Close()
		})
	}
}

func TestListenTakesBothOrNone(t *testing.T) {
	six, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 loopback here: %v", err)
	}
	port := six.Addr().(*net.TCPAddr).Port
	if _, err := Listen(t.Context(), port); !Busy(err) {
		t.Fatalf("the port was taken on one address: %v", err)
	}
	_ = six.Close()
	l, err := Listen(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if len(l.lns) != 2 {
		t.Errorf("%d listeners", len(l.lns))
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Serve(t.Context(), nil, nil); err != nil {
		t.Errorf("serving a closed listener: %v", err)
	}
}

// What comes before Serve waits, and is carried.
func TestListenerWaitsForServe(t *testing.T) {
	port := server(t, http.NotFound)
	l, err := Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
		resp, err := client.Get((&url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", l.Port())}).String()) //nolint:noctx // Timeout
		if err == nil {
			_ = resp.Body.Close()
		}
		got <- err
	}()
	c := NewCarrier(local{}, port, Options{Check: speaksHTTP})
	if _, err := c.Find(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Serve(ctx, c.Dial, nil) })
	if err := <-got; err != nil {
		t.Error(err)
	}
	cancel()
	wg.Wait()
}

func FuzzAnswer(f *testing.F) {
	f.Add("@towline-0123 go\nrest")
	f.Add("banner @towline-0123 no why not\n")
	f.Add(strings.Repeat("x", 70000))
	f.Fuzz(func(t *testing.T, said string) {
		s := newStreamForTest(said)
		text, err := s.answer("@towline-0123 ")
		if err == nil && (strings.ContainsRune(text, '\n') || !strings.Contains(said, "@towline-0123 ")) {
			t.Errorf("answer %q", text)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("error %q", err)
		}
	})
}
