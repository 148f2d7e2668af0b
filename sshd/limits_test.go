package sshd

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/sshd/session"
)

// stranger opens a connection and says nothing.
func (h *host) stranger() *bufio.Reader {
	h.t.Helper()
	nc, err := net.Dial("tcp", h.Addr())
	must(h.t, err)
	h.t.Cleanup(func() { _ = nc.Close() })
	must(h.t, nc.SetReadDeadline(time.Now().Add(patience)))
	return bufio.NewReader(nc)
}

func (h *host) waiting() int {
	h.startups.mu.Lock()
	defer h.startups.mu.Unlock()
	return h.startups.waiting
}

// Strangers who connect and wait cannot keep everybody out, and are told to go
// away in words.
func TestDefect12StrangersAreBounded(t *testing.T) {
	t.Run("per source", func(t *testing.T) {
		h := start(t, func(c *Config) { c.Limits = Limits{StartupsPerSource: 3} })
		for range 3 {
			h.stranger()
		}
		eventually(t, "three wait", func() bool { return h.waiting() == 3 })
		line, err := h.stranger().ReadString('\n')
		if err != nil || line != "towline: too many connections from one address are waiting to log in, try again shortly\r\n" {
			t.Errorf("the fourth is told %q, %v", line, err)
		}
	})
	t.Run("in all", func(t *testing.T) {
		h := start(t, func(c *Config) {
			c.Limits = Limits{StartupsBegin: 2, StartupsRate: 100, StartupsFull: 2, LoginGrace: 1500 * time.Millisecond}
		})
		first := h.stranger()
		h.stranger()
		eventually(t, "two wait", func() bool { return h.waiting() == 2 })
		line, err := h.stranger().ReadString('\n')
		if err != nil || line != "towline: too many connections are waiting to log in, try again shortly\r\n" {
			t.Errorf("the third is told %q, %v", line, err)
		}
		// The grace ends them, and there is room again.
		if _, err := io.ReadAll(first); err != nil {
			t.Errorf("a silent stranger's end: %v", err)
		}
		eventually(t, "nobody waits", func() bool { return h.waiting() == 0 })
		h.dial()
	})
	t.Run("logged in does not count as waiting", func(t *testing.T) {
		h := start(t, func(c *Config) { c.Limits = Limits{StartupsPerSource: 1, Connections: 3} })
		for range 3 {
			h.dial()
		}
		line, err := h.stranger().ReadString('\n')
		if err != nil || line != "towline: too many connections, try again shortly\r\n" {
			t.Errorf("a fourth is told %q, %v", line, err)
		}
	})
}

func TestDefect12RandomEarlyDrop(t *testing.T) {
	lim := Limits{StartupsPerSource: 1000}.withDefaults()
	for _, tc := range []struct {
		waiting int
		roll    float64
		drop    bool
	}{
		{0, 0, false},
		{9, 0, false},
		{10, 0.29, true},
		{10, 0.31, false},
		{55, 0.64, true},
		{55, 0.66, false},
		{99, 0.99, true},
		{99, 0.995, false},
		{100, 0.9999, true},
	} {
		s := newStartups(lim)
		s.rand = func() float64 { return tc.roll }
		s.waiting = tc.waiting
		if _, err := s.enter(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}); (err != nil) != tc.drop {
			t.Errorf("%d waiting, roll %v: dropped %v", tc.waiting, tc.roll, err != nil)
		}
	}
}

func TestDefect12OneSourceIsAnAddressOrAPrefix(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:5":              "192.0.2.1/32",
		"[::ffff:192.0.2.1]:5":     "192.0.2.1/32",
		"[2001:db8:1:2:3:4:5:6]:5": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:5":         "fe80::/64",
	} {
		a := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(remote))
		if got := sourceOf(a).String(); got != want {
			t.Errorf("%s counts as %s, want %s", remote, got, want)
		}
	}
	p, err := newStartups(Limits{}.withDefaults()).enter(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)})
	must(t, err)
	p.free()
	p.free()
	if p.s.waiting != 0 || len(p.s.sources) != 0 || p.admit(true) {
		t.Errorf("a place given back twice: %+v", p.s)
	}
}

func TestDefect12SessionsPerConnectionAreBounded(t *testing.T) {
	leave := make(chan struct{})
	h := start(t, func(c *Config) {
		c.Limits.Sessions = 3
		c.UI = func(context.Context, *Session) int { <-leave; return 0 }
	})
	c := h.dial()
	var open []*gossh.Session
	for range 3 {
		s := c.terminal(t, 80, 24)
		must(t, s.Shell())
		open = append(open, s)
	}
	_, err := c.NewSession()
	var refused *gossh.OpenChannelError
	if !errors.As(err, &refused) || refused.Reason != gossh.ResourceShortage || refused.Message != "too many sessions on this connection" {
		t.Errorf("a fourth session: %v", err)
	}
	close(leave)
	for _, s := range open {
		must(t, s.Wait())
	}
	eventually(t, "there is room again", func() bool {
		s, err := c.NewSession()
		if err == nil {
			_ = s.Close()
		}
		return err == nil
	})
}

func TestDefect12LoginTriesAreBounded(t *testing.T) {
	h := start(t, nil)
	var signers []gossh.Signer
	var asked atomic.Int32
	for range 6 {
		signers = append(signers, counting{newKey(t).signer, &asked})
	}
	cfg := h.clientConfig(h.key.signer)
	cfg.Auth = []gossh.AuthMethod{gossh.PublicKeys(append(signers, h.key.signer)...)}
	if c, err := h.tryDial(cfg); err == nil {
		_ = c.Close()
		t.Error("the seventh key logged in")
	}
	cfg.Auth = []gossh.AuthMethod{gossh.PublicKeys(append(signers[:5:5], h.key.signer)...)}
	c, err := h.tryDial(cfg)
	if err != nil {
		t.Fatalf("the sixth key: %v", err)
	}
	_ = c.Close()
	eventually(t, "the refused login is audited", func() bool { return len(h.audited(EventDenied)) == 1 })
	if asked.Load() != 0 {
		t.Error("a key that is not listed was asked to sign")
	}
}

type counting struct {
	gossh.Signer
	n *atomic.Int32
}

func (c counting) Sign(r io.Reader, data []byte) (*gossh.Signature, error) {
	c.n.Add(1)
	return c.Signer.Sign(r, data)
}

// A peer that is gone without a word is noticed by silence; one that answers
// stays, however long it has nothing to say.
func TestDefect12SilentPeersAreNoticed(t *testing.T) {
	causes := make(chan error, 2)
	h := start(t, func(c *Config) {
		c.Limits.KeepAlive, c.Limits.KeepAliveMissed = 100*time.Millisecond, 10
		c.UI = func(ctx context.Context, _ *Session) int { <-ctx.Done(); causes <- context.Cause(ctx); return 0 }
	})
	alive := h.dial().terminal(t, 80, 24)
	must(t, alive.Shell())

	// A proxy that stops carrying is a cable pulled.
	link := newLink(t, h.Addr())
	nc, err := net.Dial("tcp", link.addr)
	must(t, err)
	conn, chans, reqs, err := gossh.NewClientConn(nc, h.Addr(), h.clientConfig(h.key.signer))
	must(t, err)
	dead := &client{gossh.NewClient(conn, chans, reqs), nc.(*net.TCPConn)}
	defer func() { _ = dead.Close() }()
	must(t, dead.terminal(t, 80, 24).Shell())
	eventually(t, "both are in", func() bool { return h.connections() == 2 })
	link.cut.Store(true)
	if why := wait(t, "the silent one is dropped", causes); !errors.Is(why, ErrSilent) {
		t.Errorf("dropped because %v", why)
	}
	eventually(t, "its connection is gone", func() bool { return h.connections() == 1 })
	if !strings.Contains(h.log.String(), "client went silent") {
		t.Error("the log does not say so")
	}
	if ok, err := alive.SendRequest("window-change", true, windowChange(80, 24)); !ok || err != nil {
		t.Errorf("the other one: %v, %v", ok, err)
	}
}

// link carries bytes to addr until it is cut; then it swallows them.
type link struct {
	addr string
	cut  atomic.Bool
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &link{addr: ln.Addr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a, err := ln.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", to)
		if err != nil {
			_ = a.Close()
			return
		}
		ends := make(chan struct{}, 2)
		for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
			go func() {
				defer func() { ends <- struct{}{} }()
				buf := make([]byte, 4096)
				for {
					n, err := way[0].Read(buf)
					if err != nil {
						return
					}
					if !l.cut.Load() {
						_, _ = way[1].Write(buf[:n])
					}
				}
			}()
		}
		<-ends
		_, _ = a.Close(), b.Close()
		<-ends
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return l
}

// Who somebody is comes from the key that signed, not from one that was merely
// offered before it.
func TestIdentityIsTheKeyThatSigned(t *testing.T) {
	seen := make(chan access.Principal, 1)
	h := start(t, func(c *Config) {
		c.AppServer = func(_ context.Context, _ io.ReadWriteCloser, p access.Principal, _ string) error {
			seen <- p
			return nil
		}
	})
	boss, guest := newKey(t), newKey(t)
	h.authorize(boss.line("boss"), `environment="TOWLINE_ROLE=observer" `+guest.line("guest"))
	// Of the boss's key only the public half is here. OpenSSH offers it, hears
	// that it would do, cannot sign, and goes on to the guest's.
	must(t, os.Remove(boss.path))
	must(t, os.Rename(boss.path+".pub", boss.path))
	args := append([]string{"-i", boss.path}, h.sshOptions(guest)...)
	cmd := h.openssh(guest)
	cmd.Args = append(append([]string{cmd.Args[0], "-v"}, args...), "app-server")
	got := run(t, cmd, nil)
	if got.status != 0 {
		t.Fatal(got)
	}
	if !strings.Contains(got.stderr, "Server accepts key: "+boss.path) {
		t.Fatalf("the boss's key was not offered first:\n%s", got.stderr)
	}
	if p := wait(t, "a session", seen); p.Name != "guest" || p.Role != protocol.RoleObserver || p.ID != guest.fingerprint() {
		t.Errorf("came in as %+v", p)
	}
}

// The user name is on nobody's authority: whatever it was before or is now, the
// key decides. Attempts on one connection share nothing.
func TestUserNameDecidesNothing(t *testing.T) {
	h := start(t, nil)
	stranger := newKey(t)
	nc, far := net.Pipe()
	defer func() { _, _ = nc.Close(), far.Close() }()
	p, err := h.startups.enter(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer p.free()
	c := newConn(t.Context(), h.Server, nc, p)
	cfg := c.loginConfig()
	here := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
	for _, user := range []string{"root", "alice", "root"} {
		if perms, err := cfg.PublicKeyCallback(meta{user, here}, stranger.signer.PublicKey()); err == nil {
			t.Fatalf("a stranger called %s is let in: %v", user, perms)
		}
		first, err := cfg.PublicKeyCallback(meta{user, here}, h.key.signer.PublicKey())
		must(t, err)
		second, err := cfg.PublicKeyCallback(meta{user, here}, h.key.signer.PublicKey())
		must(t, err)
		if first == second || first.ExtraData != nil {
			t.Error("permissions are shared between attempts, or hold an identity before proof")
		}
	}
	if cfg.NoClientAuth || cfg.PasswordCallback != nil || cfg.KeyboardInteractiveCallback != nil {
		t.Error("there is another way in than keys")
	}
}

type meta struct {
	user   string
	remote net.Addr
}

func (m meta) User() string          { return m.user }
func (m meta) SessionID() []byte     { return nil }
func (m meta) ClientVersion() []byte { return nil }
func (m meta) ServerVersion() []byte { return nil }
func (m meta) RemoteAddr() net.Addr  { return m.remote }
func (m meta) LocalAddr() net.Addr   { return m.remote }

func TestKeyTypes(t *testing.T) {
	h := start(t, nil)
	rsa3072, err := rsa.GenerateKey(rand.Reader, 3072)
	must(t, err)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	for name, key := range map[string]testKey{"rsa": keyFrom(t, rsa3072), "p256": keyFrom(t, p256), "p384": keyFrom(t, p384)} {
		h.authorize(key.line(name))
		if got := run(t, h.openssh(key, "help"), nil); got.status != 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
	key := keyFrom(t, rsa3072)
	h.authorize(key.line("rsa"))
	old, err := gossh.NewSignerWithAlgorithms(key.signer.(gossh.AlgorithmSigner), []string{gossh.KeyAlgoRSA})
	must(t, err)
	if c, err := h.tryDial(h.clientConfig(old)); err == nil {
		_ = c.Close()
		t.Error("a SHA-1 signature logged in")
	}
}

// A key taken from the file ends its connections within moments, one that was
// given less as well; a rewrite that changes nothing disturbs nobody.
func TestChangedKeysEndTheirConnections(t *testing.T) {
	h := start(t, func(c *Config) {
		c.Limits.Recheck = 10 * time.Millisecond
		c.UI = func(ctx context.Context, s *Session) int { <-ctx.Done(); return 0 }
	})
	other := newKey(t)
	h.authorize(h.key.line("ana"), other.line("stays"))
	stays := h.dialAs(other)
	for name, lines := range map[string][]string{
		"removed":  nil,
		"demoted":  {`environment="TOWLINE_ROLE=observer" ` + h.key.line("ana")},
		"expired":  {`expiry-time="20200101" ` + h.key.line("ana")},
		"moved":    {`from="10.0.0.1" ` + h.key.line("ana")},
		"confined": {`restrict ` + h.key.line("ana")},
	} {
		t.Run(name, func(t *testing.T) {
			h.authorize(h.key.line("ana"), other.line("stays"))
			s := h.dial().terminal(t, 80, 24)
			var errs lockedBuffer
			s.Stderr = &errs
			must(t, s.Shell())
			h.authorize("# a comment", other.line("stays"), h.key.line("renamed"))
			eventually(t, "the new file is read", func() bool { return strings.Contains(h.log.String(), "keys=2") })
			h.authorize(append(lines, other.line("stays"))...)
			if err := s.Wait(); err != nil && exitStatus(t, err) != 0 {
				t.Error(err)
			}
			if !strings.Contains(errs.String(), "your access to this host was changed or removed") {
				t.Errorf("the person is told %q", errs.String())
			}
			eventually(t, "only the other is left", func() bool { return h.connections() == 1 })
		})
	}
	if got := stays.exec(t, "help"); got.status != 0 {
		t.Errorf("the one whose line stayed: %v", got)
	}
	if n := len(h.audited(EventRevoked)); n != 5 {
		t.Errorf("%d revocations audited", n)
	}
	// A file that others may write admits nobody, and throws nobody out.
	must(t, os.Chmod(h.keys, 0o666))
	if c, err := h.tryDial(h.clientConfig(other.signer)); err == nil {
		_ = c.Close()
		t.Error("a login by a file anybody may have written")
	}
	eventually(t, "the trouble is logged", func() bool { return strings.Contains(h.log.String(), "can be written by others") })
	if got := stays.exec(t, "help"); got.status != 0 {
		t.Errorf("the one inside while the file cannot be used: %v", got)
	}
}

// Stopping tells every session why, waits for it, and lets the last words out.
func TestServeEndsInGoodOrder(t *testing.T) {
	cause := make(chan error, 1)
	in := make(chan struct{})
	h := start(t, func(c *Config) {
		c.UI = func(ctx context.Context, s *Session) int {
			close(in)
			<-ctx.Done()
			cause <- context.Cause(ctx)
			_, _ = io.WriteString(s.Out, "bye\n")
			return 9
		}
	})
	h.stranger()
	idle := h.dial()
	s := h.dial().terminal(t, 80, 24)
	var out, errs lockedBuffer
	s.Stdout, s.Stderr = &out, &errs
	must(t, s.Shell())
	wait(t, "the session", in)
	began := time.Now()
	must(t, h.stop())
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	if why := wait(t, "a cause", cause); !errors.Is(why, ErrStopping) {
		t.Errorf("told %v", why)
	}
	if st := exitStatus(t, s.Wait()); st != 9 || out.String() != "bye\r\n" || errs.String() != "towline: the host is stopping\r\n" {
		t.Errorf("status %d, stdout %q, stderr %q", st, out.String(), errs.String())
	}
	if err := idle.Wait(); !errors.Is(err, io.EOF) {
		t.Errorf("a connection without sessions ended with %v", err)
	}
	if _, err := net.Dial("tcp", h.Addr()); err == nil {
		t.Error("still listening")
	}
}

// A session that will not end is cut off, and still waited for.
func TestServeEndsWithoutTheirConsent(t *testing.T) {
	ended := make(chan error, 1)
	h := start(t, func(c *Config) {
		c.Limits.Drain = 50 * time.Millisecond
		c.UI = func(_ context.Context, s *Session) int { // does not look at its context
			_, err := io.Copy(io.Discard, s.In)
			ended <- err
			return 0
		}
	})
	s := h.dial().terminal(t, 80, 24)
	_, err := s.StdinPipe()
	must(t, err)
	must(t, s.Shell())
	must(t, h.stop())
	must(t, wait(t, "its input ends", ended))
}

// A signal sent through the protocol asks a session to leave.
func TestSignalEndsASession(t *testing.T) {
	h := start(t, func(c *Config) {
		c.UI = func(ctx context.Context, _ *Session) int {
			<-ctx.Done()
			if why := context.Cause(ctx); !errors.Is(why, session.ErrInterrupted) {
				t.Errorf("ended because %v", why)
			}
			return 130
		}
	})
	s := h.dial().terminal(t, 80, 24)
	must(t, s.Shell())
	must(t, s.Signal(gossh.SIGUSR1))
	must(t, s.Signal(gossh.SIGTERM))
	if st := exitStatus(t, s.Wait()); st != 130 {
		t.Errorf("status %d", st)
	}
}

// Whoever reaches the port can be refused as often as they like; the audit file
// must not grow with them, and must say that there were more.
func TestRefusedLoginsDoNotFillTheAudit(t *testing.T) {
	now := time.Unix(1000, 0)
	q := quota{most: 2, now: func() time.Time { return now }}
	for i, want := range []bool{true, true, false, false, false} {
		if ok, lost := q.take(); ok != want || lost != 0 {
			t.Errorf("refusal %d: %v, %d", i, ok, lost)
		}
	}
	now = now.Add(time.Minute)
	if ok, lost := q.take(); !ok || lost != 3 {
		t.Errorf("a minute later: %v, %d", ok, lost)
	}

	h := start(t, nil)
	h.refusals.most = 1
	for range 4 {
		if c, err := h.tryDial(h.clientConfig(newKey(t).signer)); err == nil {
			_ = c.Close()
			t.Fatal("a stranger logged in")
		}
	}
	eventually(t, "all four are gone", func() bool { return h.connections() == 0 })
	if n := len(h.audited(EventDenied)); n != 1 {
		t.Errorf("%d refusals are audited, want 1", n)
	}
}

// A key with a lesser role cannot take every place and shut the owner out.
func TestLesserKeysLeaveTheOwnerAPlace(t *testing.T) {
	h := start(t, func(c *Config) { c.Limits.Connections = 4 })
	eve := newKey(t)
	h.authorize(h.key.line("ana"), `environment="TOWLINE_ROLE=operator" `+eve.line("eve"))
	for range 3 {
		h.dialAs(eve)
	}
	if c, err := h.tryDial(h.clientConfig(eve.signer)); err == nil {
		_ = c.Close()
		t.Error("a lesser key took the last place")
	}
	h.dial()
}
