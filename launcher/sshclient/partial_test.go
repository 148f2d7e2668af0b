package sshclient

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

// startStrict is a server that wants a key and then a password, as
// `AuthenticationMethods publickey,password` does, where sshd needs an account with
// a password for it.
func startStrict(t *testing.T, key string) (port int) {
	t.Helper()
	wanted := readPublic(key + ".pub")
	host, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
			if !sameKey(k, wanted) {
				return nil, errors.New("another key")
			}
			return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{
				PasswordCallback: func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
					if string(p) != "right" {
						return nil, errors.New("wrong")
					}
					return nil, nil
				},
			}}
		},
	}
	cfg.AddHostKey(host)
	return server(t, func(c net.Conn) {
		conn, chans, reqs, err := ssh.NewServerConn(c, cfg)
		if err != nil {
			_, _ = io.Copy(io.Discard, c)
			return
		}
		go ssh.DiscardRequests(reqs)
		for nc := range chans {
			_ = nc.Reject(ssh.Prohibited, "nothing here")
		}
		_ = conn.Wait()
	})
}

func TestKeyAndThenPassword(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := at("dev", startStrict(t, s.Key), "ada", s.Key, "/dev/null")
	tt.IdentityFiles = []string{s.StrangerKey, s.Key}
	tt.StrictHostKeyChecking = "accept-new"
	typed := []string{"wrong", "right"}
	who := &person{secret: func(q remote.SecretQuestion) (string, error) { return typed[q.Attempt-1], nil }}
	secrets := NewSecrets()
	var log eventLog
	mustDial(t, Config{Target: tt, Ask: who, Secrets: secrets, Events: log.add})
	if len(who.asked()) != 2 {
		t.Errorf("asked %+v", who.asked())
	}
	wants(t, log.text(), "was right, and the server wants more: password", "with a password")
	mustDial(t, Config{Target: tt, Ask: who, Secrets: secrets})
	if len(who.asked()) != 2 {
		t.Error("a reconnect asked again")
	}

	p := mustFail(t, Config{Target: tt}, remote.StageAuth)
	wants(t, config.Explain(p), "it takes password", "nobody is here to enter the password")
	tt.IdentityFiles = []string{s.StrangerKey}
	p = mustFail(t, Config{Target: tt, Ask: who}, remote.StageAuth)
	wants(t, config.Explain(p), "it takes publickey", "ssh-copy-id dev")
	if strings.Contains(p.Error(), "password") {
		t.Errorf("a password was on offer before the key was right: %v", p)
	}
}
