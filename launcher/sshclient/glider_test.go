package sshclient

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	glider "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

// other is a server that is not OpenSSH: gliderlabs/ssh, with logins of our choice.
type other struct {
	port int

	mu    sync.Mutex
	conns []net.Conn
}

func startOther(t *testing.T, options ...glider.Option) *other {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &other{port: l.Addr().(*net.TCPAddr).Port}
	srv := &glider.Server{
		Handler: func(s glider.Session) { fmt.Fprintf(s, "%s ran %s", s.User(), s.RawCommand()) },
		ConnCallback: func(_ glider.Context, c net.Conn) net.Conn {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.conns = append(o.conns, c)
			return c
		},
	}
	for _, opt := range options {
		if err := srv.SetOption(opt); err != nil {
			t.Fatal(err)
		}
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-served })
	return o
}

// cut ends its connections.
func (o *other) cut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.conns {
		_ = c.Close()
	}
}

func (o *other) target() sshconfig.Target {
	t := at("dev", o.port, "ada", "", "/dev/null")
	t.StrictHostKeyChecking = "accept-new"
	return t
}

func TestPassword(t *testing.T) {
	o := startOther(t, glider.PasswordAuth(func(_ glider.Context, p string) bool { return p == "right" }))
	typed := []string{"wrong", "right"}
	who := &person{secret: func(q remote.SecretQuestion) (string, error) { return typed[q.Attempt-1], nil }}
	secrets := NewSecrets()
	cfg := Config{Target: o.target(), Ask: who, Secrets: secrets}
	c := mustDial(t, cfg)
	if got := echoes(t, c, "whoami"); got != "ada ran whoami" {
		t.Errorf("got %q", got)
	}
	asked := who.asked()
	if len(asked) != 2 || asked[0].Kind != remote.Password || asked[0].Subject != "ada@127.0.0.1" || asked[0].Hop != "dev" || asked[1].Attempt != 2 {
		t.Errorf("asked %+v", asked)
	}
	mustDial(t, cfg)
	if len(who.asked()) != 2 {
		t.Error("a reconnect asked again")
	}
}

// A password that was right and no longer is is asked for again, not tried for ever.
func TestPasswordThatChanged(t *testing.T) {
	var mu sync.Mutex
	right, tried := "old", 0
	o := startOther(t, glider.PasswordAuth(func(_ glider.Context, p string) bool {
		mu.Lock()
		defer mu.Unlock()
		tried++
		return p == right
	}))
	who := &person{secret: func(remote.SecretQuestion) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		return right, nil
	}}
	cfg := Config{Target: o.target(), Ask: who, Secrets: NewSecrets()}
	mustDial(t, cfg)
	mu.Lock()
	right, tried = "new", 0
	mu.Unlock()
	cfg.Secrets.Invite()
	mustDial(t, cfg)
	mustDial(t, cfg)
	mu.Lock()
	defer mu.Unlock()
	if asked := who.asked(); len(asked) != 2 || tried != 3 {
		t.Errorf("asked %d times, tried %d", len(asked), tried)
	}
}

func TestWrongPasswords(t *testing.T) {
	o := startOther(t, glider.PasswordAuth(func(glider.Context, string) bool { return false }))
	for _, n := range []int{1, 2, 3} {
		tt := o.target()
		tt.NumberOfPasswordPrompts = n
		who := answers("wrong")
		p := mustFail(t, Config{Target: tt, Ask: who}, remote.StageAuth)
		wants(t, config.Explain(p), "permission denied", "it takes password", "check the user name: this was ada@127.0.0.1")
		if len(who.asked()) != n {
			t.Errorf("asked %d times, want %d", len(who.asked()), n)
		}
		if p.Exit != config.ExitDenied {
			t.Errorf("exit %d", p.Exit)
		}
	}
	tt := o.target()
	p := mustFail(t, Config{Target: tt}, remote.StageAuth)
	wants(t, p.Error(), "nobody is here to enter the password")
	tt.BatchMode = true
	p = mustFail(t, Config{Target: tt, Ask: answers("x")}, remote.StageAuth)
	wants(t, p.Error(), "BatchMode forbids")
}

// challenger is keyboard-interactive as PAM does it: a password, then a code.
func challenger(codes ...string) glider.Option {
	return glider.KeyboardInteractiveAuth(func(_ glider.Context, ask ssh.KeyboardInteractiveChallenge) bool {
		a, err := ask("", "Two\x1b[2J steps\r\nhere", []string{"Password: "}, []bool{false})
		if err != nil || a[0] != "right" {
			return false
		}
		if len(codes) == 0 {
			return true
		}
		a, err = ask("", "", []string{"Verification code: ", "Your name"}, []bool{false, true})
		if err != nil || a[0] != codes[0] || a[1] != "Ada" {
			return false
		}
		codes = codes[1:]
		_, err = ask("Last login", "yesterday", nil, nil)
		return err == nil
	})
}

func TestKeyboardInteractive(t *testing.T) {
	o := startOther(t, challenger("111", "222", "333"))
	codes := []string{"111", "222"}
	who := &person{secret: func(q remote.SecretQuestion) (string, error) {
		switch {
		case strings.HasPrefix(q.Prompt, "Password"):
			return "right", nil
		case q.Echo:
			return "Ada", nil
		}
		code := codes[0]
		codes = codes[1:]
		return code, nil
	}}
	cfg := Config{Target: o.target(), Ask: who, Secrets: NewSecrets()}
	mustDial(t, cfg)
	asked := who.asked()
	if len(asked) != 3 || asked[0].Prompt != "Password:" || asked[1].Prompt != "Verification code:" || asked[1].Echo || !asked[2].Echo ||
		asked[1].Kind != remote.Challenge || asked[1].Hop != "dev" {
		t.Errorf("asked %+v", asked)
	}
	wants(t, who.told(), "dev: Two[2J steps\nhere", "dev: Last login\nyesterday")

	// The password is remembered, the code is for once.
	cfg.Secrets.Invite()
	mustDial(t, cfg)
	if asked := who.asked(); len(asked) != 5 || asked[3].Prompt != "Verification code:" {
		t.Errorf("a reconnect asked %+v", asked[3:])
	}
	// And a link that comes back by itself asks for no code right away.
	p := mustFail(t, cfg, remote.StageAuth)
	wants(t, config.Explain(p), "asked a short while ago")
	if len(who.asked()) != 5 {
		t.Error("asked all the same")
	}
}

// A password that keyboard-interactive did not take is not asked for again under
// the name of the other method.
func TestOnePasswordForTwoMethods(t *testing.T) {
	o := startOther(t, challenger(), glider.PasswordAuth(func(glider.Context, string) bool { return false }))
	tt := o.target()
	tt.NumberOfPasswordPrompts = 2
	who := answers("wrong")
	mustFail(t, Config{Target: tt, Ask: who}, remote.StageAuth)
	if n := len(who.asked()); n != 2 {
		t.Errorf("asked %d times: %+v", n, who.asked())
	}
	who = answers("right")
	mustDial(t, Config{Target: tt, Ask: who})
	if n := len(who.asked()); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// The server gave up while the password was typed: it is used all the same, and
// asked for once.
func TestPasswordTypedSlowly(t *testing.T) {
	for name, option := range map[string]glider.Option{
		"password":             glider.PasswordAuth(func(_ glider.Context, p string) bool { return p == "right" }),
		"keyboard-interactive": challenger(),
	} {
		t.Run(name, func(t *testing.T) {
			o := startOther(t, option)
			noticed := make(chan struct{})
			slow := true
			who := &person{}
			who.secret = func(remote.SecretQuestion) (string, error) {
				if slow {
					slow = false
					o.cut()
					<-noticed
				}
				return "right", nil
			}
			var log eventLog
			mustDial(t, Config{Target: o.target(), Ask: who, Events: func(e remote.Event) {
				log.add(e)
				if strings.HasPrefix(e.Text, "the server hung up meanwhile") {
					close(noticed)
				}
			}})
			if n := len(who.asked()); n != 1 {
				t.Errorf("asked %d times\n%s", n, log.text())
			}
			wants(t, log.text(), "hung up while it waited for you")
		})
	}
}

// Each hop's questions carry its name.
func TestQuestionsAreLabelledByHop(t *testing.T) {
	bastion := startOther(t, glider.PasswordAuth(func(_ glider.Context, p string) bool { return p == "bastion's" }), func(s *glider.Server) error {
		s.LocalPortForwardingCallback = func(glider.Context, string, uint32) bool { return true }
		s.ChannelHandlers = map[string]glider.ChannelHandler{"direct-tcpip": glider.DirectTCPIPHandler, "session": glider.DefaultSessionHandler}
		return nil
	})
	o := startOther(t, challenger())
	tt := o.target()
	tt.ProxyJump = []string{"bastion"}
	who := &person{secret: func(q remote.SecretQuestion) (string, error) {
		return map[string]string{"bastion": "bastion's", "dev": "right"}[q.Hop], nil
	}}
	c := mustDial(t, Config{Target: tt, Ask: who, Resolve: resolver(map[string]sshconfig.Target{"bastion": bastion.target()})})
	if len(who.asked()) != 2 {
		t.Errorf("asked %+v", who.asked())
	}
	if got := echoes(t, c, "x"); got != "ada ran x" {
		t.Errorf("got %q", got)
	}
}

// A server whose host key is found out about late: this one has RSA only, and is
// known by it.
func TestOtherServerIsKnown(t *testing.T) {
	key := filepath.Join(t.TempDir(), "rsa")
	tool(t, "ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", key)
	o := startOther(t, glider.HostKeyFile(key), glider.NoPty())
	tt := o.target()
	tt.StrictHostKeyChecking = "yes"
	tt.UserKnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "known"), fmt.Sprintf("[127.0.0.1]:%d %s", o.port, readFile(t, key+".pub")))}
	c := mustDial(t, Config{Target: tt})
	if out, _, err := remotetest.Run(t, c, "hello"); out != "ada ran hello" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

// A server may let somebody in and run nothing for them.
func TestServerThatRunsNothing(t *testing.T) {
	o := startOther(t, func(s *glider.Server) error {
		s.SessionRequestCallback = func(glider.Session, string) bool { return false }
		return nil
	})
	c := mustDial(t, Config{Target: o.target()})
	_, err := c.Exec(bounded(t), "true", remote.ExecOptions{})
	wants(t, config.Explain(checkProblem(t, err, remote.StageShell)), "does not run commands for ada", "ssh dev true")
	_, err = c.DialTCP(bounded(t), "127.0.0.1:22")
	checkProblem(t, err, remote.StageReady)
}
