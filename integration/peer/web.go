package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Web is the part of the internet some machines see: names that lead to a
// handler of the test's by HTTPS, with a certificate the machines trust.
type Web struct {
	CA []byte // the authority, in PEM

	t  testing.TB
	ca *x509.Certificate
	// key is the authority's; sites are signed with it while machines are added.
	key *ecdsa.PrivateKey
}

// NewWeb makes an internet without sites.
func NewWeb(t testing.TB) *Web {
	t.Helper()
	w := &Web{t: t}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	var err error
	if w.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, w.key.Public(), w.key)
	if err != nil {
		t.Fatal(err)
	}
	if w.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	w.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return w
}

// pin names the authority's key as Chromium wants it.
func (w *Web) pin() string {
	sum := sha256.Sum256(w.ca.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// certificate is one for the names.
func (w *Web) certificate(names ...string) tls.Certificate {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, w.ca, key.Public(), w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, w.ca.Raw}, PrivateKey: key}
}

// Serve makes https://NAME of each name the handler, for each of the machines.
// Once a machine: all its names in one call.
func (w *Web) Serve(h http.Handler, names []string, machines ...*Machine) {
	w.t.Helper()
	cert := w.certificate(names...)
	for _, m := range machines {
		for _, name := range names {
			m.Resolve(m.Internet, name)
		}
		m.Trust(w.CA)
		ln, err := net.Listen("tcp", net.JoinHostPort(m.Internet, "443")) //nolint:noctx // closed with the test
		if err != nil {
			w.t.Fatal(err)
		}
		srv := &http.Server{
			Handler: h, ReadHeaderTimeout: Patience,
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
			ErrorLog:  log.New(io.Discard, "", 0), // browsers open connections they never use
		}
		var wg sync.WaitGroup
		wg.Go(func() { _ = srv.ServeTLS(ln, "", "") })
		w.t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	}
}
