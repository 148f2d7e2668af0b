package sshd

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"towline/appserver/access"
	"towline/sshd/session"
)

// The tests here are named after the defects of the SSH library that were
// reproduced before it was chosen. Where the feature behind one is not offered,
// the test holds that it stays refused.

func windowChange(cols, rows uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, cols)
	b = binary.BigEndian.AppendUint32(b, rows)
	return append(b, make([]byte, 8)...)
}

// A UI that does not look at sizes freezes nothing, and finds the newest later.
func TestDefect01WindowChangeDoesNotFreeze(t *testing.T) {
	look, got := make(chan struct{}), make(chan Size, 1)
	h := start(t, func(c *Config) {
		c.UI = func(_ context.Context, s *Session) int {
			<-look
			got <- <-s.Sizes
			return 0
		}
	})
	c := h.dial()
	s := c.terminal(t, 80, 24)
	must(t, s.Shell())
	for i := range 1000 {
		ok, err := s.SendRequest("window-change", true, windowChange(uint32(100+i%50), 40))
		if err != nil || !ok {
			t.Fatalf("resize %d: %v %v", i, ok, err)
		}
	}
	_, err := s.SendRequest("window-change", true, windowChange(123, 45))
	must(t, err)
	if got := c.exec(t, "help"); got.status != 0 {
		t.Errorf("another session on the connection: %v", got)
	}
	close(look)
	if sz := wait(t, "the UI sees a size", got); sz != (Size{Cols: 123, Rows: 45}) {
		t.Errorf("newest size is %v", sz)
	}
	must(t, s.Wait())
}

func TestDefect01SizesAreBounded(t *testing.T) {
	sizes := make(chan Size)
	h := start(t, func(c *Config) {
		c.UI = func(ctx context.Context, s *Session) int {
			sizes <- s.Size
			for {
				select {
				case <-ctx.Done():
					return 0
				case sz := <-s.Sizes:
					sizes <- sz
				}
			}
		}
	})
	s := h.dial().terminal(t, 0, 0)
	must(t, s.Shell())
	if sz := wait(t, "a size", sizes); sz != (Size{Cols: 80, Rows: 24}) {
		t.Errorf("a terminal that does not know its size has %v", sz)
	}
	for _, tc := range []struct {
		cols, rows uint32
		want       Size
	}{
		{1 << 31, 1<<32 - 1, Size{Cols: 1000, Rows: 1000}},
		{120, 40, Size{Cols: 120, Rows: 40}},
		{0, 50, Size{Cols: 120, Rows: 50}},
		{1, 0, Size{Cols: 1, Rows: 50}},
	} {
		_, err := s.SendRequest("window-change", false, windowChange(tc.cols, tc.rows))
		must(t, err)
		if sz := wait(t, "a size", sizes); sz != tc.want {
			t.Errorf("%dx%d became %v, want %v", tc.cols, tc.rows, sz, tc.want)
		}
	}
	if ok, err := s.SendRequest("window-change", true, []byte{1, 2, 3}); err != nil || ok {
		t.Errorf("a broken resize: %v, %v", ok, err)
	}
}

// A session's context ends with the session, not with the connection, and what
// one session asked for is not seen by the next.
func TestDefect04SessionContextIsItsOwn(t *testing.T) {
	type visit struct {
		ctx  context.Context
		sess *Session
	}
	visits, leave := make(chan visit, 2), make(chan struct{})
	h := start(t, func(c *Config) {
		c.UI = func(ctx context.Context, s *Session) int {
			visits <- visit{ctx, s}
			select {
			case <-ctx.Done():
			case <-leave:
			}
			return 0
		}
	})
	c := h.dial()
	first := c.terminal(t, 80, 24)
	must(t, first.Setenv("LANG", "de_DE.UTF-8"))
	must(t, first.Shell())
	a := wait(t, "first session", visits)
	second := c.terminal(t, 90, 30)
	must(t, second.Shell())
	b := wait(t, "second session", visits)
	if slices.Contains(b.sess.Environ, "LANG=de_DE.UTF-8") {
		t.Error("the environment of one session reached another")
	}
	_ = first.Close() // io.EOF when the other side was faster
	wait(t, "end of the first session", a.ctx.Done())
	if why := context.Cause(a.ctx); why != session.ErrGone {
		t.Errorf("it ended because %v", why)
	}
	if b.ctx.Err() != nil {
		t.Error("closing one session ended another")
	}
	// No terminal was asked for here, so none may be believed in.
	if got := c.exec(t, ""); got.status != 1 || !strings.Contains(got.stderr, "needs a terminal") {
		t.Errorf("a session without a terminal after one with: %v", got)
	}
	close(leave)
	must(t, second.Wait())
}

// There is no real terminal device behind a session that could be leaked, raced
// on, or closed twice.
func TestDefect05NoTerminalDeviceIsOpened(t *testing.T) {
	in, leave := make(chan struct{}), make(chan struct{})
	h := start(t, func(c *Config) {
		c.UI = func(context.Context, *Session) int { close(in); <-leave; return 0 }
	})
	devices := func() (n int) {
		for _, link := range descriptors(t) {
			if strings.Contains(link, "ptmx") || strings.HasPrefix(link, "/dev/pts/") {
				n++
			}
		}
		return n
	}
	before := devices()
	s := h.dial().terminal(t, 80, 24)
	must(t, s.Shell())
	wait(t, "the session", in)
	if n := devices(); n != before {
		t.Errorf("%d terminal devices open, %d before", n, before)
	}
	close(leave)
	must(t, s.Wait())
}

func descriptors(t testing.TB) (links []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, e := range entries {
		if link, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			links = append(links, link)
		}
	}
	return links
}

// Forwards are refused, so the library's way of cutting them at the first end of
// input cannot hurt. Where half-closing does happen, on the protocol's own
// stream, every byte arrives.
func TestDefect06ForwardsAreRefusedAndHalfCloseLosesNothing(t *testing.T) {
	const size = 300_009
	h := start(t, func(c *Config) {
		c.AppServer = func(_ context.Context, rw io.ReadWriteCloser, _ access.Principal, _ string) error {
			all, err := io.ReadAll(rw) // to the client's half-close …
			if err != nil {
				return err
			}
			_, err = rw.Write(all) // … and only then the answer
			return err
		}
	})
	sent := make([]byte, size)
	_, _ = rand.Read(sent)
	got := run(t, h.openssh(h.key, "app-server"), bytes.NewReader(sent))
	if got.status != 0 || got.stdout != string(sent) {
		t.Errorf("after a half-close %d of %d bytes arrived, status %d", len(got.stdout), size, got.status)
	}

	c := h.dial()
	_, err := c.Dial("tcp", "127.0.0.1:22")
	refusedWith(t, err, "port forwarding is switched off on this host by policy, except to the port of a pending login")
	if _, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("-R was granted")
	}
	w := run(t, h.openssh(h.key, "-W", "127.0.0.1:22"), nil)
	if w.status != 255 || !strings.Contains(w.stderr, "administratively prohibited: port forwarding is switched off on this host by policy") {
		t.Errorf("ssh -W: %v", w)
	}
	r := run(t, h.openssh(h.key, "-R", "0:127.0.0.1:1", "help"), nil)
	if r.status != 0 || !strings.Contains(r.stderr, "towline: remote port forwarding is switched off on this host by policy") {
		t.Errorf("ssh -R: %v", r)
	}
	eventually(t, "the refusals are audited", func() bool {
		all := strings.Join(h.audited(EventRefused), "\n")
		return strings.Contains(all, "what=port forwarding") && strings.Contains(all, "what=remote port forwarding")
	})
}

func refusedWith(t *testing.T, err error, reason string) {
	t.Helper()
	open, ok := err.(*gossh.OpenChannelError)
	if !ok || open.Reason != gossh.Prohibited || open.Message != reason {
		t.Errorf("got %v, want: administratively prohibited, %s", err, reason)
	}
}

// Unix sockets are not forwarded either, in both directions, and nothing is
// created on the way.
func TestDefect07SocketForwardsAreRefused(t *testing.T) {
	h := start(t, nil)
	c := h.dial()
	_, err := c.Dial("unix", "/run/docker.sock")
	refusedWith(t, err, "socket forwarding is switched off on this host by policy")
	sock := filepath.Join(t.TempDir(), "s")
	if _, err := c.ListenUnix(sock); err == nil {
		t.Error("a remote socket was granted")
	}
	if fileExists(sock) {
		t.Error("a refused forward left a socket")
	}
	_, _, err = c.OpenChannel("tun@openssh.com", nil)
	refusedWith(t, err, "tunnelling is switched off on this host by policy")
	_, _, err = c.OpenChannel("made-up", nil)
	if open, ok := err.(*gossh.OpenChannelError); !ok || open.Reason != gossh.UnknownChannelType {
		t.Errorf("an unknown channel: %v", err)
	}
}

// Agent and X11 requests are refused before anything is made for them.
func TestDefect08AgentIsRefusedAndLeavesNothing(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	h := start(t, nil)
	s, err := h.dial().NewSession()
	must(t, err)
	for _, req := range []string{"auth-agent-req@openssh.com", "x11-req"} {
		for range 3 {
			if ok, err := s.SendRequest(req, true, nil); ok || err != nil {
				t.Errorf("%s: %v, %v", req, ok, err)
			}
		}
	}
	must(t, s.Run("help"))
	left, err := os.ReadDir(tmp)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if n := len(h.audited(EventRefused)); n != 2 {
		t.Errorf("%d refusals audited, want one a kind: %v", n, h.audited(EventRefused))
	}
}

// The options in front of a key are obeyed, and a line nobody understands costs
// that line only.
func TestDefect09OptionsCountAndOneBadLineCostsOneLine(t *testing.T) {
	h := start(t, nil)
	other := newKey(t)
	for name, tc := range map[string]struct {
		lines []string
		in    bool
	}{
		"expired":             {[]string{`expiry-time="20200101" ` + h.key.line("")}, false},
		"not yet expired":     {[]string{`expiry-time="29991231Z" ` + h.key.line("")}, true},
		"from elsewhere":      {[]string{`from="10.0.0.0/8" ` + h.key.line("")}, false},
		"from here":           {[]string{`from="10.0.0.0/8,127.0.0.0/8" ` + h.key.line("")}, true},
		"from here but not":   {[]string{`from="127.0.0.0/8,!127.0.0.1" ` + h.key.line("")}, false},
		"unknown option":      {[]string{`frobnicate ` + h.key.line("")}, false},
		"below a broken line": {[]string{"ssh-ed25519 AAAA!broken", `command="unclosed ` + other.line(""), h.key.line("")}, true},
		"second of two lines": {[]string{`from="10.0.0.1" ` + h.key.line(""), h.key.line("")}, true},
		"somebody else":       {[]string{other.line("")}, false},
		"nobody":              {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			h.authorize(tc.lines...)
			c, err := h.tryDial(h.clientConfig(h.key.signer))
			if (err == nil) != tc.in {
				t.Errorf("logged in: %v (%v), want %v", err == nil, err, tc.in)
			}
			if err == nil {
				_ = c.Close()
			}
		})
	}
	if !strings.Contains(h.log.String(), "line=2") {
		t.Error("the log does not say which line was bad")
	}
}

// Certificates do not log in here, whoever signed them: not the host
// certificates and nameless ones the library lets through, and not good ones,
// even if a line asks for it.
func TestDefect10CertificatesAreRefused(t *testing.T) {
	h := start(t, nil)
	ca := newKey(t)
	user := newKey(t)
	for name, cert := range map[string]*gossh.Certificate{
		"user":               {CertType: gossh.UserCert, ValidPrincipals: []string{"somebody"}},
		"without principals": {CertType: gossh.UserCert},
		"host":               {CertType: gossh.HostCert, ValidPrincipals: []string{"somebody"}},
	} {
		for how, line := range map[string]string{
			"key listed": user.line(""), "authority listed": ca.line(""), "cert-authority": "cert-authority " + ca.line(""),
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				h.authorize(line)
				cert.Key, cert.ValidBefore = user.signer.PublicKey(), gossh.CertTimeInfinity
				must(t, cert.SignCert(rand.Reader, ca.signer))
				signer, err := gossh.NewCertSigner(cert, user.signer)
				must(t, err)
				if c, err := h.tryDial(h.clientConfig(signer)); err == nil {
					_ = c.Close()
					t.Error("a certificate logged in")
				}
			})
		}
	}
}

// There is no way to start a door without a lock, and nothing is written where
// nobody asked for it.
func TestDefect11ConstructorRefusesToGuess(t *testing.T) {
	t.Chdir(t.TempDir())
	dir := t.TempDir()
	good := Config{
		Listen: "127.0.0.1:0", HostKeyFile: filepath.Join(dir, "k"), AuthorizedKeysFile: filepath.Join(dir, "a"),
		UI: func(context.Context, *Session) int { return 0 }, AppServer: echo,
	}
	for what, change := range map[string]func(*Config){
		"a host key file":         func(c *Config) { c.HostKeyFile = "" },
		"an authorized_keys file": func(c *Config) { c.AuthorizedKeysFile = "" },
		"a UI":                    func(c *Config) { c.UI = nil },
		"an app-server":           func(c *Config) { c.AppServer = nil },
		"an address":              func(c *Config) { c.Listen = "" },
	} {
		cfg := good
		change(&cfg)
		if s, err := Listen(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), what+" is required") {
			t.Errorf("without %s: %v, %v", what, s, err)
		}
	}
	// With a file that lists nobody, nobody gets in: not without credentials,
	// not with a password, not with a key.
	h := start(t, nil)
	h.authorize("# nobody")
	for name, auth := range map[string][]gossh.AuthMethod{
		"none": nil, "password": {gossh.Password("")}, "key": {gossh.PublicKeys(h.key.signer)},
		"keyboard-interactive": {gossh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil })},
	} {
		cfg := h.clientConfig(h.key.signer)
		cfg.Auth = auth
		if c, err := h.tryDial(cfg); err == nil {
			_ = c.Close()
			t.Errorf("%s logged in", name)
		}
	}
	left, err := os.ReadDir(".")
	must(t, err)
	if len(left) != 0 {
		t.Errorf("written into the working directory: %v", left)
	}
}

// SHA-1 is nowhere on offer, neither for the key exchange nor in signatures.
func TestDefect13NoWeakAlgorithms(t *testing.T) {
	h := start(t, nil)
	weak := gossh.InsecureAlgorithms()
	for name, change := range map[string]func(*gossh.ClientConfig){
		"group1":           func(c *gossh.ClientConfig) { c.KeyExchanges = []string{gossh.InsecureKeyExchangeDH1SHA1} },
		"group14-sha1":     func(c *gossh.ClientConfig) { c.KeyExchanges = []string{gossh.InsecureKeyExchangeDH14SHA1} },
		"all weak kex":     func(c *gossh.ClientConfig) { c.KeyExchanges = weak.KeyExchanges },
		"ssh-rsa host key": func(c *gossh.ClientConfig) { c.HostKeyAlgorithms = weak.HostKeys },
		"weak ciphers":     func(c *gossh.ClientConfig) { c.Ciphers = weak.Ciphers },
		"weak macs":        func(c *gossh.ClientConfig) { c.Ciphers, c.MACs = []string{gossh.CipherAES256CTR}, weak.MACs },
		"hmac-sha1": func(c *gossh.ClientConfig) {
			c.Ciphers, c.MACs = []string{gossh.CipherAES256CTR}, []string{gossh.HMACSHA1}
		},
		"2048-bit exchange": func(c *gossh.ClientConfig) { c.KeyExchanges = []string{gossh.KeyExchangeDH14SHA256} },
	} {
		cfg := h.clientConfig(h.key.signer)
		change(cfg)
		if c, err := h.tryDial(cfg); err == nil {
			_ = c.Close()
			t.Errorf("%s was negotiated", name)
		}
	}
	c := h.dial()
	if a := c.Conn.(gossh.AlgorithmsConnMetadata).Algorithms(); a.KeyExchange != gossh.KeyExchangeMLKEM768X25519 {
		t.Errorf("key exchange is %s, want the post-quantum one", a.KeyExchange)
	}
	if v := string(c.ServerVersion()); v != "SSH-2.0-Towline" {
		t.Errorf("server calls itself %q", v)
	}
	if out := run(t, h.openssh(h.key, "-v", "help"), nil).stderr; !strings.Contains(out, "kex: server->client") {
		t.Errorf("ssh -v says %s", out)
	}
}

// A handler that returns ends the session, whatever the client still holds open.
func TestDefect14SessionEndsWhileStdinStaysOpen(t *testing.T) {
	h := start(t, func(c *Config) {
		c.AppServer = func(_ context.Context, rw io.ReadWriteCloser, _ access.Principal, _ string) error {
			_, err := rw.Write([]byte("bye\n"))
			return err
		}
	})
	r, w, err := os.Pipe() // never closed by us while ssh runs
	must(t, err)
	defer func() { _ = w.Close() }()
	defer func() { _ = r.Close() }()
	if got := run(t, h.openssh(h.key, "app-server"), r); got != (result{"bye\n", "", 0}) {
		t.Errorf("got %v", got)
	}
}

// The end of the client's input ends a UI, after it has seen all of it.
func TestDefect15EndOfInputEndsTheUI(t *testing.T) {
	read := make(chan string, 1)
	h := start(t, func(c *Config) {
		c.UI = func(ctx context.Context, s *Session) int {
			all, err := io.ReadAll(s.In)
			if err != nil {
				t.Error(err)
			}
			read <- string(all)
			<-ctx.Done()
			if why := context.Cause(ctx); why != session.ErrInputEnded {
				t.Errorf("ended because %v", why)
			}
			return 3
		}
	})
	s := h.dial().terminal(t, 80, 24)
	s.Stdin = strings.NewReader(strings.Repeat("x", 100_000))
	must(t, s.Shell())
	if n := len(wait(t, "all input", read)); n != 100_000 {
		t.Errorf("the UI saw %d bytes", n)
	}
	if st := exitStatus(t, s.Wait()); st != 3 {
		t.Errorf("status %d", st)
	}
}

// Only what describes the person's terminal is believed.
func TestDefect16EnvironmentIsAllowListed(t *testing.T) {
	env := make(chan []string, 1)
	h := start(t, func(c *Config) {
		c.UI = func(_ context.Context, s *Session) int { env <- s.Environ; return 0 }
	})
	s := h.dial().terminal(t, 80, 24)
	for _, kv := range []struct {
		name, value string
		ok          bool
	}{
		{"LANG", "C.UTF-8", true},
		{"LANG", "again", false},
		{"LC_ALL", "C", true},
		{"COLORTERM", "truecolor", true},
		{"TERM_PROGRAM", "iTerm.app", true},
		{"NO_COLOR", "1", true},
		{"TMUX", "/tmp/x,1,0", false},
		{"LD_PRELOAD", "/x", false},
		{"PATH", "/x", false},
		{"TERM", "evil", false},
		{"CLICOLOR_FORCE", "1", false},
		{"TTY_FORCE", "1", false},
		{"lc_all", "x", false},
		{"LC_", "x", false},
		{"LC_a=b", "x", false},
		{"LC_TIME", "a\nb", false},
		{"LC_PAPER", strings.Repeat("x", 257), false},
		{"TOWLINE_ROLE", "admin", false},
	} {
		if err := s.Setenv(kv.name, kv.value); (err == nil) != kv.ok {
			t.Errorf("%s=%.20q accepted: %v", kv.name, kv.value, err == nil)
		}
	}
	accepted := 0
	for i := range 200 {
		name := "LC_" + strings.Repeat("X", 1+i%26) + string(rune('A'+i/26))
		if s.Setenv(name, "x") == nil {
			accepted++
		}
	}
	if accepted > 32 {
		t.Errorf("%d variables accepted", accepted)
	}
	must(t, s.Run(""))
	got := wait(t, "the environment", env)
	want := []string{"LANG=C.UTF-8", "LC_ALL=C", "COLORTERM=truecolor", "TERM_PROGRAM=iTerm.app", "NO_COLOR=1"}
	if !slices.Equal(got[:5], want) || got[len(got)-1] != "TERM=xterm-256color" || len(got) != 33 {
		t.Errorf("the UI sees %q", got)
	}
}

func TestTerminalNamesAreSafe(t *testing.T) {
	term := make(chan string, 1)
	h := start(t, func(c *Config) {
		c.UI = func(_ context.Context, s *Session) int { term <- s.Term; return 0 }
	})
	c := h.dial()
	for sent, want := range map[string]string{
		"xterm-256color": "xterm-256color", "": "dumb", "../../etc/passwd": "dumb", "a\x1b[2J": "dumb", strings.Repeat("x", 65): "dumb",
	} {
		s, err := c.NewSession()
		must(t, err)
		must(t, s.RequestPty(sent, 24, 80, nil))
		must(t, s.Shell())
		if got := wait(t, "a session", term); got != want {
			t.Errorf("TERM %q became %q, want %q", sent, got, want)
		}
		must(t, s.Wait())
	}
}
