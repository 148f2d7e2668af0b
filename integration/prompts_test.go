package integration

import (
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"towline/integration/peer"
)

// Two bastions, each of which asks in its own way, and a target that nobody
// knows yet: each question says whose it is, is asked once, and a person who
// takes longer than ConnectTimeout to answer is not a failure.
func TestPromptsOfEveryHop(t *testing.T) {
	t.Parallel()
	places := peer.Chain(t, 3)
	l := peer.NewLaptop(t)
	guard := peer.NewUser(t, peer.Account{Password: true})
	outer := peer.StartOpenSSH(t, peer.OpenSSH{Place: places[0], Passwords: true, AuthenticationMethods: "password"})
	inner := peer.StartOpenSSH(t, peer.OpenSSH{Place: places[1], Challenges: true, AuthenticationMethods: "publickey,keyboard-interactive", Banner: "Inner ring. Mind the gap.\n"})
	target := peer.StartOpenSSH(t, peer.OpenSSH{Place: places[2]})
	l.Reach("outer", outer, guard, "ConnectTimeout 2")
	l.Reach("inner", inner, guard, "ProxyJump outer")
	locked := peer.NewKey(t, peer.Ed25519, "locked", "correct horse")
	l.Install("id_locked", locked)
	u := peer.NewUser(t, peer.Account{})
	u.Rehearse()
	u.Mkdir("src/shop")
	u.Place(peer.Binary(t), ".local/bin/towline")
	u.Authorize(locked.Line)
	l.Alias("dev", target, u, "ProxyJump inner", "IdentityFile ~/.ssh/id_locked", "IdentitiesOnly yes")

	term := l.OpenTowline(100, 30, "dev", "--project", u.Path("src/shop"))
	term.WaitMatch(`Password +outer`)
	time.Sleep(3 * time.Second) // a person looks it up: longer than ConnectTimeout
	answer := func(text string) { term.Type(text); term.Keys("Enter") }
	answer("not it")
	term.WaitMatch(`(?i)that was not right`)
	answer(guard.Password)
	term.Wait("inner asks", "Password:", "Mind the gap")
	answer(guard.Password)
	term.Wait(target.HostKey.Fingerprint)
	choose(term, "Is this the right host?", "a accept")
	term.WaitMatch(`(?is)passphrase.*id_locked|id_locked.*passphrase`)
	answer("correct horse")
	term.Wait("? help")
	hello(term)
	if known := l.Read(".ssh/known_hosts"); !strings.Contains(known, target.HostKey.Public()) {
		t.Errorf("the accepted key is not in known_hosts:\n%s", known)
	}
	for name, s := range map[string]*peer.Server{"outer": outer, "inner": inner, "target": target} {
		if n := strings.Count(s.Log(), "Connection from"); n != 1 {
			t.Errorf("%s was connected to %d times", name, n)
		}
	}
	quit(term)
}

// Refusing an unknown key ends it there, and nothing is remembered.
func TestRefusedHostKeyIsNotRemembered(t *testing.T) {
	t.Parallel()
	l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
	s := peer.StartOpenSSH(t, peer.OpenSSH{})
	l.Alias("dev", s, u)
	u.Authorize(l.Key.Line)
	term := l.OpenTowline(100, 30, "dev")
	term.Wait(s.HostKey.Fingerprint)
	term.Keys("Escape")
	term.Wait("not connected", "host key")
	term.Keys("q")
	term.Wait("error: host key", "hint:", "[exit ")
	if known := l.Read(".ssh/known_hosts"); known != "" {
		t.Errorf("known_hosts holds\n%s", known)
	}
	if strings.Contains(s.Log(), "Accepted") {
		t.Error("it logged in before the key was accepted")
	}
}

// Certificates of users and hosts ask nobody anything.
func TestCertificatesAskNothing(t *testing.T) {
	t.Parallel()
	ca := peer.NewKey(t, peer.Ed25519, "user-ca", "")
	l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
	s := peer.StartOpenSSH(t, peer.OpenSSH{UserCA: &ca, HostCertificate: true, AuthenticationMethods: "publickey"})
	l.Alias("dev", s, u)
	l.Knows(s)
	l.Write(".ssh/id_ed25519-cert.pub", l.Key.Certificate(t, ca, gossh.UserCert, time.Time{}, u.Name)+"\n", 0o644)
	u.Rehearse()
	u.Place(peer.Binary(t), ".local/bin/towline")
	if d := doctor(t, l, "dev"); !d.OK {
		t.Errorf("%+v", failedAt(d))
	}
}

// A live ControlMaster is used: the login that somebody made with ssh serves us
// too, and ours asks nothing.
func TestLiveControlMasterIsUsed(t *testing.T) {
	t.Parallel()
	l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{Password: true})
	s := peer.StartOpenSSH(t, peer.OpenSSH{Passwords: true, AuthenticationMethods: "password"})
	l.Reach("dev", s, u, "ControlPath ~/.ssh/%C", "ControlMaster auto", "ControlPersist 600")
	u.Rehearse()
	u.Place(peer.Binary(t), ".local/bin/towline")
	term := l.Open(80, 24, "ssh", "dev", "true")
	term.Wait("password:")
	term.Type(u.Password)
	term.Keys("Enter")
	term.Wait("[exit 0]")
	if d := doctor(t, l, "dev"); !d.OK {
		t.Errorf("%+v", failedAt(d))
	}
	if n := strings.Count(s.Log(), "Accepted password"); n != 1 {
		t.Errorf("%d logins", n)
	}
}

// What breaks other tools in people's configurations does not break us:
// commands and forwards of their own, a ControlPath longer than a socket's name
// may be, and a known_hosts with hashed names.
func TestOptionsThatBreakAutomationAreNeutralised(t *testing.T) {
	t.Parallel()
	busy := silent(t)
	l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
	s := peer.StartOpenSSH(t, peer.OpenSSH{})
	l.Reach("dev", s, u,
		"RemoteCommand echo not this", "RequestTTY force", "LocalForward "+busy+" 127.0.0.1:1", "RemoteForward 1 127.0.0.1:1",
		"ExitOnForwardFailure yes", "ControlMaster auto", "ControlPath ~/.ssh/"+strings.Repeat("long-", 30)+"%C", "HashKnownHosts yes",
		"PermitLocalCommand yes", "LocalCommand echo nor this", "SetEnv PROJECT=shop")
	if r := l.Run("ssh-keygen", "-q", "-H", "-f", l.Path(".ssh/known_hosts")); r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	u.Rehearse()
	u.Place(peer.Binary(t), ".local/bin/towline")
	if d := doctor(t, l, "dev"); !d.OK {
		t.Errorf("%+v", failedAt(d))
	}
}
