package peer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Key is a key pair made for one test.
type Key struct {
	Signer      ssh.Signer
	PEM         string // the private half as OpenSSH keeps it
	Line        string // "ssh-ed25519 AAAA… comment", without a newline
	Fingerprint string // SHA256:…
	Passphrase  string

	public string // of a key whose private half another program has
}

// KeyType is an algorithm of keys.
type KeyType string

// The algorithms people have.
const (
	Ed25519 KeyType = "ed25519"
	ECDSA   KeyType = "ecdsa"
	RSA     KeyType = "rsa"
)

// NewKey makes a key; with a passphrase its PEM is encrypted.
func NewKey(t testing.TB, kind KeyType, comment, passphrase string) Key {
	t.Helper()
	var secret crypto.Signer
	var err error
	switch kind {
	case ECDSA:
		secret, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RSA:
		secret, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		_, secret, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(secret, comment)
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(secret, comment, []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	return Key{
		Signer: signer, PEM: string(pem.EncodeToMemory(block)), Line: line(signer.PublicKey()) + " " + comment,
		Fingerprint: ssh.FingerprintSHA256(signer.PublicKey()), Passphrase: passphrase,
	}
}

func line(k ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) }

// Public is the key without its comment, as known_hosts has it.
func (k Key) Public() string {
	if k.Signer == nil {
		return k.public
	}
	return line(k.Signer.PublicKey())
}

// Certificate is one line: of k, signed by ca, for the principals (user names,
// or host names of a host certificate), valid for an hour around now unless
// before says when it ends.
func (k Key) Certificate(t testing.TB, ca Key, kind uint32, before time.Time, principals ...string) string {
	t.Helper()
	if before.IsZero() {
		before = time.Now().Add(time.Hour)
	}
	c := &ssh.Certificate{
		Key: k.Signer.PublicKey(), Serial: 1, CertType: kind, KeyId: "test", ValidPrincipals: principals,
		ValidAfter: uint64(time.Now().Add(-2 * time.Hour).Unix()), ValidBefore: uint64(before.Unix()), //nolint:gosec // now is after 1970
	}
	if kind == ssh.UserCert {
		c.Extensions = map[string]string{"permit-pty": "", "permit-port-forwarding": "", "permit-agent-forwarding": ""}
	}
	if err := c.SignCert(rand.Reader, ca.Signer); err != nil {
		t.Fatal(err)
	}
	return line(c) + " cert"
}
