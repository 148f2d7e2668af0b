package sshd

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"towline/appserver/protocol"
)

func needLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: only Linux shows whose listener one is")
	}
}

// loginHost is a host with ports of the test's own for logins.
func loginHost(t *testing.T, change func(*Config)) (h *host, port uint16) {
	needLinux(t)
	port = freePort(t)
	return start(t, func(c *Config) {
		c.LoginPorts = []uint16{port, port + 1}
		if change != nil {
			change(c)
		}
	}), port
}

func at(port uint16) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))) }

// ask sends a word through a forward and returns the answer to it.
func (c *client) ask(addr, word string) (string, error) {
	fc, err := c.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = fc.Close() }()
	if _, err := io.WriteString(fc, word); err != nil {
		return "", err
	}
	if err := fc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return "", err
	}
	all, err := io.ReadAll(fc)
	return string(all), err
}

func TestForwardLeadsToAPendingLoginOnly(t *testing.T) {
	h, port := loginHost(t, nil)
	c := h.dial()
	none := "no login is pending on this host; start one with `ssh -t HOST login`, or `towline login HOST`"
	_, err := c.ask(at(port), "x")
	refusedWith(t, err, none)

	for name, path := range map[string]string{"codex": actor(t, "codex"), "codex of a platform": actor(t, "codex-x86_64-unknown-linux-musl")} {
		stop := listenAs(t, path, at(port), "login")
		for _, addr := range []string{at(port), fmt.Sprintf("localhost:%d", port)} {
			if got, err := c.ask(addr, "hello"); got != "got hello" || err != nil {
				t.Errorf("%s at %s: %q, %v", name, addr, got, err)
			}
		}
		_, err = c.ask(fmt.Sprintf("[::1]:%d", port), "x")
		refusedWith(t, err, none)
		stop()
		_, err = c.ask(at(port), "x")
		refusedWith(t, err, none)
	}
	stop := listenAs(t, actor(t, ""), at(port), "login")
	if got, err := c.ask(at(port), "ours"); got != "got ours" || err != nil {
		t.Errorf("towline login: %q, %v", got, err)
	}
	stop()

	for name, tc := range map[string]struct {
		program string
		args    []string
	}{
		"another program":             {"devserver", []string{"login"}},
		"ours, but no login":          {"", []string{"serve"}},
		"codex, told to listen there": {"codex", []string{"app-server", "--listen", "ws://" + at(port)}},
	} {
		t.Run(name, func(t *testing.T) {
			defer listenAs(t, actor(t, tc.program), at(port), tc.args...)()
			_, err := c.ask(at(port), "x")
			open, ok := err.(*gossh.OpenChannelError)
			if !ok || open.Reason != gossh.Prohibited || !strings.Contains(open.Message, "which is no login") || !strings.Contains(open.Message, "start one with") {
				t.Errorf("%v", err)
			}
		})
	}
	if n := len(h.audited(EventForward)); n != 3 {
		t.Errorf("%d logins reached are in the audit, want 3: %q", n, h.audited(EventForward))
	}
}

func TestForwardToThisProcess(t *testing.T) {
	busy := false
	h, port := loginHost(t, func(c *Config) { c.Listens = func(uint16) bool { return busy } })
	ln, err := net.Listen("tcp", at(port))
	must(t, err)
	defer func() { _ = ln.Close() }()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "the engine's login")
			_ = c.Close()
		}
	}()
	c := h.dial()
	if got, err := c.ask(at(port), ""); got != "the engine's login" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	busy = true // it listens there for something else
	_, err = c.ask(at(port), "")
	if err == nil || !strings.Contains(err.Error(), "this host's own listener") {
		t.Errorf("%v", err)
	}
}

func TestForwardIsForAdminsOnly(t *testing.T) {
	h, port := loginHost(t, nil)
	defer listenAs(t, actor(t, "codex"), at(port))()
	guest, plain, narrow, forced := newKey(t), newKey(t), newKey(t), newKey(t)
	h.authorize(h.key.line("ana@laptop"),
		`environment="TOWLINE_ROLE=operator" `+guest.line("op"),
		`no-port-forwarding `+plain.line("plain"),
		fmt.Sprintf(`permitopen="localhost:%d" `, port)+narrow.line("narrow"),
		`command="app-server" `+forced.line("forced"))
	_, err := h.dialAs(guest).ask(at(port), "x")
	refusedWith(t, err, fmt.Sprintf("reaching a login needs the role %q; op has %q", protocol.RoleAdmin, protocol.RoleOperator))
	for _, key := range []testKey{plain, forced, narrow} {
		_, err = h.dialAs(key).ask(at(port), "x")
		refusedWith(t, err, fmt.Sprintf("this key may not forward to %s (its line in authorized_keys)", at(port)))
	}
	if got, err := h.dialAs(narrow).ask(fmt.Sprintf("localhost:%d", port), "x"); got != "got x" {
		t.Errorf("permitopen: %q, %v", got, err)
	}
	// Names and ports that are not a login's, however close.
	for _, addr := range []string{
		"127.0.0.2:" + strconv.Itoa(int(port)), "0.0.0.0:" + strconv.Itoa(int(port)), "[::ffff:127.0.0.1]:" + strconv.Itoa(int(port)),
		"LOCALHOST:" + strconv.Itoa(int(port)), "localhost.:" + strconv.Itoa(int(port)), at(port + 2),
	} {
		_, err := h.dial().ask(addr, "x")
		if err == nil || !strings.Contains(err.Error(), "switched off on this host by policy") {
			t.Errorf("%s: %v", addr, err)
		}
	}
	// The table has one port, however large the number that is sent.
	ch, _, err := h.dial().OpenChannel("direct-tcpip", gossh.Marshal(struct {
		Host string
		Port uint32
		From string
		At   uint32
	}{"127.0.0.1", uint32(port) + 1<<16, "127.0.0.1", 1}))
	if err == nil {
		_ = ch.Close()
		t.Error("a port beyond 65535 was taken for another")
	}
}

func TestForwardEndsWithItsLogin(t *testing.T) {
	h, port := loginHost(t, nil)
	stop := listenAs(t, actor(t, "codex"), at(port))
	fc, err := h.dial().Dial("tcp", at(port))
	must(t, err)
	defer func() { _ = fc.Close() }()
	stop()
	_ = fc.SetReadDeadline(time.Now().Add(patience)) // the library has none; the test's own bound follows
	got := make(chan error, 1)
	go func() { _, err := io.ReadAll(fc); got <- err }()
	wait(t, "the end of the forward", got)
	eventually(t, "its place is free", func() bool { return len(h.forwards) == 0 })
}

func TestSecurityForwardEndsWithItsKey(t *testing.T) {
	h, port := loginHost(t, func(c *Config) { c.Limits.Recheck = 10 * time.Millisecond })
	defer listenAs(t, actor(t, "codex"), at(port))()
	fc, err := h.dial().Dial("tcp", at(port))
	must(t, err)
	got := make(chan error, 1)
	go func() { _, err := io.ReadAll(fc); got <- err }()
	h.authorize(newKey(t).line("somebody else"))
	wait(t, "the end of the forward", got)
	eventually(t, "its place is free", func() bool { return len(h.forwards) == 0 })
}

func TestForwardsAreBounded(t *testing.T) {
	h, port := loginHost(t, func(c *Config) { c.Limits.Forwards, c.Limits.AllForwards = 2, 3 })
	defer listenAs(t, actor(t, "codex"), at(port))()
	a, b := h.dial(), h.dial()
	open := func(c *client) net.Conn {
		t.Helper()
		fc, err := c.Dial("tcp", at(port))
		must(t, err)
		return fc
	}
	full := func(c *client) {
		t.Helper()
		_, err := c.Dial("tcp", at(port))
		refused, ok := err.(*gossh.OpenChannelError)
		if !ok || refused.Reason != gossh.ResourceShortage {
			t.Errorf("%v", err)
		}
	}
	first := open(a)
	open(a)
	full(a)
	open(b)
	full(b)
	_ = first.Close()
	eventually(t, "a place is free again", func() bool { return len(h.forwards) == 2 })
	open(b)
	_ = a.Close()
	b.vanish()
	eventually(t, "all places are free", func() bool { return len(h.forwards) == 0 })
}

func TestForwardTimeIsBounded(t *testing.T) {
	h, port := loginHost(t, func(c *Config) { c.Limits.ForwardTime = 50 * time.Millisecond })
	defer listenAs(t, actor(t, "codex"), at(port))()
	fc, err := h.dial().Dial("tcp", at(port))
	must(t, err)
	got := make(chan error, 1)
	go func() { _, err := io.ReadAll(fc); got <- err }()
	wait(t, "the end", got)
}

// What `ssh -L` makes of it: the real client opens a channel for each connection
// to its end, so that the forward may be set up before the login begins.
func TestForwardThroughOpenSSH(t *testing.T) {
	h, port := loginHost(t, nil)
	local := freePort(t)
	cmd := h.openssh(h.key)
	cmd.Args = append([]string{cmd.Args[0], "-N", "-L", fmt.Sprintf("%d:localhost:%d", local, port)}, cmd.Args[1:]...)
	var errs lockedBuffer
	cmd.Stderr = &errs
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	try := func() (string, error) {
		nc, err := net.Dial("tcp", at(local))
		if err != nil {
			return "", err
		}
		defer func() { _ = nc.Close() }()
		_, _ = io.WriteString(nc, "callback")
		_ = nc.(*net.TCPConn).CloseWrite()
		all, err := io.ReadAll(nc)
		return string(all), err
	}
	eventually(t, "ssh -L listens", func() bool { _, err := try(); return err == nil || !strings.Contains(err.Error(), "refused") })
	eventually(t, "it says why nothing is there", func() bool {
		return strings.Contains(errs.String(), "administratively prohibited: no login is pending on this host; start one with `ssh -t HOST login`")
	})
	stop := listenAs(t, actor(t, "codex"), at(port), "login")
	if got, err := try(); got != "got callback" || err != nil {
		t.Errorf("%q, %v; ssh said %s", got, err, errs.String())
	}
	stop()
	if got, _ := try(); got != "" {
		t.Errorf("after the login: %q", got)
	}
}
