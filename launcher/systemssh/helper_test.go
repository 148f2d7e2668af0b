package systemssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"syscall"

	gossh "golang.org/x/crypto/ssh"
)

func newHostKey() (gossh.PublicKey, gossh.Signer, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	s, err := gossh.NewSignerFromKey(priv)
	if err != nil {
		return nil, nil, err
	}
	return s.PublicKey(), s, nil
}

// running says whether a process is there.
func running(pid int) bool {
	p, err := os.FindProcess(pid)
	return err == nil && p.Signal(syscall.Signal(0)) == nil
}
