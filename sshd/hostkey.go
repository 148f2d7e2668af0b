package sshd

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	gossh "golang.org/x/crypto/ssh"

	"towline/config"
)

// hostKey reads the host key, making it first when there is none. It is what
// clients know the host by, so it is made once and never replaced; a file that
// others could have read is refused, because whoever has it is this host.
func hostKey(path string) (pemBytes []byte, key gossh.PublicKey, err error) {
	pemBytes, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeHostKey(path); err != nil {
			return nil, nil, fmt.Errorf("make the host key: %w", err)
		}
		pemBytes, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the host key: %w", err)
	}
	if err := config.PrivateFile(path); err != nil {
		return nil, nil, err
	}
	problem := func(err error, hint string) error {
		return &config.Problem{Err: err, Hints: []string{hint}, Exit: config.ExitConfig}
	}
	another := "move " + path + " away to have a new key made; clients will then ask about it"
	signer, err := gossh.ParsePrivateKey(pemBytes)
	if err != nil {
		return nil, nil, problem(fmt.Errorf("host key %s: %w", path, err), another)
	}
	if t := signer.PublicKey().Type(); t != gossh.KeyAlgoED25519 {
		return nil, nil, problem(fmt.Errorf("host key %s is %s, not ed25519", path, t), another)
	}
	return pemBytes, signer.PublicKey(), nil
}

// makeHostKey writes a new key under another name and links it into place, so
// that nobody ever sees half a key and, of two that start at once, one wins.
func makeHostKey(path string) error {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := gossh.MarshalPrivateKey(priv, "towline host key")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".host-key-*") // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone or only a second name
	_, err = tmp.Write(pem.EncodeToMemory(block))
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
