package sshclient

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

func TestConformance(t *testing.T) {
	s := remotetest.StartSSHD(t, "MaxSessions 20")
	remotetest.Conformance(t, func() remote.Conn {
		c, err := Dial(bounded(t), Config{Target: target(s)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
}

func TestConformanceThroughTwoHops(t *testing.T) {
	s := remotetest.StartSSHD(t, "MaxSessions 20")
	one, two := remotetest.StartSSHD(t), remotetest.StartSSHD(t)
	remotetest.Conformance(t, func() remote.Conn {
		c, err := Dial(bounded(t), throughHops(s, one, two))
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
}

// throughHops reaches last through first and second.
func throughHops(last, first, second *remotetest.SSHD) Config {
	t := target(last)
	t.ProxyJump = []string{"first", "second"}
	return Config{Target: t, Resolve: resolver(map[string]sshconfig.Target{"first": target(first), "second": target(second)})}
}

// resolver knows some jump hosts.
func resolver(hosts map[string]sshconfig.Target) func(context.Context, string) (sshconfig.Target, error) {
	return func(_ context.Context, hop string) (sshconfig.Target, error) {
		name, _, _, err := splitHop(hop)
		if err != nil {
			return sshconfig.Target{}, err
		}
		t, ok := hosts[name]
		if !ok {
			return sshconfig.Target{}, errors.New("not in the configuration")
		}
		t.Alias = name
		return t, nil
	}
}

func TestStagesAreToldForEachHop(t *testing.T) {
	last, first, second := remotetest.StartSSHD(t), remotetest.StartSSHD(t), remotetest.StartSSHD(t)
	var log eventLog
	cfg := throughHops(last, first, second)
	cfg.Events = log.add
	c := mustDial(t, cfg)
	want := []string{
		"first resolve", "second resolve",
		"first dial", "first host key", "first authenticate",
		"second dial", "second host key", "second authenticate",
		"dev dial", "dev host key", "dev authenticate",
	}
	if d := cmp.Diff(want, log.steps()); d != "" {
		t.Errorf("stages (-want +got):\n%s", d)
	}
	for _, e := range log.all() {
		if e.Done && e.Took <= 0 && e.Stage != remote.StageResolve {
			t.Errorf("%s of %s took %v", e.Stage, e.Hop, e.Took)
		}
	}
	wants(t, log.text(), "through second", fingerprint(t, last.HostKey+".pub"), last.KnownHosts()+":1", fingerprint(t, last.Key+".pub"))
	if !strings.HasPrefix(c.Server(), "SSH-2.0-OpenSSH") {
		t.Errorf("server %q", c.Server())
	}
	if got := echoes(t, c, "echo $SSH_CONNECTION"); !strings.Contains(got, " "+strconv.Itoa(last.Port)) {
		t.Errorf("not on the target: %q", got)
	}
	for _, s := range []*remotetest.SSHD{first, second, last} {
		if n := logins(s); n != 1 {
			t.Errorf("%d logins at one hop, want 1\n%s", n, s.Log())
		}
	}
}

// The first hop of a list may have hops of its own; those of the others are not
// used, because the list says how they are reached.
func TestHopsOfHops(t *testing.T) {
	last, inner, outer := remotetest.StartSSHD(t), remotetest.StartSSHD(t), remotetest.StartSSHD(t)
	tt, in := target(last), target(inner)
	tt.ProxyJump = []string{"root@inner"}
	in.User, in.ProxyJump = "nobody-yet", []string{"ssh://outer"}
	in.User = inner.User
	var log eventLog
	mustDial(t, Config{Target: tt, Events: log.add, Resolve: resolver(map[string]sshconfig.Target{"inner": in, "outer": target(outer)})})
	if logins(outer) != 1 || logins(inner) != 1 {
		t.Errorf("outer was used %d times, inner %d\n%s", logins(outer), logins(inner), log.text())
	}

	second := target(inner)
	second.ProxyJump = []string{"nowhere"}
	tt.ProxyJump = []string{"outer", "inner"}
	mustDial(t, Config{Target: tt, Resolve: resolver(map[string]sshconfig.Target{"inner": second, "outer": target(outer)})})
}

func TestHopsInACircle(t *testing.T) {
	one, two := sshconfig.Target{HostName: "one", User: "u"}, sshconfig.Target{HostName: "two", User: "u"}
	one.ProxyJump, two.ProxyJump = []string{"two"}, []string{"one"}
	tt := sshconfig.Target{Alias: "dev", HostName: "dev", User: "u", ProxyJump: []string{"one"}}
	p := mustFail(t, Config{Target: tt, Resolve: resolver(map[string]sshconfig.Target{"one": one, "two": two})}, remote.StageResolve)
	wants(t, config.Explain(p), "u@one:22 -> u@two:22 -> u@one:22", "ProxyJump none")
}

func TestHopThatDoesNotResolve(t *testing.T) {
	for spec, want := range map[string]string{
		"ghost":          "not in the configuration",
		"-oProxyCommand": "that is no host",
		"a:b:c":          "",
		"ghost:99999":    "99999 is no port",
		"ssh://%zz":      "that is no ssh:// address",
		"":               "that is no host",
		"x@-oBad":        "that is no host",
		"gho\x1b[31mst":  "that is no host",
	} {
		tt := sshconfig.Target{Alias: "dev", HostName: "dev", ProxyJump: []string{spec}}
		p := mustFail(t, Config{Target: tt, Resolve: resolver(nil)}, remote.StageResolve)
		wants(t, config.Explain(p), want)
	}
}

func TestSplitHop(t *testing.T) {
	for spec, want := range map[string][3]string{
		"bastion":               {"bastion", "", "0"},
		"me@bastion":            {"bastion", "me", "0"},
		"me@corp@bastion:2222":  {"bastion", "me@corp", "2222"},
		"[fe80::1]:22":          {"fe80::1", "", "22"},
		"me@[::1]":              {"::1", "me", "0"},
		"::1":                   {"::1", "", "0"},
		"ssh://me@bastion:2222": {"bastion", "me", "2222"},
		"SSH://bastion":         {"bastion", "", "0"},
	} {
		host, user, port, err := splitHop(spec)
		if got := [3]string{host, user, strconv.Itoa(port)}; got != want || err != nil {
			t.Errorf("splitHop(%q) = %v, %v; want %v", spec, got, err, want)
		}
	}
}

// What a jump host does not allow, or cannot reach, is said about the hop it
// concerns and names the jump host.
func TestHopThatForwardsNothing(t *testing.T) {
	s, bastion := remotetest.StartSSHD(t), remotetest.StartSSHD(t, "AllowTcpForwarding no")
	tt := target(s)
	tt.ProxyJump = []string{"bastion"}
	p := mustFail(t, Config{Target: tt, Resolve: resolver(map[string]sshconfig.Target{"bastion": target(bastion)})}, remote.StageDial)
	wants(t, config.Explain(p), "dev (127.0.0.1:", "bastion does not allow forwarding", "AllowTcpForwarding yes", "administratively prohibited")
}

func TestHopThatCannotReachTheTarget(t *testing.T) {
	bastion := remotetest.StartSSHD(t)
	tt := at("dev", deadPort(t), "u", "", "")
	tt.ProxyJump = []string{"bastion"}
	p := mustFail(t, Config{Target: tt, Resolve: resolver(map[string]sshconfig.Target{"bastion": target(bastion)})}, remote.StageDial)
	wants(t, config.Explain(p), "bastion could not reach it", "it said: ", "ssh bastion nc -vz 127.0.0.1")
}

func TestDialFailures(t *testing.T) {
	silent := server(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	web := server(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n\x1b[31mred\x1b[0m")
	})
	full := server(t, func(net.Conn) {})
	for name, tc := range map[string]struct {
		change func(*sshconfig.Target)
		want   []string
	}{
		"refused": {
			func(t *sshconfig.Target) {}, []string{"connection refused", "systemctl status ssh"},
		},
		"no such name": {
			func(t *sshconfig.Target) { t.HostName = "no-such-host.invalid" }, []string{"no-such-host.invalid", "HostName of `Host dev`"},
		},
		"says nothing": {
			func(t *sshconfig.Target) { t.Port, t.ConnectTimeout = silent, 300*time.Millisecond },
			[]string{"no SSH greeting within 300ms", "nc 127.0.0.1 " + strconv.Itoa(silent)},
		},
		"is no SSH server": {
			func(t *sshconfig.Target) { t.Port = web }, []string{"does not speak SSH", "it said: HTTP/1.1 400 Bad Request [31mred[0m", "check the port"},
		},
		"hangs up": {
			func(t *sshconfig.Target) { t.Port = full }, []string{"hung up before saying anything", "MaxStartups"},
		},
		"no such interface": {
			func(t *sshconfig.Target) { t.BindInterface = "no-such-if0" }, []string{"BindInterface no-such-if0"},
		},
		"wrong family to bind": {
			func(t *sshconfig.Target) { t.BindAddress = "not an address" }, []string{"BindAddress not an address"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt := at("dev", deadPort(t), "u", "", filepath.Join(t.TempDir(), "known_hosts"))
			tc.change(&tt)
			p := mustFail(t, Config{Target: tt}, remote.StageDial)
			wants(t, config.Explain(p), append(tc.want, "dial: dev (")...)
		})
	}
}

func TestConnectionAttempts(t *testing.T) {
	tt := at("dev", deadPort(t), "u", "", "")
	tt.ConnectionAttempts = 2
	var log eventLog
	mustFail(t, Config{Target: tt, Events: log.add}, remote.StageDial)
	wants(t, log.text(), "attempt 1: ")
}

func TestBoundAddressAndFamily(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := target(s)
	tt.BindAddress, tt.AddressFamily = "127.0.0.9", "inet"
	c := mustDial(t, Config{Target: tt})
	if got := echoes(t, c, "echo ${SSH_CONNECTION%% *}"); got != "127.0.0.9" {
		t.Errorf("came from %q", got)
	}
	tt = target(s)
	tt.BindInterface = "lo"
	mustDial(t, Config{Target: tt})
	tt.BindInterface, tt.AddressFamily = "", "inet6"
	mustFail(t, Config{Target: tt}, remote.StageDial)
}

func TestNoHost(t *testing.T) {
	_, err := Dial(bounded(t), Config{})
	var p *config.Problem
	if !errors.As(err, &p) || p.Stage != remote.StageResolve || len(p.Hints) == 0 {
		t.Errorf("got %v", err)
	}
}

// Names from a configuration do not reach a terminal unstripped.
func TestProblemIsFitForATerminal(t *testing.T) {
	tt := at("de\x1b[1mv", deadPort(t), "u", "", "")
	tt.HostName = "127.0.0.1\x1b]0;title\a"
	mustFail(t, Config{Target: tt}, remote.StageDial)
}

func TestDialEndsWithItsContext(t *testing.T) {
	port := server(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Dial(ctx, Config{Target: at("dev", port, "u", "", ""), Events: func(e remote.Event) {
		if e.Stage == remote.StageDial {
			cancel()
		}
	}})
	p := checkProblem(t, err, remote.StageDial)
	if !errors.Is(err, context.Canceled) || p.Exit != config.ExitInterrupted {
		t.Errorf("got %v with exit %d", err, p.Exit)
	}
}

func TestProxyCommand(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := target(s)
	tt.ProxyCommand = "'" + remotetest.Program(t, "nc") + "' 127.0.0.1 " + strconv.Itoa(s.Port) + "; exit 3"
	c := mustDial(t, Config{Target: tt, Environ: env("SHELL", "/bin/sh")})
	if got := echoes(t, c, "echo hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
	proxy := c.hops[0].proxy
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-proxy.exited:
	default:
		t.Error("the ProxyCommand outlived the connection")
	}
}

func TestProxyCommandThatFails(t *testing.T) {
	for name, tc := range map[string]struct {
		command string
		want    []string
	}{
		"says why":     {"printf 'no \\033[1mroute\\n' >&2; exit 7", []string{"ended before", "it said: no [1mroute", "run it by hand"}},
		"says nothing": {"sh -c 'exit 7'", []string{"exit status 7"}},
		"is missing":   {"/no/such/program", []string{"/no/such/program"}},
		"hangs":        {"sleep 600", []string{"nothing came through the ProxyCommand within 300ms"}},
		"will not go":  {"sh -c 'trap \"\" TERM; while :; do sleep 1; done'", []string{"nothing came through the ProxyCommand within 300ms"}},
		"is no proxy":  {"echo welcome to the jungle", []string{"welcome to the jungle"}},
	} {
		t.Run(name, func(t *testing.T) {
			tt := at("dev", 22, "u", "", "")
			tt.ProxyCommand, tt.ConnectTimeout = tc.command, remotetest.Bound
			if name == "hangs" || name == "will not go" {
				tt.ConnectTimeout = 300 * time.Millisecond
			}
			p := mustFail(t, Config{Target: tt, Environ: env("SHELL", "/bin/sh")}, remote.StageDial)
			wants(t, config.Explain(p), append(tc.want, `transport = "system"`)...)
		})
	}
}

func TestAlgorithmLists(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := target(s)
	tt.Ciphers = []string{"not-yet-invented@example.com", "aes256-ctr"}
	tt.MACs = []string{"hmac-sha2-512"}
	tt.KexAlgorithms = []string{"ecdh-sha2-nistp384"}
	var log eventLog
	c := mustDial(t, Config{Target: tt, Events: log.add})
	wants(t, log.text(), "ecdh-sha2-nistp384, aes256-ctr")
	_ = c.Close()

	for option, change := range map[string]func(*sshconfig.Target){
		"Ciphers":           func(t *sshconfig.Target) { t.Ciphers = []string{"rot13", "rot26"} },
		"MACs":              func(t *sshconfig.Target) { t.MACs = []string{"umac-64@openssh.com", "rot13"} },
		"KexAlgorithms":     func(t *sshconfig.Target) { t.KexAlgorithms = []string{kexSNTRUPOld, "rot13"} },
		"HostKeyAlgorithms": func(t *sshconfig.Target) { t.HostKeyAlgorithms = []string{"rot13"} },
	} {
		tt := target(s)
		change(&tt)
		p := mustFail(t, Config{Target: tt}, remote.StageDial)
		wants(t, config.Explain(p), option+" allows only", "rot13", `transport = "system"`)
		if p.Exit != config.ExitConfig {
			t.Errorf("%s: exit %d", option, p.Exit)
		}
	}

	server := remotetest.StartSSHD(t, "Ciphers aes128-ctr", "HostKeyAlgorithms ssh-ed25519")
	tt = target(server)
	tt.Ciphers = []string{"aes256-ctr"}
	p := mustFail(t, Config{Target: tt}, remote.StageDial)
	wants(t, config.Explain(p), "no common", "aes256-ctr", "aes128-ctr", `transport = "system"`)
	tt = target(server)
	tt.HostKeyAlgorithms = []string{"rsa-sha2-512"}
	p = mustFail(t, Config{Target: tt}, remote.StageHostKey)
	wants(t, config.Explain(p), "no common host key", "rsa-sha2-512", "ssh-ed25519")
}

// The exchange that OpenSSH puts first and the library lacks is stood in for by
// the library's own of that kind.
func TestPostQuantumExchangeStandsIn(t *testing.T) {
	h := &hop{run: &run{cfg: Config{}.withDefaults()}, target: sshconfig.Target{KexAlgorithms: []string{kexSNTRUPOld, "curve25519-sha256"}}}
	c := &ssh.ClientConfig{}
	if err := h.algorithms(c); err != nil || !slices.Equal(c.KeyExchanges, []string{"mlkem768x25519-sha256", "curve25519-sha256"}) {
		t.Errorf("exchanges %v, %v", c.KeyExchanges, err)
	}
}

func TestConnectionThatEnds(t *testing.T) {
	s, bastion := remotetest.StartSSHD(t), remotetest.StartSSHD(t)
	tt := target(s)
	tt.ProxyJump = []string{"bastion"}
	for name, from := range map[string]*remotetest.SSHD{"dev": s, "bastion": bastion} {
		t.Run(name, func(t *testing.T) {
			c := mustDial(t, Config{Target: tt, Resolve: resolver(map[string]sshconfig.Target{"bastion": target(bastion)})})
			p, err := c.Exec(bounded(t), "cat", remote.ExecOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if c.Err() != nil {
				t.Errorf("an error before the end: %v", c.Err())
			}
			from.Drop()
			<-c.Done()
			problem := checkProblem(t, c.Err(), remote.StageReady)
			wants(t, config.Explain(problem), name, "closed by the other side", "towline dev")
			if err := p.Wait(); err == nil {
				t.Error("the command ended well")
			}
			if _, err := c.Exec(t.Context(), "true", remote.ExecOptions{}); err == nil {
				t.Error("Exec after the end worked")
			}
			if err := c.Close(); err != nil || errors.Is(c.Err(), net.ErrClosed) {
				t.Errorf("Close said %v, and Err then %v", err, c.Err())
			}
		})
	}
}

func TestNoShellForUs(t *testing.T) {
	s := remotetest.StartSSHD(t, "MaxSessions 0")
	c := mustDial(t, Config{Target: target(s)})
	_, err := c.Exec(bounded(t), "true", remote.ExecOptions{})
	p := checkProblem(t, err, remote.StageShell)
	wants(t, config.Explain(p), "opened no session", "MaxSessions")
}

func TestForwardingForbidden(t *testing.T) {
	s := remotetest.StartSSHD(t, "AllowTcpForwarding no", "AllowStreamLocalForwarding no")
	c := mustDial(t, Config{Target: target(s)})
	_, err := c.DialTCP(bounded(t), "127.0.0.1:1")
	wants(t, config.Explain(checkProblem(t, err, remote.StageReady)), "does not forward", "AllowTcpForwarding yes")
	_, err = c.DialUnix(bounded(t), "/nowhere")
	wants(t, config.Explain(checkProblem(t, err, remote.StageReady)), "could not connect to /nowhere", "AllowStreamLocalForwarding no")
	if got := echoes(t, c, "echo fine"); got != "fine" {
		t.Errorf("a command after that: %q", got)
	}
}

func TestForcedCommand(t *testing.T) {
	s := remotetest.StartSSHD(t, "ForceCommand echo you asked for $SSH_ORIGINAL_COMMAND")
	c := mustDial(t, Config{Target: target(s)})
	if got := echoes(t, c, "towline"); got != "you asked for towline" {
		t.Errorf("got %q", got)
	}
}

func TestEnvironmentIsSent(t *testing.T) {
	s := remotetest.StartSSHD(t, "AcceptEnv LC_* GREETING")
	tt := target(s)
	tt.SetEnv = map[string]string{"GREETING": "hello world", "REFUSED": "x"}
	tt.SendEnv = []string{"LC_TEST", "LC_W*", "GREETING"}
	c := mustDial(t, Config{
		Target: tt, Environ: env("LC_TEST", "one", "GREETING", "not this"),
		Env: []string{"LC_WIDE=two", "LC_OTHER=no", "HOME=/nowhere"},
	})
	if got := echoes(t, c, `echo "$GREETING/$LC_TEST/$LC_WIDE/$LC_OTHER/$REFUSED"`); got != "hello world/one/two//" {
		t.Errorf("got %q", got)
	}
}

func TestUnreadableKnownHosts(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := target(s)
	tt.UserKnownHosts = []string{t.TempDir()} // a folder
	p := mustFail(t, Config{Target: tt}, remote.StageHostKey)
	wants(t, config.Explain(p), "is a directory", "ls -l")
	if _, err := os.Stat(tt.UserKnownHosts[0]); err != nil {
		t.Error(err)
	}
}

func TestOptionsThatAreLeftOut(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := target(s)
	tt.Compression, tt.CheckHostIP, tt.VerifyHostKeyDNS = true, true, "ask"
	var log eventLog
	mustDial(t, Config{Target: tt, Events: log.add})
	wants(t, log.text(), "not done here: Compression, CheckHostIP, VerifyHostKeyDNS")
}

// Keys are exchanged anew every so often; that asks nobody anything.
func TestKeysExchangedAnew(t *testing.T) {
	s := remotetest.StartSSHD(t, "RekeyLimit 256K")
	tt, _ := stranger(t, s)
	who := decide(remote.AcceptOnce)
	c := mustDial(t, Config{Target: tt, Ask: who})
	p, err := c.Exec(bounded(t), "head -c 3000000 /dev/zero", remote.ExecOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if n, err := io.Copy(io.Discard, p.Stdout()); n != 3000000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if len(who.hostKeys) != 1 {
		t.Errorf("asked %d times", len(who.hostKeys))
	}
}
