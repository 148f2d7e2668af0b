package sshd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"towline/config"
)

func TestHostKeyIsMadeOnceAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "host_ed25519")
	// Two hosts that start at once agree.
	prints := make([]string, 8)
	var wg sync.WaitGroup
	for i := range prints {
		wg.Go(func() {
			_, pub, err := hostKey(path)
			if err != nil {
				t.Error(err)
				return
			}
			prints[i] = gossh.FingerprintSHA256(pub)
		})
	}
	wg.Wait()
	for _, p := range prints {
		if p != prints[0] || !strings.HasPrefix(p, "SHA256:") {
			t.Errorf("fingerprints differ: %q", prints)
		}
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	left, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	data, err := os.ReadFile(path)
	must(t, err)
	if !strings.HasPrefix(string(data), "-----BEGIN OPENSSH PRIVATE KEY-----\n") {
		t.Errorf("not OpenSSH's format: %.40q", data)
	}
	if out := run(t, opensshKeygen(t, "-y", "-f", path), nil); !strings.HasPrefix(out.stdout, "ssh-ed25519 ") {
		t.Errorf("ssh-keygen reads %v", out)
	}
}

func TestHostKeyIsRefused(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	other, err := gossh.MarshalPrivateKey(p256, "")
	must(t, err)
	good := newKey(t)
	ed25519PEM, err := os.ReadFile(good.path)
	must(t, err)
	for name, tc := range map[string]struct {
		data []byte
		mode os.FileMode
		want string
	}{
		"readable by others": {ed25519PEM, 0o644, "is open to others"},
		"another type":       {pem.EncodeToMemory(other), 0o600, "is ecdsa-sha2-nistp256, not ed25519"},
		"damaged":            {ed25519PEM[:100], 0o600, "no key found"},
		"empty":              {nil, 0o600, "no key found"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "k")
			must(t, os.WriteFile(path, tc.data, tc.mode))
			must(t, os.Chmod(path, tc.mode))
			_, _, err := hostKey(path)
			if err == nil || !strings.Contains(err.Error(), tc.want) || len(config.Hints(err)) == 0 {
				t.Errorf("got %v (hints %q), want %q and a hint", err, config.Hints(err), tc.want)
			}
			after, err := os.ReadFile(path)
			must(t, err)
			if string(after) != string(tc.data) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestListenRefusesALooseKeysFile(t *testing.T) {
	h := start(t, nil)
	must(t, os.Chmod(h.keys, 0o664))
	cfg := h.cfg
	_, err := Listen(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "can be written by others") || len(config.Hints(err)) == 0 {
		t.Errorf("got %v, hints %q", err, config.Hints(err))
	}
	must(t, os.Chmod(h.keys, 0o600))
	cfg.Listen = h.Addr()
	if _, err := Listen(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "in use") || len(config.Hints(err)) == 0 {
		t.Errorf("a taken address: %v", err)
	}
}
