package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/acme"

	"towline/config"
)

const (
	// certInterval is how often the files are looked at, certLazy how long a
	// handshake may rely on the last look.
	certInterval = 5 * time.Second
	certLazy     = time.Second
	maxCertFile  = 1 << 20
	// expiryNotice is how long before the end of a certificate the log says so.
	expiryNotice = 7 * 24 * time.Hour
)

// CertConfig says where the certificates of wss listeners come from: two files,
// or an authority.
type CertConfig struct {
	CertFile, KeyFile string // PEM; the certificate first, then what it was signed by
	ACME              ACME
	Log               *slog.Logger // nil discards
}

// Certificates is what wss listeners show. It is safe for concurrent use, and Run
// need not run: handshakes look at the files too.
type Certificates struct {
	cfg  CertConfig
	log  *slog.Logger
	acme *issuer // nil: files

	mu     sync.Mutex // guards what follows
	now    *tls.Certificate
	leaf   *x509.Certificate
	seen   [2]fileState // of the files when they were last read
	looked time.Time
	warned time.Time // of the expiry
}

// fileState is what changes about a file when somebody replaces it.
type fileState struct {
	size int64
	mod  time.Time
	info fs.FileInfo
}

func (s fileState) same(o fileState) bool {
	if s.info == nil || o.info == nil {
		return s.info == nil && o.info == nil
	}
	return s.size == o.size && s.mod.Equal(o.mod) && os.SameFile(s.info, o.info)
}

// OpenCertificates reads the files, or sets up what asks the authority. Errors are
// *config.Problem.
func OpenCertificates(cfg CertConfig) (*Certificates, error) {
	c := &Certificates{cfg: cfg, log: cfg.Log}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	files := cfg.CertFile != "" || cfg.KeyFile != ""
	switch {
	case files && len(cfg.ACME.Domains) > 0:
		return nil, certProblem(errors.New("certificate files and an ACME domain exclude each other"), "name one of them")
	case len(cfg.ACME.Domains) > 0:
		var err error
		c.acme, err = newIssuer(cfg.ACME, c.log)
		return c, err
	case cfg.CertFile == "" || cfg.KeyFile == "":
		return nil, certProblem(errors.New("a certificate needs its key, and a key its certificate"),
			"name both: `--ws-tls-cert FILE --ws-tls-key FILE`")
	}
	if err := c.read(time.Now()); err != nil {
		return nil, certProblem(err, "see `towline app-server --help`")
	}
	return c, nil
}

func certProblem(err error, hints ...string) error {
	return &config.Problem{Stage: "tls", Err: err, Hints: hints, Exit: config.ExitConfig}
}

// Run looks after the files, or the authority's certificates, until ctx ends.
func (c *Certificates) Run(ctx context.Context) error {
	if c.acme != nil {
		return c.acme.run(ctx)
	}
	t := time.NewTicker(certInterval)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			c.look(now)
		case <-ctx.Done():
			return nil
		}
	}
}

// Config is what a listener's handshakes need. TLS 1.3 is what both ends take
// when they can; HTTP/2 is not offered, because it has no upgrade.
func (c *Certificates) Config() *tls.Config {
	t := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if c.acme != nil {
		t.NextProtos = append(t.NextProtos, acme.ALPNProto)
		t.GetCertificate = c.acme.certificate
		return t
	}
	t.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c.look(time.Now())
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.now, nil
	}
	return t
}

// covers reports whether a certificate is for host.
func (c *Certificates) covers(host string) bool {
	if c.acme != nil {
		return c.acme.knows(host)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leaf.VerifyHostname(host) == nil
}

// look reads the files again when they have changed. What does not work leaves
// what there is, and is said once.
func (c *Certificates) look(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if since := now.Sub(c.looked); since >= 0 && since < certLazy {
		return
	}
	c.looked = now
	seen, err := c.states()
	if seen[0].same(c.seen[0]) && seen[1].same(c.seen[1]) {
		c.remind(now)
		return
	}
	c.seen = seen // what does not work is said once
	old := c.leaf.NotAfter
	if err == nil {
		err = c.readLocked(func(leaf *x509.Certificate) error {
			if now.After(leaf.NotAfter) && leaf.NotAfter.Before(old) {
				return fmt.Errorf("%s: the certificate has ended on %s", c.cfg.CertFile, leaf.NotAfter.Format(time.DateOnly))
			}
			return nil
		})
	}
	if err != nil {
		c.log.Error("tls: the new certificate does not work; the old one stays", "err", err)
		return
	}
	c.log.Info("tls: took a new certificate", "file", c.cfg.CertFile, "until", c.leaf.NotAfter)
}

// remind says when the certificate is about to end, once a day.
func (c *Certificates) remind(now time.Time) {
	left := c.leaf.NotAfter.Sub(now)
	if left > expiryNotice || now.Sub(c.warned) < 24*time.Hour {
		return
	}
	c.warned = now
	c.log.Warn("tls: the certificate ends", "file", c.cfg.CertFile, "at", c.leaf.NotAfter)
}

func (c *Certificates) states() (out [2]fileState, err error) {
	for i, path := range []string{c.cfg.CertFile, c.cfg.KeyFile} {
		info, e := os.Stat(path)
		if e != nil {
			err = errors.Join(err, rootPath(e))
			continue
		}
		out[i] = fileState{size: info.Size(), mod: info.ModTime(), info: info}
	}
	return out, err
}

func (c *Certificates) read(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked = now
	return c.readLocked(func(*x509.Certificate) error { return nil })
}

// readLocked takes what is in the files when it works and is acceptable.
func (c *Certificates) readLocked(accept func(*x509.Certificate) error) error {
	seen, err := c.states() // before the text: a change in between is found next time
	if err != nil {
		return err
	}
	certPEM, err := readPrivate(c.cfg.CertFile, false)
	if err != nil {
		return err
	}
	keyPEM, err := readPrivate(c.cfg.KeyFile, true)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", c.cfg.CertFile, c.cfg.KeyFile, err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return fmt.Errorf("%s: %w", c.cfg.CertFile, err)
	}
	pair.Leaf = leaf
	if err := accept(leaf); err != nil {
		return err
	}
	c.now, c.leaf, c.seen, c.warned = &pair, leaf, seen, time.Time{}
	return nil
}

// ReadPrivate reads a file with a secret, which others must not be able to read.
func ReadPrivate(path string) ([]byte, error) { return readPrivate(path, true) }

// readPrivate reads a file of a bounded size. One with a secret must not be
// readable by others: its group neither, unless it is root's to hand out.
func readPrivate(path string, secret bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, rootPath(err)
	}
	defer func() { _ = f.Close() }() // read-only
	info, err := f.Stat()
	if err != nil {
		return nil, rootPath(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if secret && ownerKnown {
		loose := fs.FileMode(0o077)
		if uid, ok := fileOwner(info); ok && uid == 0 {
			loose = 0o037
		}
		if info.Mode().Perm()&loose != 0 {
			return nil, &config.Problem{
				Err:   fmt.Errorf("%s: others can read this secret (mode %#o)", path, info.Mode().Perm()),
				Hints: []string{"run `chmod 600 " + path + "`"}, Exit: config.ExitConfig,
			}
		}
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxCertFile+1))
	if err == nil && len(raw) > maxCertFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxCertFile)
	}
	return raw, err
}
