package sshclient

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxKeyFile bounds a key or certificate file.
const maxKeyFile = 1 << 20

// keyFile is one IdentityFile: the private key, or what can be known of it.
type keyFile struct {
	path   string
	pub    ssh.PublicKey // nil when only the passphrase can tell
	pem    []byte        // the private key, still locked when signer is nil; nil without one
	signer ssh.Signer    // nil while locked
	raw    any           // the private key itself, for an agent; nil while locked
	fault  string        // why it is of no use here, "" when it is
	hint   string        // what to do about the fault
}

// readKeyFile looks at an identity file. Nil means that there is none.
func readKeyFile(path string) *keyFile {
	k := &keyFile{path: path}
	k.pub = readPublic(path + ".pub")
	fi, err := os.Stat(path)
	if err != nil {
		if k.pub == nil && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if k.pub == nil {
			k.fault = "cannot be read: " + reason(err)
			k.hint = "look at it: `ls -l " + quote(path) + "`"
		}
		return k // a public key alone can name a key of the agent
	}
	if pub := readPublic(path); pub != nil {
		k.pub = pub
		return k
	}
	if fi.IsDir() {
		k.fault, k.hint = "is a directory", "look at it: `ls -ld "+quote(path)+"`"
		return k
	}
	if tooOpen(fi) {
		k.fault = fmt.Sprintf("others may read it (mode %04o), so ssh refuses it and so do we", fi.Mode().Perm())
		k.hint = "run `chmod 600 " + quote(path) + "`"
		return k
	}
	pem, err := readBounded(path, maxKeyFile)
	if err != nil {
		k.fault = "cannot be read: " + reason(err)
		k.hint = "look at it: `ls -l " + quote(path) + "`"
		return k
	}
	k.parse(pem)
	return k
}

func (k *keyFile) parse(pem []byte) {
	raw, err := ssh.ParseRawPrivateKey(pem)
	var locked *ssh.PassphraseMissingError
	switch {
	case err == nil:
		k.unlocked(raw)
	case errors.As(err, &locked):
		k.pem = pem
		if locked.PublicKey != nil {
			k.pub = locked.PublicKey
		}
	case k.pub != nil && strings.HasPrefix(k.pub.Type(), "sk-"):
		k.fault = "is a security key, which needs an agent here"
		k.hint = "run `ssh-add " + quote(k.path) + "`, or set `transport = \"system\"` for this host"
	default:
		k.fault = "is no private key we can read: " + printable(err.Error(), 200)
		k.hint = "check it: `ssh-keygen -y -f " + quote(k.path) + "`, or set `transport = \"system\"` for this host"
	}
}

// unlocked takes in the private key.
func (k *keyFile) unlocked(raw any) {
	s, err := ssh.NewSignerFromKey(raw)
	if err != nil {
		k.fault = "is no private key we can use: " + printable(err.Error(), 200)
		k.hint = "make another: `ssh-keygen -t ed25519`"
		return
	}
	k.raw, k.signer, k.pub = raw, s, s.PublicKey()
}

// unlock tries a passphrase. errWrongPassphrase is for trying again.
func (k *keyFile) unlock(passphrase string) error {
	raw, err := ssh.ParseRawPrivateKeyWithPassphrase(k.pem, []byte(passphrase))
	if err != nil {
		// The library has an error for a wrong passphrase, x509's, and others for
		// what a wrong one makes of the bytes.
		return errWrongPassphrase
	}
	k.unlocked(raw)
	if k.signer == nil {
		return errors.New(k.fault)
	}
	return nil
}

var errWrongPassphrase = errors.New("the passphrase is wrong")

// readPublic reads a public key file, nil when it is none.
func readPublic(path string) ssh.PublicKey {
	b, err := readBounded(path, maxKeyFile)
	if err != nil {
		return nil
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return nil
	}
	return pub
}

// readCertificate reads a certificate file, nil when it is none.
func readCertificate(path string) *ssh.Certificate {
	cert, _ := readPublic(path).(*ssh.Certificate)
	return cert
}

// outOfTime says why a certificate is not valid at now, "" when it is. Servers do
// not tell: to them it is one more key that does not fit.
func outOfTime(c *ssh.Certificate, now time.Time) string {
	unix := uint64(max(now.Unix(), 0))                                                        //nolint:gosec // not negative
	day := func(t uint64) string { return time.Unix(int64(t), 0).Format("2006-01-02 15:04") } //nolint:gosec // shown only
	switch {
	case c.ValidBefore != ssh.CertTimeInfinity && unix >= c.ValidBefore:
		return "expired on " + day(c.ValidBefore)
	case unix < c.ValidAfter:
		return "is not valid before " + day(c.ValidAfter)
	}
	return ""
}

// reason is an error without the path it repeats.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return printable(err.Error(), 200)
}

// candidate is one key to offer, with who signs for it.
type candidate struct {
	pub   ssh.PublicKey // what is offered: a key or a certificate; nil while the file is locked and tells nothing
	base  ssh.PublicKey // the key that signs
	file  *keyFile      // set when a file signs
	agent bool          // set when the agent does
	label string
}

// gather lists what there is to offer, in ssh's order: certificates, then the
// agent's keys that an IdentityFile names, the agent's others unless
// IdentitiesOnly, and then files.
func gather(files []*keyFile, certFiles []string, a *keyAgent, identitiesOnly bool) (out []*candidate, faults []*keyFile) {
	var agentKeys []agentKey
	if a != nil {
		agentKeys = a.keys
	}
	inAgent := func(pub ssh.PublicKey) bool {
		return slices.ContainsFunc(agentKeys, func(k agentKey) bool { return sameKey(k.pub, pub) })
	}
	fileOf := func(pub ssh.PublicKey) *keyFile {
		for _, f := range files {
			if f.fault == "" && f.pub != nil && (f.pem != nil || f.signer != nil) && sameKey(f.pub, pub) {
				return f
			}
		}
		return nil
	}
	add := func(c *candidate) {
		if c.pub != nil && slices.ContainsFunc(out, func(o *candidate) bool { return o.pub != nil && sameKey(o.pub, c.pub) }) {
			return
		}
		out = append(out, c)
	}
	var certs []*ssh.Certificate
	names := make(map[*ssh.Certificate]string)
	paths := slices.Clone(certFiles)
	for _, f := range files {
		paths = append(paths, strings.TrimSuffix(f.path, ".pub")+"-cert.pub")
	}
	for _, path := range paths {
		if cert := readCertificate(path); cert != nil {
			certs, names[cert] = append(certs, cert), path
		}
	}
	for _, cert := range certs {
		label := "certificate " + short(names[cert])
		if inAgent(cert.Key) {
			add(&candidate{pub: cert, base: cert.Key, agent: true, label: label})
		} else if f := fileOf(cert.Key); f != nil {
			add(&candidate{pub: cert, base: cert.Key, file: f, label: label})
		}
	}
	named := func(k agentKey) int {
		return slices.IndexFunc(files, func(f *keyFile) bool {
			return f.pub != nil && (sameKey(f.pub, k.pub) || sameKey(f.pub, baseKey(k.pub)))
		})
	}
	first, rest := []agentKey{}, []agentKey{}
	for _, k := range agentKeys {
		if named(k) >= 0 {
			first = append(first, k)
		} else {
			rest = append(rest, k)
		}
	}
	slices.SortStableFunc(first, func(x, y agentKey) int { return named(x) - named(y) })
	if identitiesOnly {
		rest = nil
	}
	for _, k := range append(first, rest...) {
		label := "agent key"
		if k.comment != "" {
			label += " " + k.comment
		}
		add(&candidate{pub: k.pub, base: k.pub, agent: true, label: label})
	}
	for _, f := range files {
		switch {
		case f.pub != nil && inAgent(f.pub): // offered already
		case f.fault != "":
			faults = append(faults, f)
		case f.signer != nil || f.pem != nil:
			add(&candidate{pub: f.pub, base: f.pub, file: f, label: short(f.path)})
		}
	}
	return out, faults
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// baseKey is the key inside a certificate, or the key.
func baseKey(k ssh.PublicKey) ssh.PublicKey {
	if c, ok := k.(*ssh.Certificate); ok {
		return c.Key
	}
	return k
}

// short is a path for people: under ~ where it is.
func short(path string) string {
	if home, err := os.UserHomeDir(); err == nil {
		if rel, err := filepath.Rel(home, path); err == nil && !strings.HasPrefix(rel, "..") {
			return "~" + string(filepath.Separator) + rel
		}
	}
	return printable(path, 300)
}
