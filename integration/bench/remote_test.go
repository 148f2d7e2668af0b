package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/integration/peer"
)

// site is a laptop and a host with Towline, "dev", behind any number of bastions.
type site struct {
	*peer.Laptop
	host   *peer.User
	server *peer.Server // the target's
}

func newSite(b *testing.B, bastions int) *site {
	b.Helper()
	s := &site{Laptop: peer.NewLaptop(b), host: peer.NewUser(b, peer.Account{})}
	s.host.Rehearse()
	s.host.Place(peer.Binary(b), ".local/bin/towline")
	names := []string{"outer", "inner"}[:bastions]
	var before []string
	places := peer.Chain(b, bastions+1)
	for i, place := range places {
		name := "dev"
		if i < bastions {
			name = names[i]
		}
		s.server = peer.StartOpenSSH(b, peer.OpenSSH{Place: place})
		s.Reach(name, s.server, s.host, before...)
		before = []string{"ProxyJump " + name}
	}
	return s
}

// connect is the time from the command to the line that says ready.
func (s *site) connect(b *testing.B) time.Duration {
	b.Helper()
	start := time.Now()
	cmd := s.Command(b.Context(), peer.Binary(b), "connect", "dev", "--json")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	took := time.Duration(0)
	for in := bufio.NewScanner(out); in.Scan(); {
		var e struct {
			Stage string `json:"stage"`
			Done  bool   `json:"done"`
		}
		if json.Unmarshal(in.Bytes(), &e) == nil && e.Stage == "ready" && took == 0 {
			took = time.Since(start)
		}
	}
	if err := cmd.Wait(); err != nil || took == 0 {
		b.Fatalf("connect: %v\n%s", err, &errs)
	}
	return took
}

// ssh is the time of `ssh dev true`.
func (s *site) ssh(b *testing.B) time.Duration {
	b.Helper()
	start := time.Now()
	if out, err := s.Command(b.Context(), "ssh", "dev", "true").CombinedOutput(); err != nil {
		b.Fatalf("ssh: %v\n%s", err, out)
	}
	return time.Since(start)
}

// BenchmarkConnect is the time from `towline dev` to ready, on a host that was
// met before and whose daemon runs, against `ssh dev true` through the same
// hops. Goal: at most 1.5.
func BenchmarkConnect(b *testing.B) {
	for name, bastions := range map[string]int{"direct": 0, "two bastions": 2} {
		b.Run(name, func(b *testing.B) {
			s := newSite(b, bastions)
			ratio(b, "towline/ssh-true", func() time.Duration { return s.connect(b) }, func() time.Duration { return s.ssh(b) })
		})
	}
}

// BenchmarkConnectColdHost is the same where the daemon has to be started first:
// the goal of BenchmarkConnect plus that start, which is reported.
func BenchmarkConnectColdHost(b *testing.B) {
	s := newSite(b, 0)
	s.connect(b)
	ratio(b, "towline/ssh-true",
		func() time.Duration { s.host.End(); return s.connect(b) },
		func() time.Duration { return s.ssh(b) })
}

// bridged starts `towline bridge dev` and returns its socket.
func (s *site) bridged(b *testing.B) string {
	b.Helper()
	sock := s.Path("b.sock")
	cmd := s.Command(b.Context(), peer.Binary(b), "bridge", "dev", "--json", "--listen", "unix://"+sock)
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadBytes('\n'); err != nil {
		b.Fatalf("the bridge: %v", err)
	}
	return sock
}

// hello makes a client of a stream.
func hello(b *testing.B, s rpc.Stream) *client {
	b.Helper()
	c := &client{notes: make(chan note, 1<<17), done: make(chan struct{})}
	c.Peer = rpc.NewPeer(s, c)
	go func() { defer close(c.done); _ = c.Serve(context.Background()) }()
	if err := c.Call(b.Context(), "initialize", protocol.InitializeParams{
		ClientInfo:   protocol.ClientInfo{Name: "bench", Version: "1"},
		Capabilities: &protocol.Capabilities{ExperimentalAPI: true},
	}, nil); err != nil {
		b.Fatal(err)
	}
	return c
}

// asUser runs f with the effective user id of the account: sockets are only
// served to, and dialled from, their owner.
func asUser(b *testing.B, u *peer.User, f func()) {
	b.Helper()
	if err := syscall.Seteuid(u.UID); err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := syscall.Seteuid(0); err != nil {
			b.Fatal(err)
		}
	}()
	f()
}

// dialAs connects to a unix socket of the account.
func dialAs(b *testing.B, u *peer.User, sock string) *client {
	b.Helper()
	var s rpc.Stream
	var err error
	asUser(b, u, func() { s, err = transport.Dial(b.Context(), "unix://"+sock) })
	if err != nil {
		b.Fatal(err)
	}
	return hello(b, s)
}

// command is the two ends of a program's standard streams.
type command struct {
	io.Reader
	io.WriteCloser
}

// BenchmarkBridgeRoundTrip is one small request through the bridge's socket,
// against the same over a plain `ssh dev towline app-server proxy`. Goal: at
// most 1.15.
func BenchmarkBridgeRoundTrip(b *testing.B) {
	s := newSite(b, 0)
	s.connect(b) // the daemon runs
	bridged := dialAs(b, s.User, s.bridged(b))
	defer bridged.end()

	cmd := s.Command(b.Context(), "ssh", "dev", s.host.Path(".local/bin/towline")+" app-server proxy")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	raw, err := rpc.DialWebSocket(b.Context(), command{out, in}, rpc.WebSocketOptions{})
	if err != nil {
		b.Fatal(err)
	}
	plain := hello(b, raw)
	defer plain.end()

	call := func(c *client) time.Duration {
		start := time.Now()
		for range 50 {
			if err := c.Call(b.Context(), "thread/loaded/list", nil, nil); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(start) / 50
	}
	ratio(b, "bridge/ssh-pipe", func() time.Duration { return call(bridged) }, func() time.Duration { return call(plain) })
}

// BenchmarkResume is the time from a link that works again to the answer of a
// request made before, against one `ssh dev true`, which is a handshake and a
// round trip. Goal: at most 1 and a round trip.
func BenchmarkResume(b *testing.B) {
	s := &site{Laptop: peer.NewLaptop(b), host: peer.NewUser(b, peer.Account{})}
	s.host.Rehearse()
	s.host.Place(peer.Binary(b), ".local/bin/towline")
	s.server = peer.StartOpenSSH(b, peer.OpenSSH{})
	link := peer.NewLink(b, s.server.Addr)
	host, port, _ := net.SplitHostPort(s.server.Addr)
	s.Alias("dev", &peer.Server{Addr: link.Addr}, s.host, "HostKeyAlias ["+host+"]:"+port)
	s.Knows(s.server)
	s.host.Authorize(s.Key.Line)
	s.connect(b)
	c := dialAs(b, s.User, s.bridged(b))
	defer c.end()
	ratio(b, "resume/ssh-true",
		func() time.Duration {
			link.Cut()
			link.Mend()
			start := time.Now()
			if err := c.Call(b.Context(), "thread/loaded/list", nil, nil); err != nil {
				b.Fatal(err)
			}
			return time.Since(start)
		},
		func() time.Duration { return s.ssh(b) })
}
