//go:build unix

package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

// eachDoor runs f with a URL to listen at for every kind of listener.
func eachDoor(t *testing.T, f func(t *testing.T, url string)) {
	t.Run("unix", func(t *testing.T) { f(t, socketURL(t)) })
	t.Run("ws4", func(t *testing.T) { f(t, "ws://127.0.0.1:0") })
	t.Run("ws6", func(t *testing.T) { f(t, "ws://[::1]:0") })
}

func TestSameUserComesInAsAdmin(t *testing.T) {
	eachDoor(t, func(t *testing.T, url string) {
		type caller struct {
			p           access.Principal
			via, remote string
		}
		callers := make(chan caller, 1)
		l := open(t, url, Options{}, func(ctx context.Context, s rpc.Stream, p access.Principal, via, remote string) {
			callers <- caller{p, via, remote}
			echo(ctx, s, p, via, remote)
		})
		if strings.HasSuffix(l.URL(), ":0") {
			t.Errorf("URL %s does not say which port was chosen", l.URL())
		}
		s := dial(t, l.URL())
		if got := roundTrip(t, s, `{"id":1,"method":"x"}`); got != `{"id":1,"method":"x"}` {
			t.Errorf("got %s", got)
		}
		c := <-callers
		if c.p.Kind != access.KindLocal || c.p.Role != protocol.RoleAdmin || c.p.ID != fmt.Sprintf("uid:%d", os.Geteuid()) || c.p.Name == "" {
			t.Errorf("principal = %+v", c.p)
		}
		if via, _, _ := strings.Cut(url, ":"); c.via != via || c.remote == "" {
			t.Errorf("via %q, remote %q", c.via, c.remote)
		}
	})
}

func TestLargeMessagesPassBothWays(t *testing.T) {
	l := open(t, socketURL(t), Options{}, echo)
	big := `"` + strings.Repeat("x", 40<<20) + `"`
	s := dial(t, l.URL())
	if got := roundTrip(t, s, big); got != big {
		t.Errorf("%d bytes came back of %d", len(got), len(big))
	}
	if got := roundTrip(t, s, "1"); got != "1" {
		t.Errorf("after it: %q", got)
	}
}

func TestTooLargeMessageEndsTheConnection(t *testing.T) {
	ended := make(chan error, 1)
	l := open(t, socketURL(t), Options{}, func(ctx context.Context, s rpc.Stream, _ access.Principal, _, _ string) {
		_, err := s.Read(ctx)
		ended <- err
	})
	s := dial(t, l.URL())
	_ = s.Write(t.Context(), make([]byte, rpc.MaxMessage+1)) // it may be cut off while writing
	if err := <-ended; !errors.Is(err, rpc.ErrTooLarge) {
		t.Errorf("read: %v", err)
	}
}

func TestOtherUsersAreRefused(t *testing.T) {
	for _, url := range []string{"ws://127.0.0.1:0", "ws://[::1]:0", socketURL(t)} {
		t.Run(url[:6], func(t *testing.T) {
			l := open(t, url, Options{}, echo)
			if path, ok := strings.CutPrefix(l.URL(), "unix://"); ok {
				// As if the modes had failed: the credentials must not.
				for _, p := range []string{filepath.Dir(filepath.Dir(path)), filepath.Dir(path), path} {
					if err := os.Chmod(p, 0o777); err != nil {
						t.Fatal(err)
					}
				}
			}
			cmd := asNobody(t, "TRANSPORT_TEST_DIAL="+l.URL())
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "refused") {
				t.Errorf("%v: %s", err, out)
			}
			if strings.HasPrefix(url, "ws") && !strings.Contains(string(out), "403") {
				t.Errorf("refused for another reason: %s", out)
			}
			if got := roundTrip(t, dial(t, l.URL()), "1"); got != "1" {
				t.Errorf("its owner gets %q", got)
			}
		})
	}
}

func TestUnixDoorChecksCredentialsOfRawClients(t *testing.T) {
	// Dial as a stranger already refuses our server; a client that does not look
	// must be refused by us.
	l, err := Listen(t.Context(), socketURL(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.uid++ // the caller is now somebody else
	serve(t, l, echo)
	c := rawDial(t, l.URL())
	_, _ = c.Write([]byte(upgrade("localhost")))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), "uid") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestMultipathClientOfTheSameUserComesIn(t *testing.T) {
	l := open(t, "ws://127.0.0.1:0", Options{}, echo)
	var d net.Dialer
	d.SetMultipathTCP(true)
	c, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(l.URL(), "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = c.Write([]byte(upgrade("127.0.0.1")))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestPortInUseIsExplained(t *testing.T) {
	l := open(t, "ws://127.0.0.1:0", Options{}, echo)
	_, err := Listen(t.Context(), l.URL(), Options{})
	if err == nil || !strings.Contains(err.Error(), "address already in use") || len(config.Hints(err)) == 0 {
		t.Errorf("Listen = %v", err)
	}
}

func TestLimitsOfStrangersAtTheDoor(t *testing.T) {
	eachDoor(t, func(t *testing.T, url string) {
		l := open(t, url, Options{Limits: Limits{MaxConns: 3, MaxPending: 2}}, echo)
		first := dial(t, l.URL())
		idle := []net.Conn{rawDial(t, l.URL()), rawDial(t, l.URL())}
		answer := func(c net.Conn) int {
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				return 0
			}
			_ = resp.Body.Close()
			return resp.StatusCode
		}
		if got := answer(rawDial(t, l.URL())); got != http.StatusServiceUnavailable {
			t.Errorf("beyond the limit: %d", got)
		}
		roundTrip(t, first, "1") // whoever is in stays in
		_, _ = idle[0].Write([]byte(upgrade("localhost")))
		if got := answer(idle[0]); got != http.StatusSwitchingProtocols {
			t.Errorf("within the limit: %d", got)
		}
		_ = idle[1].Close()
		_ = first.Close(nil)
		// The places come back once the server has noticed.
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			s, err := Dial(t.Context(), l.URL())
			if err == nil {
				_ = s.Close(nil)
				return
			}
			if time.Now().After(end) {
				t.Fatal(err)
			}
		}
	})
}

// Anybody on this machine reaches a TCP port. They cannot keep its owner out by
// taking all places of those who have not said what they want.
func TestSecurityStrangersDoNotTakeAllPlaces(t *testing.T) {
	l := open(t, "ws://127.0.0.1:0", Options{}, echo)
	cmd := asNobody(t, "TRANSPORT_TEST_CROWD="+strings.TrimPrefix(l.URL(), "ws://"))
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = in.Close(), cmd.Wait() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "there\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if got := roundTrip(t, dial(t, l.URL()), "1"); got != "1" {
		t.Errorf("its owner gets %q", got)
	}
}

func TestSilentClientIsCutOff(t *testing.T) {
	eachDoor(t, func(t *testing.T, url string) {
		patience := 400 * time.Millisecond
		l := open(t, url, Options{Limits: Limits{Handshake: patience}}, echo)
		silent := rawDial(t, l.URL())
		half := rawDial(t, l.URL())
		_, _ = half.Write([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n"))
		for beginning, c := range map[string]net.Conn{"nothing": silent, "half a request": half} {
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after %s: still open", beginning)
			}
		}
		// The patience is for the handshake, not for the connection.
		s := dial(t, l.URL())
		time.Sleep(2 * patience)
		roundTrip(t, s, "1")
	})
}

func TestServeEndsItsConnectionsAndWaits(t *testing.T) {
	eachDoor(t, func(t *testing.T, url string) {
		l, err := Listen(t.Context(), url, Options{})
		if err != nil {
			t.Fatal(err)
		}
		var finished atomic.Int32
		entered := make(chan struct{}, 2)
		stop := serve(t, l, func(ctx context.Context, _ rpc.Stream, _ access.Principal, _, _ string) {
			entered <- struct{}{}
			<-ctx.Done()
			time.Sleep(20 * time.Millisecond) // a clean-up that takes a moment
			finished.Add(1)
		})
		a, _, _ := dial(t, l.URL()), dial(t, l.URL()), rawDial(t, l.URL())
		<-entered
		<-entered
		stop()
		if n := finished.Load(); n != 2 {
			t.Errorf("%d of 2 connections had ended when Serve returned", n)
		}
		if _, err := a.Read(t.Context()); err == nil {
			t.Error("a client was left connected")
		}
		if _, err := Dial(t.Context(), l.URL()); err == nil {
			t.Error("still listening")
		}
		if err := l.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

func TestPanicIsContained(t *testing.T) {
	var log strings.Builder
	l, err := Listen(t.Context(), "ws://127.0.0.1:0", Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	stop := serve(t, l, func(ctx context.Context, s rpc.Stream, p access.Principal, via, remote string) {
		if msg, _ := s.Read(ctx); string(msg) == "boom" {
			panic("boom")
		}
		echo(ctx, s, p, via, remote)
	})
	bad, good := dial(t, l.URL()), dial(t, l.URL())
	if err := bad.Write(t.Context(), []byte("boom")); err != nil {
		t.Fatal(err)
	}
	if _, err := bad.Read(t.Context()); err == nil {
		t.Error("the connection lived on")
	}
	if err := good.Write(t.Context(), []byte("first")); err != nil {
		t.Fatal(err)
	}
	if got := roundTrip(t, good, "second"); got != "second" {
		t.Errorf("the neighbour got %q", got)
	}
	stop()
	if !strings.Contains(log.String(), "panicked") || !strings.Contains(log.String(), "boom") {
		t.Errorf("log: %s", &log)
	}
}
