package systemssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	glider "github.com/gliderlabs/ssh"
	"github.com/google/go-cmp/cmp"
	gossh "golang.org/x/crypto/ssh"

	"towline/config"
	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

func TestStagesOfALogin(t *testing.T) {
	d := remotetest.StartSSHD(t)
	s := newSetting(t, "box", host("box", d, d.Port))
	s.knows("box", d)
	s.Ask = &person{}
	c := s.must()
	want := []string{"dial@box", "dial@box ok", "host key@box", "host key@box ok", "authenticate@box", "authenticate@box ok"}
	if diff := cmp.Diff(want, s.events.stages()); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	for _, e := range s.events.all {
		if e.Done && e.Stage == remote.StageAuth && e.Text != "publickey" {
			t.Errorf("logged in by %q", e.Text)
		}
		if e.Done && e.Stage == remote.StageHostKey && !strings.HasPrefix(e.Text, "ssh-ed25519 SHA256:") {
			t.Errorf("the host key is %q", e.Text)
		}
	}
	if !strings.Contains(s.events.details(), "debug1: Offering public key: "+d.Key) {
		t.Error("ssh's own words are not among the details")
	}
	if !strings.HasPrefix(c.Server(), "SSH-2.0-OpenSSH_") {
		t.Errorf("server is %q", c.Server())
	}
	for range 3 {
		if out, _, err := remotetest.Run(t, c, "echo hi"); out != "hi\n" || err != nil {
			t.Errorf("got %q, %v", out, err)
		}
	}
	if n := d.Logins(); n != 1 {
		t.Errorf("%d logins, want one for everything", n)
	}
	pid := c.(*mux).login.child.cmd.Process.Pid
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if !errors.Is(c.Err(), net.ErrClosed) {
		t.Errorf("closed because of %v", c.Err())
	}
	if running(pid) {
		t.Error("ssh still runs")
	}
	s.empty()
}

// passwords is an independent server that knows one password, and asks for a
// code when told to.
func passwords(t *testing.T, password, code string) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := newHostKey()
	if err != nil {
		t.Fatal(err)
	}
	srv := &glider.Server{
		HostSigners: []glider.Signer{key}, Handler: func(s glider.Session) { fmt.Fprintf(s, "ran %s\n", s.RawCommand()) },
		PasswordHandler: func(_ glider.Context, p string) bool { return p == password },
	}
	if code != "" {
		srv.PasswordHandler = nil
		srv.KeyboardInteractiveHandler = func(_ glider.Context, ask gossh.KeyboardInteractiveChallenge) bool {
			a, err := ask("", "Two things.", []string{"Password: ", "Verification code: "}, []bool{false, true})
			return err == nil && len(a) == 2 && a[0] == password && a[1] == code
		}
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// stranger is the stanza of a server nobody has a key for or has met before.
func stranger(alias string, port int) string {
	return fmt.Sprintf("Host %s\n  HostName 127.0.0.1\n  Port %d\n  User ada\n  IdentityFile none\n  IdentityAgent none\n  PubkeyAuthentication no\n"+
		"  GSSAPIAuthentication no\n  UserKnownHostsFile DIR/known\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking accept-new\n  NumberOfPasswordPrompts 3\n", alias, port)
}

func TestPassword(t *testing.T) {
	s := newSetting(t, "box", stranger("box", passwords(t, "correct horse", "")))
	p := &person{secret: func(q remote.SecretQuestion) (string, error) {
		if q.Attempt == 1 {
			return "wrong", nil
		}
		return "correct horse", nil
	}}
	s.Ask = p
	c := s.must()
	want := []remote.SecretQuestion{
		{Hop: "box", Kind: remote.Password, Prompt: "password", Subject: "ada@127.0.0.1", Attempt: 1},
		{Hop: "box", Kind: remote.Password, Prompt: "password", Subject: "ada@127.0.0.1", Attempt: 2},
	}
	if diff := cmp.Diff(want, p.secrets); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	if out, _, err := remotetest.Run(t, c, "x y"); out != "ran x y\n" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
	if !slices.Contains(s.events.stages(), "authenticate@box waiting") {
		t.Errorf("nobody was told that a person is waited for: %q", s.events.stages())
	}
	if strings.Contains(s.events.details(), "correct horse") {
		t.Error("the password is among the details")
	}
}

func TestKeyboardInteractive(t *testing.T) {
	s := newSetting(t, "box", stranger("box", passwords(t, "pw", "123456")))
	p := &person{secret: func(q remote.SecretQuestion) (string, error) {
		if strings.HasPrefix(q.Prompt, "Verification") {
			return "123456", nil
		}
		return "pw", nil
	}}
	s.Ask = p
	s.must()
	want := []remote.SecretQuestion{
		{Hop: "box", Kind: remote.Challenge, Prompt: "Password:", Subject: "ada@127.0.0.1", Attempt: 1},
		{Hop: "box", Kind: remote.Challenge, Prompt: "Verification code:", Subject: "ada@127.0.0.1", Attempt: 1},
	}
	if diff := cmp.Diff(want, p.secrets); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func TestEncryptedKeyIsAskedForOnce(t *testing.T) {
	d := remotetest.StartSSHD(t)
	s := newSetting(t, "box", strings.ReplaceAll(host("box", d, d.Port), d.Key+"\n", d.EncryptedKey+"\n"))
	s.knows("box", d)
	p := &person{secret: func(remote.SecretQuestion) (string, error) { return remotetest.Passphrase, nil }}
	s.Ask = p
	c := s.must()
	for range 3 {
		if _, _, err := remotetest.Run(t, c, "true"); err != nil {
			t.Error(err)
		}
	}
	want := []remote.SecretQuestion{{Hop: "box", Kind: remote.Passphrase, Prompt: "passphrase", Subject: d.EncryptedKey, Attempt: 1}}
	if diff := cmp.Diff(want, p.secrets); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func TestUnknownHost(t *testing.T) {
	d := remotetest.StartSSHD(t)
	pub, err := os.ReadFile(d.HostKey + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := gossh.ParseAuthorizedKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	config := strings.ReplaceAll(host("box", d, d.Port), "  HostKeyAlias box\n", "")
	for name, tc := range map[string]struct {
		answer     remote.Decision
		err        error
		ok, listed bool
	}{
		"accept and save": {remote.AcceptSave, nil, true, true},
		"accept once":     {remote.AcceptOnce, nil, true, false},
		"refuse":          {remote.Refuse, nil, false, false},
		"nobody there":    {remote.Refuse, remote.ErrNobody, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetting(t, "box", config)
			if err := os.WriteFile(s.known(), []byte("other.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA9ZXJWh9olfSDLylB9vWAMpoosvmMEt4wVqpmnMq36t"), 0o600); err != nil {
				t.Fatal(err) // a file without a last line end, as people make them
			}
			p := &person{key: func(remote.HostKeyQuestion) (remote.Decision, error) { return tc.answer, tc.err }}
			s.Ask = p
			c, err := s.dial()
			if c != nil {
				defer c.Close()
			}
			if (err == nil) != tc.ok {
				t.Fatalf("dial: %v", err)
			}
			if !tc.ok {
				explained(t, err, remote.StageHostKey)
				if errors.Is(err, ErrRefused) != (tc.err == nil) {
					t.Errorf("refused by a person: %v", err)
				}
			}
			want := []remote.HostKeyQuestion{{
				Hop: "box", Address: fmt.Sprintf("[127.0.0.1]:%d", d.Port), Type: "ssh-ed25519",
				Fingerprint: gossh.FingerprintSHA256(key), File: s.known(),
			}}
			if diff := cmp.Diff(want, p.keys); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			file, err := os.ReadFile(s.known())
			if err != nil {
				t.Fatal(err)
			}
			listed := bytes.Contains(file, []byte(fmt.Sprintf("\n[127.0.0.1]:%d ssh-ed25519 ", d.Port)))
			if listed != tc.listed || bytes.Count(file, []byte("\n")) > 2 {
				t.Errorf("known_hosts, want listed %v:\n%s", tc.listed, file)
			}
			if tc.listed { // and nobody is asked again
				s.must()
				if len(p.keys) != 1 {
					t.Error("asked again about a host that was remembered")
				}
			}
		})
	}
	t.Run("nobody to ask", func(t *testing.T) {
		s := newSetting(t, "box", config)
		_, err := s.dial()
		explained(t, err, remote.StageHostKey)
	})
}

func TestChangedHostKey(t *testing.T) {
	d, old := remotetest.StartSSHD(t), remotetest.StartSSHD(t)
	s := newSetting(t, "box", strings.ReplaceAll(host("box", d, d.Port), "  HostKeyAlias box\n", ""))
	s.knows("nobody", old)
	s.knows(fmt.Sprintf("[127.0.0.1]:%d", d.Port), old)
	p := &person{}
	s.Ask = p
	_, err := s.dial()
	text := explained(t, err, remote.StageHostKey)
	for _, want := range []string{
		fingerprintOf(t, d), fingerprintOf(t, old), s.known() + ":2",
		"ssh-keygen", fmt.Sprintf("-R \"[127.0.0.1]:%d\"", d.Port), "has changed",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no word of %s in:\n%s", want, text)
		}
	}
	if len(p.keys) > 0 {
		t.Error("a person was asked to accept it")
	}
	if d.Logins() > 0 {
		t.Error("and logged in all the same")
	}
}

// StrictHostKeyChecking no is about hosts nobody has met. With either client a key
// that changed stops the connection.
func TestSecurityChangedHostKeyStopsWithoutStrictChecking(t *testing.T) {
	d, old := remotetest.StartSSHD(t), remotetest.StartSSHD(t)
	loose := strings.ReplaceAll(host("box", d, d.Port), "StrictHostKeyChecking ask", "StrictHostKeyChecking no")
	s := newSetting(t, "box", loose)
	s.knows("box", old)
	s.Ask = &person{}
	c, err := s.dial()
	if err == nil {
		_ = c.Close()
		t.Fatal("connected to a host whose key has changed")
	}
	if text := explained(t, err, remote.StageHostKey); !strings.Contains(text, "has changed") {
		t.Errorf("got:\n%s", text)
	}
	if d.Logins() > 0 {
		t.Error("and logged in")
	}
	// A host nobody has met is still taken as it is.
	newSetting(t, "box", loose).must()
}

func fingerprintOf(t *testing.T, d *remotetest.SSHD) string {
	t.Helper()
	pub, err := os.ReadFile(d.HostKey + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := gossh.ParseAuthorizedKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return gossh.FingerprintSHA256(key)
}

// explained checks that an error is one for people, at a stage, and returns all
// it says.
func explained(t *testing.T, err error, stage string) string {
	t.Helper()
	var p *config.Problem
	if !errors.As(err, &p) {
		t.Fatalf("not a Problem: %v", err)
	}
	if p.Stage != stage || len(p.Hints) == 0 || p.Err == nil || strings.ContainsAny(p.Error(), "\n\x1b") {
		t.Errorf("stage %q (want %q), %q, hints %q", p.Stage, stage, p.Err, p.Hints)
	}
	return config.Explain(err)
}

func TestFailures(t *testing.T) {
	d, strict := remotetest.StartSSHD(t), remotetest.StartSSHD(t, "MaxAuthTries 1")
	silent := listener(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	rude := listener(t, func(c net.Conn) { _ = c.Close() })
	other := listener(t, func(c net.Conn) { _, _ = c.Write([]byte("220 mail\r\n" + strings.Repeat("x", 9000) + "\r\n")) })
	key := func(old, new string) string { return strings.ReplaceAll(host("box", d, d.Port), old, new) }
	port := fmt.Sprintf("Port %d", d.Port)
	for name, tc := range map[string]struct {
		config   string
		patience time.Duration
		stage    string
		want     []string
	}{
		"refused":        {key(port, fmt.Sprintf("Port %d", closedPort(t))), 0, remote.StageDial, []string{"connect to host 127.0.0.1 port", "refused", "sshd listens"}},
		"no such name":   {key("HostName 127.0.0.1", "HostName no-such-host.invalid"), 0, remote.StageDial, []string{"no-such-host.invalid", "HostName"}},
		"silent":         {key(port, fmt.Sprintf("Port %d", silent)), 2 * time.Second, remote.StageDial, []string{"127.0.0.1"}},
		"hangs up":       {key(port, fmt.Sprintf("Port %d", rude)), 0, remote.StageDial, []string{"MaxStartups"}},
		"not ssh":        {key(port, fmt.Sprintf("Port %d", other)), 0, remote.StageDial, []string{"SSH port"}},
		"wrong key":      {key(d.Key+"\n", d.StrangerKey+"\n"), 0, remote.StageAuth, []string{"ssh-add -l", "ssh-copy-id box"}},
		"no common kex":  {host("box", d, d.Port) + "  KexAlgorithms diffie-hellman-group1-sha1\n", 0, remote.StageHostKey, []string{"KexAlgorithms +"}},
		"bad proxy":      {host("box", d, d.Port) + "  ProxyCommand /bin/sh -c 'echo oops >&2; exit 1'\n", 0, remote.StageDial, []string{"oops", "run it by hand: `/bin/sh -c"}},
		"a proxy no one": {host("box", d, d.Port) + "  ProxyCommand sleep 600\n", 2 * time.Second, remote.StageDial, []string{"does not answer"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetting(t, "box", tc.config)
			s.knows("box", d)
			s.Ask, s.Patience = &person{}, tc.patience
			c, err := s.dial()
			if err == nil {
				_ = c.Close()
				t.Fatal("it worked")
			}
			text := explained(t, err, tc.stage)
			for _, w := range tc.want {
				if !strings.Contains(text, w) {
					t.Errorf("no word of %q in:\n%s", w, text)
				}
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("ssh's words are not kept: %v", err)
			}
			all := s.events.stages()
			if last := all[len(all)-1]; last != tc.stage+"@box failed" {
				t.Errorf("the story ends with %q", last)
			}
			s.empty()
		})
	}
	t.Run("too many keys", func(t *testing.T) {
		s := newSetting(t, "box", strings.ReplaceAll(host("box", strict, strict.Port), strict.Key+"\n", strict.StrangerKey+"\n  IdentityFile "+strict.Key+"\n"))
		s.knows("box", strict)
		_, err := s.dial()
		if text := explained(t, err, remote.StageAuth); !strings.Contains(text, "IdentitiesOnly") {
			t.Errorf("got:\n%s", text)
		}
	})
	t.Run("a broken configuration", func(t *testing.T) {
		s := newSetting(t, "box", host("box", d, d.Port))
		path := filepath.Join(s.dir, "broken")
		if err := os.WriteFile(path, []byte("Host box\n  UseKeychain yes\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.ConfigFile = path
		_, err := s.dial()
		if text := explained(t, err, remote.StageResolve); !strings.Contains(text, "IgnoreUnknown usekeychain") {
			t.Errorf("got:\n%s", text)
		}
	})
	t.Run("no ssh", func(t *testing.T) {
		s := newSetting(t, "box", host("box", d, d.Port))
		s.Program = "no-such-ssh"
		_, err := s.dial()
		if text := explained(t, err, remote.StageDial); !strings.Contains(text, "install the OpenSSH client") {
			t.Errorf("got:\n%s", text)
		}
	})
	t.Run("not OpenSSH", func(t *testing.T) {
		s := newSetting(t, "box", host("box", d, d.Port))
		s.Program = "/bin/echo"
		_, err := s.dial()
		explained(t, err, remote.StageDial)
	})
}

// listener answers connections with f until the test ends.
func listener(t *testing.T, f func(net.Conn)) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

func TestGivingUp(t *testing.T) {
	port := passwords(t, "pw", "")
	t.Run("the caller", func(t *testing.T) {
		s := newSetting(t, "box", stranger("box", port))
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan struct{})
		s.Ask = &blocking{asked: asked}
		go func() { <-asked; cancel() }()
		c, err := Dial(ctx, s.Config)
		if err == nil {
			_ = c.Close()
			t.Fatal("it worked")
		}
		explained(t, err, remote.StageAuth)
		if !errors.Is(err, context.Canceled) || config.ExitCode(err) != config.ExitInterrupted {
			t.Errorf("got %v", err)
		}
		s.empty()
	})
	t.Run("the person", func(t *testing.T) {
		s := newSetting(t, "box", stranger("box", port))
		no := errors.New("not now")
		s.Ask = &person{secret: func(remote.SecretQuestion) (string, error) { return "", no }}
		_, err := s.dial()
		explained(t, err, remote.StageAuth)
		if !errors.Is(err, no) {
			t.Errorf("got %v", err)
		}
		s.empty()
	})
	t.Run("nobody there", func(t *testing.T) {
		s := newSetting(t, "box", stranger("box", port))
		s.Ask = &person{}
		_, err := s.dial()
		if text := explained(t, err, remote.StageAuth); !strings.Contains(text, "in a terminal") {
			t.Errorf("got:\n%s", text)
		}
	})
}

// blocking is a person who never answers.
type blocking struct {
	person
	asked chan struct{}
}

func (b *blocking) Secret(ctx context.Context, _ remote.SecretQuestion) (string, error) {
	close(b.asked)
	<-ctx.Done()
	return "", context.Cause(ctx)
}

// A person may take longer than ssh may be silent.
func TestAskingPausesTheClock(t *testing.T) {
	t.Parallel()
	d := remotetest.StartSSHD(t)
	s := newSetting(t, "box", host("box", d, d.Port))
	s.Patience = 8 * time.Second
	s.Ask = &person{key: func(remote.HostKeyQuestion) (remote.Decision, error) {
		time.Sleep(s.Patience + time.Second) // the thing tested
		return remote.AcceptOnce, nil
	}}
	s.must()
}
