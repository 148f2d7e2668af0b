package integration

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"towline/integration/peer"
)

// The peers are what they say they are, as the stock ssh sees them: a journey
// that fails is then not the peer's fault.
func TestPeersAsTheStockClientSeesThem(t *testing.T) {
	t.Run("openssh forwards", func(t *testing.T) {
		l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
		l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{}), u)
		says(t, l, u.Name, "dev", "id -un")
	})
	t.Run("openssh without forwarding", func(t *testing.T) {
		l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
		l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{NoForwarding: true}), u)
		says(t, l, u.Name, "dev", "id -un")
		if r := l.Run("ssh", "-W", "127.0.0.1:1", "dev"); !strings.Contains(r.Stderr, "administratively prohibited") {
			t.Errorf("a forward ended with %+v", r)
		}
	})
	t.Run("openssh force command", func(t *testing.T) {
		l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
		l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{ForceCommand: "echo forced"}), u)
		says(t, l, "forced", "dev", "id -un")
	})
	t.Run("openssh certificates", func(t *testing.T) {
		ca := peer.NewKey(t, peer.Ed25519, "user-ca", "")
		l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
		s := peer.StartOpenSSH(t, peer.OpenSSH{UserCA: &ca, HostCertificate: true})
		l.Alias("dev", s, u)
		l.Knows(s)
		l.Write(".ssh/id_ed25519-cert.pub", l.Key.Certificate(t, ca, gossh.UserCert, time.Time{}, u.Name)+"\n", 0o644)
		says(t, l, u.Name, "dev", "id -un")
	})
	t.Run("openssh password by PAM", func(t *testing.T) {
		l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{Password: true})
		l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{Passwords: true, AuthenticationMethods: "password"}), u)
		term := l.Open(80, 24, "ssh", "dev", "id -un")
		term.Wait("password:")
		term.Type(u.Password)
		term.Keys("Enter")
		term.Wait(u.Name, "[exit 0]")
	})
	t.Run("openssh key and then challenges by PAM", func(t *testing.T) {
		l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{Password: true})
		l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{Challenges: true, AuthenticationMethods: "publickey,keyboard-interactive"}), u)
		u.ExpirePassword()
		term := l.Open(80, 24, "ssh", "dev", "id -un")
		answer := func(prompt, text string) { term.Wait(prompt); term.Type(text); term.Keys("Enter") }
		answer("Password:", u.Password)
		answer("Current password:", u.Password)
		answer("New password:", "a much-better one 7")
		answer("Retype new password:", "a much-better one 7")
		term.Wait(u.Name, "[exit 0]")
	})
	t.Run("a bastion in front", func(t *testing.T) {
		places := peer.Chain(t, 3)
		l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
		names := []string{"outer", "inner", "dev"}
		for i, place := range places {
			var more []string
			if i > 0 {
				more = []string{"ProxyJump " + names[i-1]}
			}
			l.Reach(names[i], peer.StartOpenSSH(t, peer.OpenSSH{Place: place}), u, more...)
		}
		says(t, l, u.Name, "dev", "id -un")
		if r := l.Run("ssh", "-o", "ProxyJump=none", "-o", "ConnectTimeout=1", "dev", "true"); r.Code == 0 {
			t.Error("the target is reachable without its bastions")
		}
	})
	t.Run("dropbear", func(t *testing.T) {
		l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
		l.Reach("dev", peer.StartDropbear(t, false), u)
		says(t, l, u.Name, "dev", "id -un")
	})
	t.Run("gliderlabs", func(t *testing.T) {
		l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
		l.Reach("dev", peer.StartGoHost(t, peer.GoHost{User: u}), u)
		says(t, l, u.Name, "dev", "id -un")
		if r := l.Run("ssh", "dev", "cat >got; exit 7"); r.Code != 7 {
			t.Errorf("exit status %d", r.Code)
		}
	})
	t.Run("a home that cannot be written, a /tmp that cannot be run from", func(t *testing.T) {
		l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
		l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{Mounts: []string{peer.ReadOnly(u.Home), peer.NoExecTmp}}), u)
		r := l.Run("ssh", "dev", "touch ~/x; echo 'echo ran' >/tmp/x; chmod +x /tmp/x; /tmp/x")
		if !strings.Contains(r.Stderr, "Read-only file system") || !strings.Contains(r.Stderr, "ermission denied") || strings.Contains(r.Stdout, "ran") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("nologin", func(t *testing.T) {
		l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{Shell: "/usr/sbin/nologin"})
		l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{}), u)
		if r := l.Run("ssh", "dev", "true"); r.Code != 1 || !strings.Contains(r.Stdout, "not available") {
			t.Errorf("%+v", r)
		}
	})
	peer.EachLoginShell(t, func(t *testing.T, sh peer.LoginShell, u *peer.User) {
		l := peer.NewLaptop(t)
		l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{}), u)
		u.Write("tools/bin/there", "#!/bin/sh\necho found it\n", 0o755)
		// A person at a terminal finds the program in every one of them.
		term := l.Open(100, 30, "ssh", "-t", "dev")
		term.Type("there")
		term.Keys("Enter")
		term.Wait("found it")
	})
}

// says runs a command by the stock ssh and looks for want in what it says.
func says(t *testing.T, l *peer.Laptop, want string, args ...string) {
	t.Helper()
	r := l.Run(append([]string{"ssh", "-o", "BatchMode=yes"}, args...)...)
	if r.Code != 0 || !strings.Contains(r.Stdout, want) {
		t.Fatalf("ssh %v: status %d, said %q and %q", args, r.Code, r.Stdout, r.Stderr)
	}
}

// A chaotic link carries what it carries unchanged, cuts the rest, and carries
// everything when it is calm.
func TestChaosLinkCuts(t *testing.T) {
	l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
	s := peer.StartOpenSSH(t, peer.OpenSSH{})
	link := peer.NewChaos(t, s.Addr, peer.Weather{Life: time.Second})
	l.Reach("dev", s, u)
	l.Alias("shaky", &peer.Server{Addr: link.Addr}, u, "HostKeyAlias ["+strings.TrimSuffix(s.Addr, ":2222")+"]:2222")
	says(t, l, u.Name, "shaky", "id -un")
	link.Begin()
	ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
	defer cancel()
	for link.Cuts() < 5 && ctx.Err() == nil {
		cmd := l.Command(ctx, "ssh", "-o", "BatchMode=yes", "shaky", "cat /dev/zero | head -c 1000000; sleep 60")
		if err := cmd.Run(); err == nil {
			t.Fatal("a command of a minute survived")
		} else if _, ok := err.(*exec.ExitError); !ok {
			t.Fatal(err)
		}
	}
	if link.Cuts() < 5 {
		t.Errorf("only %d cuts", link.Cuts())
	}
	link.Calm()
	says(t, l, u.Name, "shaky", "id -un")
}
