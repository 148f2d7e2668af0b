package sshclient

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

// decide is a person with one answer to every host key.
func decide(d remote.Decision) *person {
	return &person{hostKey: func(remote.HostKeyQuestion) (remote.Decision, error) { return d, nil }}
}

// stranger is s for somebody who has never met it.
func stranger(t *testing.T, s *remotetest.SSHD) (sshconfig.Target, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "new", "known_hosts")
	tt := target(s)
	tt.UserKnownHosts = []string{file, filepath.Join(t.TempDir(), "second")}
	return tt, file
}

func TestUnknownHostIsAskedAbout(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt, file := stranger(t, s)
	who := decide(remote.AcceptSave)
	var log eventLog
	mustDial(t, Config{Target: tt, Ask: who, Events: log.add})
	if len(who.hostKeys) != 1 {
		t.Fatalf("asked %d times", len(who.hostKeys))
	}
	want := remote.HostKeyQuestion{
		Hop: "dev", Address: hostPort(s), Type: "ssh-ed25519",
		Fingerprint: fingerprint(t, s.HostKey+".pub"), File: file,
	}
	if who.hostKeys[0] != want {
		t.Errorf("asked %+v, want %+v", who.hostKeys[0], want)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("known_hosts: %v, %v", fi, err)
	}
	if fi, err := os.Stat(filepath.Dir(file)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("its folder: %v, %v", fi, err)
	}
	wants(t, tool(t, "ssh-keygen", "-F", hostPort(s), "-f", file), "found: line 1")
	wants(t, log.text(), "waiting=true", "accepted and kept in "+file)

	mustDial(t, Config{Target: tt, Ask: who})
	if len(who.hostKeys) != 1 {
		t.Error("asked again about a host that was saved")
	}
}

func TestHostAcceptedOnce(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt, file := stranger(t, s)
	who, secrets := decide(remote.AcceptOnce), NewSecrets()
	mustDial(t, Config{Target: tt, Ask: who, Secrets: secrets})
	mustDial(t, Config{Target: tt, Ask: who, Secrets: secrets})
	if len(who.hostKeys) != 1 {
		t.Errorf("asked %d times in one session", len(who.hostKeys))
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the key was saved")
	}
	mustDial(t, Config{Target: tt, Ask: who})
	if len(who.hostKeys) != 2 {
		t.Error("another session was not asked")
	}
}

func TestHostKeyRefused(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt, file := stranger(t, s)
	p := mustFail(t, Config{Target: tt, Ask: decide(remote.Refuse)}, remote.StageHostKey)
	wants(t, config.Explain(p), "did not accept", fingerprint(t, s.HostKey+".pub"), "ssh-keygen -lf")
	if _, err := os.Stat(file); err == nil {
		t.Error("a refused key was saved")
	}
	if logins(s) != 0 {
		t.Error("logged in to a host that was refused")
	}
}

func TestStrictHostKeyChecking(t *testing.T) {
	s := remotetest.StartSSHD(t)
	for value, tc := range map[string]struct{ connects, saves bool }{
		"yes": {false, false}, "accept-new": {true, true}, "no": {true, true}, "off": {true, true}, "ask": {false, false}, "": {false, false},
	} {
		t.Run("StrictHostKeyChecking "+value, func(t *testing.T) {
			tt, file := stranger(t, s)
			tt.StrictHostKeyChecking = value
			who := &person{} // not there
			if tc.connects {
				mustDial(t, Config{Target: tt, Ask: who})
			} else {
				p := mustFail(t, Config{Target: tt, Ask: who}, remote.StageHostKey)
				wants(t, config.Explain(p), "is not known", "StrictHostKeyChecking=ask dev")
			}
			if _, err := os.Stat(file); (err == nil) != tc.saves {
				t.Errorf("saved: %v", err)
			}
			if (value == "ask" || value == "") != (len(who.hostKeys) == 1) {
				t.Errorf("asked %d times", len(who.hostKeys))
			}
		})
	}
	tt, _ := stranger(t, s)
	tt.BatchMode = true
	who := decide(remote.AcceptSave)
	p := mustFail(t, Config{Target: tt, Ask: who}, remote.StageHostKey)
	wants(t, config.Explain(p), "BatchMode")
	if len(who.hostKeys) != 0 {
		t.Error("asked in BatchMode")
	}
}

func TestKnownHostsThatCannotBeWritten(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt, _ := stranger(t, s)
	tt.UserKnownHosts = []string{"/dev/null"}
	who := decide(remote.AcceptSave)
	mustDial(t, Config{Target: tt, Ask: who})
	if who.hostKeys[0].File != "" {
		t.Errorf("a file to save in was named: %q", who.hostKeys[0].File)
	}
	inTheWay := writeFile(t, filepath.Join(t.TempDir(), "file"), "")
	tt.UserKnownHosts = []string{filepath.Join(inTheWay, "known_hosts")}
	p := mustFail(t, Config{Target: tt, Ask: who}, remote.StageHostKey)
	wants(t, config.Explain(p), "not a directory")
}

// A changed key stops everything, whatever StrictHostKeyChecking says, and the
// hint is what takes the old line away: this test types it.
func TestChangedHostKey(t *testing.T) {
	s := remotetest.StartSSHD(t)
	other := filepath.Join(t.TempDir(), "other")
	remotetest.Keygen(t, other, "")
	line := func(host string) string { return host + " " + readFile(t, other+".pub") }
	for _, strict := range []string{"yes", "ask", "accept-new", "no"} {
		tt, file := stranger(t, s)
		tt.StrictHostKeyChecking = strict
		_ = os.MkdirAll(filepath.Dir(file), 0o700)
		writeFile(t, file, "# mine\n"+line(hostPort(s)))
		who := decide(remote.AcceptSave)
		p := mustFail(t, Config{Target: tt, Ask: who}, remote.StageHostKey)
		remove := "ssh-keygen -R '" + hostPort(s) + "' -f '" + file + "'"
		wants(t, config.Explain(p), "its host key changed", fingerprint(t, s.HostKey+".pub"), fingerprint(t, other+".pub"), file+":2", "`"+remove+"`")
		if len(who.hostKeys) != 0 || logins(s) != 0 {
			t.Errorf("with StrictHostKeyChecking %s: %d questions, %d logins", strict, len(who.hostKeys), logins(s))
		}
		if strict == "ask" {
			tool(t, "sh", "-c", remove)
			mustDial(t, Config{Target: tt, Ask: who})
			s.Drop()
			s = remotetest.StartSSHD(t) // a fresh count of logins
		}
	}
}

func TestChangedHostKeyHints(t *testing.T) {
	s := remotetest.StartSSHD(t)
	other := filepath.Join(t.TempDir(), "other")
	remotetest.Keygen(t, other, "")
	key := readFile(t, other+".pub")

	tt, _ := stranger(t, s)
	global := writeFile(t, filepath.Join(t.TempDir(), "global"), hostPort(s)+" "+key)
	tt.GlobalKnownHosts = []string{global}
	p := mustFail(t, Config{Target: tt}, remote.StageHostKey)
	wants(t, config.Explain(p), "`sudo ssh-keygen -R '"+hostPort(s)+"' -f '"+global+"'`")

	tt, _ = stranger(t, s)
	pattern := writeFile(t, filepath.Join(t.TempDir(), "pattern"), "\n*,!10.* "+key)
	tt.UserKnownHosts = []string{pattern}
	p = mustFail(t, Config{Target: tt}, remote.StageHostKey)
	wants(t, config.Explain(p), "edit "+pattern+":2: the line is for *,!10.*")

	tt, _ = stranger(t, s)
	tt.HostKeyAlias = "Cluster"
	alias := writeFile(t, filepath.Join(t.TempDir(), "alias"), "cluster "+key)
	tt.UserKnownHosts = []string{alias}
	p = mustFail(t, Config{Target: tt}, remote.StageHostKey)
	wants(t, config.Explain(p), "ssh-keygen -R 'cluster' -f '"+alias+"'")
}

func TestRevokedHostKey(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := target(s)
	revoked := writeFile(t, filepath.Join(t.TempDir(), "revoked"), "# stolen\n@revoked * "+readFile(t, s.HostKey+".pub"))
	tt.GlobalKnownHosts = []string{revoked}
	p := mustFail(t, Config{Target: tt}, remote.StageHostKey)
	wants(t, config.Explain(p), "@revoked in "+revoked+":2", fingerprint(t, s.HostKey+".pub"))
}

func TestHostKeyAlias(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt, _ := stranger(t, s)
	for _, alias := range []string{"cluster", "[dev.example.com]:2222"} { // the second is what known_hosts says of another port
		tt.HostKeyAlias = alias
		tt.UserKnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "known"), alias+" "+readFile(t, s.HostKey+".pub"))}
		mustDial(t, Config{Target: tt})
	}
}

// As ssh does: a line without a port vouches for the host on any port, and cannot
// call its key changed.
func TestLineWithoutAPort(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt, _ := stranger(t, s)
	tt.UserKnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "known"), "127.0.0.1 "+readFile(t, s.HostKey+".pub"))}
	mustDial(t, Config{Target: tt})
	other := filepath.Join(t.TempDir(), "other")
	remotetest.Keygen(t, other, "")
	tt.UserKnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "known"), "127.0.0.1 "+readFile(t, other+".pub"))}
	p := mustFail(t, Config{Target: tt}, remote.StageHostKey)
	wants(t, config.Explain(p), "is not known")
}

func TestHashedKnownHosts(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt, file := stranger(t, s)
	tt.HashKnownHosts = true
	who := decide(remote.AcceptSave)
	mustDial(t, Config{Target: tt, Ask: who})
	if text := readFile(t, file); !strings.HasPrefix(text, "|1|") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("not hashed: %s", text)
	}
	wants(t, tool(t, "ssh-keygen", "-F", hostPort(s), "-f", file), "found: line 1")
	mustDial(t, Config{Target: tt})

	// And what ssh-keygen hashed is found here.
	plain := writeFile(t, filepath.Join(t.TempDir(), "plain"), readFile(t, s.KnownHosts()))
	tool(t, "ssh-keygen", "-H", "-f", plain)
	tt.UserKnownHosts = []string{plain}
	mustDial(t, Config{Target: tt})
}

// A server with several keys shows the one we know, not the one it likes best.
func TestKnownKeyIsPreferred(t *testing.T) {
	dir := t.TempDir()
	for _, kind := range []string{"rsa", "ecdsa"} {
		tool(t, "ssh-keygen", "-q", "-t", kind, "-N", "", "-f", filepath.Join(dir, kind))
	}
	s := remotetest.StartSSHD(t, "HostKey "+filepath.Join(dir, "rsa"), "HostKey "+filepath.Join(dir, "ecdsa"))
	for _, kind := range []string{"rsa", "ecdsa"} {
		tt, _ := stranger(t, s)
		tt.UserKnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "known"), hostPort(s)+" "+readFile(t, filepath.Join(dir, kind+".pub")))}
		var log eventLog
		mustDial(t, Config{Target: tt, Events: log.add})
		wants(t, log.text(), "host key: "+kind+" "+fingerprint(t, filepath.Join(dir, kind+".pub"))+", known from")
	}
}

// hostCertificate makes an authority and a certificate for s's host key.
func hostCertificate(t *testing.T, dir, hostKey string, args ...string) (authority string) {
	t.Helper()
	authority = filepath.Join(dir, "authority")
	if _, err := os.Stat(authority); err != nil {
		remotetest.Keygen(t, authority, "")
	}
	tool(t, "ssh-keygen", append(append([]string{"-q", "-s", authority, "-h", "-I", "test"}, args...), hostKey+".pub")...)
	return authority
}

func TestHostCertificates(t *testing.T) {
	dir := t.TempDir()
	hostKey := filepath.Join(dir, "host")
	remotetest.Keygen(t, hostKey, "")
	authority := hostCertificate(t, dir, hostKey, "-n", "127.0.0.1,dev.example.com")
	s := remotetest.StartSSHD(t, "HostKey "+hostKey, "HostCertificate "+hostKey+"-cert.pub")
	known := func(lines ...string) sshconfig.Target {
		tt, _ := stranger(t, s)
		tt.UserKnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "known"), strings.Join(lines, ""))}
		return tt
	}
	ca := readFile(t, authority+".pub")

	for _, pattern := range []string{"*", hostPort(s), "127.0.0.1", "127.0.*"} {
		var log eventLog
		mustDial(t, Config{Target: known("@cert-authority " + pattern + " " + ca), Events: log.add})
		wants(t, log.text(), "vouched for by the authority in ")
	}
	// An authority for others is none for this host.
	p := mustFail(t, Config{Target: known("@cert-authority *.example.com " + ca)}, remote.StageHostKey)
	wants(t, config.Explain(p), "is not known")
	// The authority's own key is not the host's.
	other := filepath.Join(dir, "other")
	remotetest.Keygen(t, other, "")
	p = mustFail(t, Config{Target: known("@cert-authority * " + readFile(t, other+".pub"))}, remote.StageHostKey)
	wants(t, config.Explain(p), "is not known")
	// Without an authority the key inside counts.
	mustDial(t, Config{Target: known(hostPort(s) + " " + readFile(t, hostKey+".pub"))})
	// Revoking the authority, or the key, revokes the certificate.
	for _, k := range []string{ca, readFile(t, hostKey+".pub")} {
		p = mustFail(t, Config{Target: known("@cert-authority * "+ca, "@revoked * "+k)}, remote.StageHostKey)
		wants(t, config.Explain(p), "@revoked")
	}
	// A certificate for another name does not count.
	tt := known("@cert-authority * " + ca)
	tt.HostKeyAlias = "elsewhere.example.com"
	var log eventLog
	p = mustFail(t, Config{Target: tt, Events: log.add}, remote.StageHostKey)
	wants(t, config.Explain(p), "is not known")
	wants(t, log.text(), "its certificate does not count", "elsewhere.example.com")
	tt.HostKeyAlias = "dev.example.com"
	mustDial(t, Config{Target: tt})
}

func TestExpiredHostCertificate(t *testing.T) {
	dir := t.TempDir()
	hostKey := filepath.Join(dir, "host")
	remotetest.Keygen(t, hostKey, "")
	authority := hostCertificate(t, dir, hostKey, "-n", "127.0.0.1", "-V", "20200101:20200102")
	s := remotetest.StartSSHD(t, "HostKey "+hostKey, "HostCertificate "+hostKey+"-cert.pub")
	tt, _ := stranger(t, s)
	tt.UserKnownHosts = []string{writeFile(t, filepath.Join(dir, "known"), "@cert-authority * "+readFile(t, authority+".pub"))}
	var log eventLog
	mustFail(t, Config{Target: tt, Events: log.add}, remote.StageHostKey)
	wants(t, log.text(), "expired")
}

func TestNoHostAuthenticationForLocalhost(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt, _ := stranger(t, s)
	tt.NoHostAuthenticationForLocalhost = true
	mustDial(t, Config{Target: tt})
}

// Two connections that meet a host at the same time leave one line.
func TestHostAcceptedTwiceAtOnce(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt, file := stranger(t, s)
	both := make(chan struct{}, 2)
	ready := make(chan struct{})
	who := &person{hostKey: func(remote.HostKeyQuestion) (remote.Decision, error) {
		both <- struct{}{}
		if len(both) == 2 {
			close(ready)
		}
		<-ready
		return remote.AcceptSave, nil
	}}
	errs := make(chan error, 2)
	ctx := bounded(t)
	for range 2 {
		go func() {
			c, err := Dial(ctx, Config{Target: tt, Ask: who})
			if err == nil {
				_ = c.Close()
			}
			errs <- err
		}()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		t.Fatal(err)
	}
	for n, line := range strings.Split(strings.TrimSpace(readFile(t, file)), "\n") {
		if _, err := parseEntry(line); err != nil {
			t.Errorf("line %s: %v", strconv.Itoa(n+1), err)
		}
	}
}

// A person may take longer than a server's patience: their answer is used with a
// fresh connection.
func TestServerThatDoesNotWait(t *testing.T) {
	s := remotetest.StartSSHD(t)
	relay := remotetest.StartRelay(t, s.Addr)
	tt, file := stranger(t, s)
	tt.Port = relay.Port()
	who := &person{hostKey: func(remote.HostKeyQuestion) (remote.Decision, error) {
		relay.Cut() // as LoginGraceTime does
		return remote.AcceptSave, nil
	}}
	var log eventLog
	mustDial(t, Config{Target: tt, Ask: who, Events: log.add})
	if len(who.hostKeys) != 1 {
		t.Errorf("asked %d times", len(who.hostKeys))
	}
	wants(t, log.text(), "hung up while it waited for you")
	wants(t, readFile(t, file), relay.PortString())
	if relay.Count() != 2 {
		t.Errorf("dialed %d times", relay.Count())
	}
}

// Time does not pass for a connection while a person thinks.
func TestPatienceForAPerson(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt, _ := stranger(t, s)
	tt.ConnectTimeout = 2e9
	fired := make(chan struct{})
	who := &person{hostKey: func(remote.HostKeyQuestion) (remote.Decision, error) {
		<-fired
		return remote.AcceptOnce, nil
	}}
	// A guard of the same length, begun before: when it fires the connection's own
	// would have.
	g := newGuard(tt.ConnectTimeout*3/2, func() { close(fired) })
	defer g.stop()
	mustDial(t, Config{Target: tt, Ask: who})
}
