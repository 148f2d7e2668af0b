package sshclient

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	glider "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// A server that talks for ever instead of letting anybody in is left, and does not
// fill the screen's memory meanwhile.
func TestSecurityServerCannotAskWithoutEnd(t *testing.T) {
	o := startOther(t, glider.KeyboardInteractiveAuth(func(_ glider.Context, ask ssh.KeyboardInteractiveChallenge) bool {
		for {
			if _, err := ask("", strings.Repeat("word ", 100), nil, nil); err != nil {
				return false
			}
		}
	}))
	who := &person{}
	p := mustFail(t, Config{Target: o.target(), Ask: who}, remote.StageAuth)
	wants(t, config.Explain(p), "the server asks without end")
	if n := strings.Count(who.told(), "dev: "); n > maxNotices {
		t.Errorf("a person is told %d times", n)
	}
}

func TestSecurityBannersAreBounded(t *testing.T) {
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ServerConfig{
		PreAuthConnCallback: func(c ssh.ServerPreAuthConn) {
			for range 10 * maxNotices {
				_ = c.SendAuthBanner("\x1b]0;owned\x07banner\x9b2J\u202e\n")
			}
		},
		PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
			return nil, errors.New("no\x1b[2J")
		},
	}
	cfg.AddHostKey(signer)
	port := server(t, func(c net.Conn) {
		sc, chans, reqs, err := ssh.NewServerConn(c, cfg)
		if err != nil {
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() { ssh.DiscardRequests(reqs) })
		for nc := range chans {
			_ = nc.Reject(ssh.Prohibited, "no")
		}
		_ = sc.Close()
		wg.Wait()
	})
	target := at("dev", port, "ada", "", "/dev/null")
	target.StrictHostKeyChecking = "accept-new"
	who := &person{}
	who.secret = func(remote.SecretQuestion) (string, error) { return "guess", nil }
	p := mustFail(t, Config{Target: target, Ask: who}, remote.StageAuth)
	if n := strings.Count(who.told(), "banner"); n == 0 || n > maxNotices {
		t.Errorf("%d banners are shown", n)
	}
	if strings.ContainsAny(who.told()+config.Explain(p), "\x1b\x07\u009b\u202e") {
		t.Errorf("a terminal obeys %q", who.told())
	}
}

// Behind a jump host the same address is another machine, which does not get the
// jump host's password.
func TestSecurityAPasswordStaysWithItsHop(t *testing.T) {
	bastion := startOther(t, glider.PasswordAuth(func(_ glider.Context, p string) bool { return p == "bastion's" }), func(s *glider.Server) error {
		s.LocalPortForwardingCallback = func(glider.Context, string, uint32) bool { return true }
		s.ChannelHandlers = map[string]glider.ChannelHandler{"direct-tcpip": glider.DirectTCPIPHandler}
		return nil
	})
	tt := bastion.target() // as seen from the bastion
	tt.ProxyJump = []string{"bastion"}
	who := &person{secret: func(q remote.SecretQuestion) (string, error) {
		if q.Hop == "bastion" {
			return "bastion's", nil
		}
		return "another", nil
	}}
	mustFail(t, Config{Target: tt, Ask: who, Resolve: resolver(map[string]sshconfig.Target{"bastion": bastion.target()})}, remote.StageAuth)
	if asked := who.asked(); len(asked) < 2 || asked[1].Hop != "dev" {
		t.Errorf("the second machine was sent a password meant for the first; asked only %+v", asked)
	}
}

// What a server opens towards us without being asked is refused, an agent that the
// configuration would forward included.
func TestSecurityServerOpensNothingUnasked(t *testing.T) {
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ServerConfig{NoClientAuth: true}
	cfg.AddHostKey(signer)
	opened := make(chan string, 16)
	port := server(t, func(c net.Conn) {
		sc, chans, reqs, err := ssh.NewServerConn(c, cfg)
		if err != nil {
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() { ssh.DiscardRequests(reqs) })
		wg.Go(func() {
			for nc := range chans {
				_ = nc.Reject(ssh.Prohibited, "no")
			}
		})
		for _, kind := range []string{"auth-agent@openssh.com", "auth-agent", "x11", "forwarded-tcpip", "forwarded-streamlocal@openssh.com", "session", "direct-tcpip", "tun@openssh.com"} {
			if _, _, err := sc.OpenChannel(kind, nil); err == nil {
				opened <- kind
			}
		}
		close(opened)
		_ = sc.Wait()
		wg.Wait()
	})
	tt := at("dev", port, "ada", "", "/dev/null")
	tt.StrictHostKeyChecking, tt.ForwardAgent, tt.IdentityAgent = "accept-new", "yes", ""
	c := mustDial(t, Config{Target: tt, Environ: env("SSH_AUTH_SOCK", startAgent(t))})
	for kind := range opened {
		t.Errorf("the server opened %s", kind)
	}
	_ = c.Close()
}
