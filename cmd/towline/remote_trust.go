package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"towline/config"
)

// maxCAFile bounds a file of authorities; the largest that systems ship have a
// quarter of it.
const maxCAFile = 4 << 20

// trusted are the authorities of the system and those in caFile. SSL_CERT_FILE
// replaces the system's, as OpenSSL and Codex have it. nil is the system's alone.
func trusted(caFile string, getenv func(string) string) (*x509.CertPool, error) {
	own := getenv("SSL_CERT_FILE")
	if own == "" && caFile == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if own != "" {
		if err := addAuthorities(pool, own); err != nil {
			return nil, caProblem("SSL_CERT_FILE", err, "name a file of PEM certificates, or unset SSL_CERT_FILE")
		}
	} else if system, err := x509.SystemCertPool(); err == nil {
		pool = system
	}
	if caFile != "" {
		if err := addAuthorities(pool, caFile); err != nil {
			return nil, caProblem("--remote-ca", err, "name a file of PEM certificates: those of the authority that signed the server's")
		}
	}
	return pool, nil
}

func caProblem(what string, err error, hint string) error {
	return &config.Problem{Stage: "tls", Err: fmt.Errorf("%s: %w", what, err), Hints: []string{hint}, Exit: config.ExitConfig}
}

// addAuthorities reads a file, all of which must be right: an authority that is
// left out without a word shows as a server that cannot be trusted.
func addAuthorities(pool *x509.CertPool, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read-only
	raw, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	switch {
	case err != nil:
		return err
	case len(raw) > maxCAFile:
		return fmt.Errorf("%s is longer than %d bytes", path, maxCAFile)
	}
	n := 0
	for {
		var b *pem.Block
		if b, raw = pem.Decode(raw); b == nil {
			break
		}
		if b.Type == "PRIVATE KEY" || b.Type == "EC PRIVATE KEY" || b.Type == "RSA PRIVATE KEY" {
			return fmt.Errorf("%s holds a private key, which belongs elsewhere", path)
		}
		if b.Type != "CERTIFICATE" && b.Type != "TRUSTED CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return fmt.Errorf("%s: certificate %d: %s", path, n+1, config.OneLine(err.Error()))
		}
		pool.AddCert(c)
		n++
	}
	if n == 0 {
		return errors.New(path + " holds no certificate")
	}
	return nil
}
