package systemssh

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"towline/config/sshconfig"
)

// ssh knows no "only this once". It does write a key it was told to trust into
// the first of its known_hosts files and read all of them, so a host that is
// unknown is dialed with an empty private file in front of the user's own. What
// lands there is added to the user's file when the person said to remember it,
// and deleted otherwise. A host that is known is dialed as configured: then ssh
// asks nothing, and may keep its files up to date.

// maxKnownHosts bounds what is read of one known_hosts file.
const maxKnownHosts = 16 << 20

// isKnown says whether the files hold a key for the target, of whatever type.
func isKnown(t sshconfig.Target) bool {
	// A key nobody has: the answer lists those that would have been right.
	nobody, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return false
	}
	for _, f := range append(append([]string(nil), t.UserKnownHosts...), t.GlobalKnownHosts...) {
		check, err := knownhosts.New(f)
		if err != nil {
			continue // absent, or with a line only ssh understands
		}
		var wrong *knownhosts.KeyError
		if err := check(knownName(t), &net.TCPAddr{IP: net.IPv4zero, Port: 22}, nobody); errors.As(err, &wrong) && len(wrong.Want) > 0 {
			return true
		}
	}
	return false
}

// knownName is the host:port a target's key is filed under.
func knownName(t sshconfig.Target) string {
	if t.HostKeyAlias != "" {
		return net.JoinHostPort(t.HostKeyAlias, "22") // an alias is filed without a port
	}
	port := t.Port
	if port == 0 {
		port = 22
	}
	return net.JoinHostPort(t.HostName, strconv.Itoa(port))
}

// remember adds what ssh wrote to the scratch file to the user's known_hosts, in
// one write, as ssh itself does.
func remember(scratch, file string) error {
	add, err := readFile(scratch, maxKnownHosts)
	if err != nil || len(add) == 0 {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if old, err := readFile(file, maxKnownHosts); err == nil && len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
		add = append([]byte("\n"), add...)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(add)
	return errors.Join(err, f.Close())
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// fingerprintAt is the SHA256 fingerprint of the key on one line of a known_hosts
// file.
func fingerprintAt(file string, line int) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	s := bufio.NewScanner(io.LimitReader(f, maxKnownHosts))
	s.Buffer(nil, 64<<10)
	for n := 1; s.Scan(); n++ {
		if n < line {
			continue
		}
		_, _, key, _, _, err := ssh.ParseKnownHosts(s.Bytes())
		if err != nil {
			return "", fmt.Errorf("%s:%d: %w", file, line, err)
		}
		return ssh.FingerprintSHA256(key), nil
	}
	return "", fmt.Errorf("%s has no line %d", file, line)
}
