//go:build unix

package transport

import (
	"context"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/rpc"
)

func TestListenerGoesOnInAnotherHand(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.pair(t, 1, time.Now().Add(time.Hour), "127.0.0.1")
	files := newCertFiles(t, cert, key)
	long := "unix://" + filepath.Join(shortDir(t), strings.Repeat("deep/", 30), "sock")
	for name, url := range map[string]string{
		"unix": socketURL(t), "a long path": long, "ws": "ws://127.0.0.1:0", "ws6": "ws://[::1]:0", "wss": "wss://127.0.0.1:0",
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Certificates: files.open(t, nil)}
			knock := func(l *Listener) rpc.Stream {
				if !strings.HasPrefix(l.URL(), "wss") {
					return dial(t, l.URL())
				}
				c, err := tlsDial(t, l, &tls.Config{RootCAs: ca.pool})
				if err != nil {
					t.Fatal(err)
				}
				s, err := rpc.DialWebSocket(t.Context(), c, rpc.WebSocketOptions{})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close(nil) })
				return s
			}
			tagged := func(tag string) AcceptFunc {
				return func(ctx context.Context, s rpc.Stream, _ access.Principal, _, _ string) {
					for {
						if _, err := s.Read(ctx); err != nil {
							return
						}
						if s.Write(ctx, []byte(tag)) != nil {
							return
						}
					}
				}
			}
			old, err := Listen(t.Context(), url, o)
			if err != nil {
				t.Fatal(err)
			}
			stop := serve(t, old, tagged("old"))
			before := knock(old)
			if got := roundTrip(t, before, "1"); got != "old" {
				t.Fatalf("%q", got)
			}
			h, err := old.HandOver()
			if err != nil {
				t.Fatal(err)
			}
			if h.Asked != url || h.URL != old.URL() {
				t.Errorf("%+v", h)
			}
			_ = h.File.Fd()    // as whoever passes it on may ask
			both := knock(old) // both may accept; only one does so far
			if err := old.Release(); err != nil {
				t.Fatal(err)
			}
			heir, err := Adopt(h, o)
			if err != nil {
				t.Fatal(err)
			}
			if heir.URL() != old.URL() || heir.Asked() != url {
				t.Errorf("%s, asked for as %s", heir.URL(), heir.Asked())
			}
			serve(t, heir, tagged("new"))
			if got := roundTrip(t, knock(heir), "1"); got != "new" {
				t.Errorf("somebody new reaches the %s one", got)
			}
			for _, s := range []rpc.Stream{before, both} {
				if got := roundTrip(t, s, "1"); got != "old" {
					t.Errorf("who was there gets %q", got)
				}
			}
			stop() // the old hand lets go: of its clients, and of nothing else
			if _, err := before.Read(t.Context()); err == nil {
				t.Error("a client of the old one is left")
			}
			if got := roundTrip(t, knock(heir), "1"); got != "new" {
				t.Errorf("after the end of the old one: %q", got)
			}
			if err := heir.Close(); err != nil {
				t.Fatal(err)
			}
			if path, ok := strings.CutPrefix(heir.URL(), "unix://"); ok {
				if _, err := os.Lstat(path); err == nil {
					t.Error("the heir leaves its socket behind")
				}
			}
		})
	}
}

// After Release a listener ends by itself once its clients have left.
func TestReleasedListenerEndsWithItsClients(t *testing.T) {
	l, err := Listen(t.Context(), "ws://127.0.0.1:0", Options{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Serve(context.Background(), echo) }()
	s := dial(t, l.URL())
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, s, "1")
	_ = s.Close(nil)
	wait(t, done)
}

func TestAdoptTakesOnlyWhatIsMeant(t *testing.T) {
	unix, ws := open(t, socketURL(t), Options{}, echo), open(t, "ws://127.0.0.1:0", Options{}, echo)
	hand := func(l *Listener, as string) Handed {
		h, err := l.HandOver()
		if err != nil {
			t.Fatal(err)
		}
		h.Asked = as
		return h
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]Handed{
		"a port as a socket":     hand(ws, unix.URL()),
		"a socket as a port":     hand(unix, "ws://127.0.0.1:0"),
		"another path":           hand(unix, socketURL(t)),
		"another address":        hand(ws, "ws://[::1]:0"),
		"no socket":              {Asked: "ws://127.0.0.1:0", File: null},
		"TLS without a cert":     hand(ws, "wss://127.0.0.1:0"),
		"beyond what is allowed": hand(ws, "ws://0.0.0.0:0"),
	} {
		if l, err := Adopt(h, Options{}); err == nil {
			_ = l.Close()
			t.Errorf("%s is taken", name)
		}
		if _, err := h.File.Stat(); err == nil {
			t.Errorf("%s: the file is open still", name)
		}
	}
	roundTrip(t, dial(t, unix.URL()), "1")
	roundTrip(t, dial(t, ws.URL()), "1")
}
