//go:build unix

package transport

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/acme"
)

// acmeServer is an authority as RFC 8555 has it: nonces count once, signatures are
// checked, and a name is validated with TLS-ALPN-01 before its certificate is
// signed. It keeps one order at a time.
type acmeServer struct {
	t    *testing.T
	ca   *authority
	srv  *httptest.Server
	dial func() (net.Conn, error) // to where the name leads

	mu      sync.Mutex
	nonces  map[string]bool
	serial  int64
	key     *ecdsa.PublicKey // of the account
	domain  string
	state   string // of the authorization
	cert    []byte
	problem string
	orders  int
}

func newACMEServer(t *testing.T) *acmeServer {
	s := &acmeServer{t: t, ca: newAuthority(t), nonces: map[string]bool{}, serial: 100}
	s.srv = httptest.NewTLSServer(s)
	t.Cleanup(s.srv.Close)
	return s
}

// caFile is what the server's own address is trusted by.
func (s *acmeServer) caFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.srv.Certificate().Raw})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *acmeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	url := func(path string) string { return s.srv.URL + path }
	s.serial++
	nonce := fmt.Sprintf("nonce-%d", s.serial)
	s.nonces[nonce] = true
	w.Header().Set("Replay-Nonce", nonce)
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	if r.Method != http.MethodPost {
		if r.URL.Path == "/dir" {
			answer(200, map[string]any{"newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order")})
		}
		return
	}
	payload, err := s.verify(r)
	if err != nil {
		answer(http.StatusBadRequest, map[string]any{"type": "urn:ietf:params:acme:error:malformed", "detail": err.Error()})
		return
	}
	order := func() map[string]any {
		o := map[string]any{
			"status": "pending", "identifiers": []map[string]string{{"type": "dns", "value": s.domain}},
			"authorizations": []string{url("/authz")}, "finalize": url("/finalize"),
		}
		switch {
		case s.cert != nil:
			o["status"], o["certificate"] = "valid", url("/cert")
		case s.state == "valid":
			o["status"] = "ready"
		case s.state == "invalid":
			o["status"] = "invalid"
		}
		return o
	}
	challenge := map[string]any{"type": "tls-alpn-01", "url": url("/challenge"), "token": "a-token-of-the-test", "status": s.state}
	switch r.URL.Path {
	case "/account":
		w.Header().Set("Location", url("/account/1"))
		answer(201, map[string]string{"status": "valid"})
	case "/order":
		var in struct{ Identifiers []struct{ Value string } }
		if json.Unmarshal(payload, &in) != nil || len(in.Identifiers) != 1 {
			s.t.Error("an order of no name")
			return
		}
		s.domain, s.state, s.cert = in.Identifiers[0].Value, "pending", nil
		s.orders++
		w.Header().Set("Location", url("/order/1"))
		answer(201, order())
	case "/order/1":
		answer(200, order())
	case "/authz":
		answer(200, map[string]any{"status": s.state, "identifier": map[string]string{"type": "dns", "value": s.domain}, "challenges": []any{challenge}})
	case "/challenge":
		s.state = "valid"
		if err := s.validate(); err != nil {
			s.state, s.problem = "invalid", err.Error()
		}
		challenge["status"] = s.state
		answer(200, challenge)
	case "/finalize":
		var in struct{ CSR string }
		_ = json.Unmarshal(payload, &in)
		der, _ := base64.RawURLEncoding.DecodeString(in.CSR)
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil || s.state != "valid" || len(csr.DNSNames) != 1 || csr.DNSNames[0] != s.domain {
			answer(http.StatusForbidden, map[string]any{"type": "urn:ietf:params:acme:error:badCSR"})
			return
		}
		s.cert = s.ca.sign(s.t, csr.PublicKey, s.serial, time.Now().Add(90*24*time.Hour), s.domain)
		answer(200, order())
	case "/cert":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: s.cert})
		_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: s.ca.cert.Raw})
	default:
		answer(http.StatusNotFound, map[string]any{"type": "urn:ietf:params:acme:error:malformed"})
	}
}

// verify reads a request: a JWS with ES256 and a nonce that was not used before.
func (s *acmeServer) verify(r *http.Request) ([]byte, error) {
	var jws struct{ Protected, Payload, Signature string }
	var head struct {
		Alg, Nonce, URL, Kid string
		JWK                  *struct{ X, Y string }
	}
	if err := json.NewDecoder(r.Body).Decode(&jws); err != nil {
		return nil, err
	}
	dec := base64.RawURLEncoding.DecodeString
	raw, err := dec(jws.Protected)
	if err == nil {
		err = json.Unmarshal(raw, &head)
	}
	if err != nil {
		return nil, err
	}
	if !s.nonces[head.Nonce] || head.URL != s.srv.URL+r.URL.Path || head.Alg != "ES256" {
		return nil, errors.New("nonce, address or algorithm")
	}
	delete(s.nonces, head.Nonce)
	key := s.key
	if head.JWK != nil {
		x, _ := dec(head.JWK.X)
		y, _ := dec(head.JWK.Y)
		if key, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y)); err != nil {
			return nil, err
		}
		s.key = key
	}
	sig, _ := dec(jws.Signature)
	sum := sha256.Sum256([]byte(jws.Protected + "." + jws.Payload))
	if key == nil || len(sig) != 64 || !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return nil, errors.New("signature")
	}
	return dec(jws.Payload)
}

// validate looks whether the name is the client's, as RFC 8737 says.
func (s *acmeServer) validate() error {
	thumb, err := acme.JWKThumbprint(s.key)
	if err != nil {
		return err
	}
	raw, err := s.dial()
	if err != nil {
		return err
	}
	c := tls.Client(raw, &tls.Config{ServerName: s.domain, NextProtos: []string{acme.ALPNProto}, InsecureSkipVerify: true}) //nolint:gosec // RFC 8737: the certificate is self-signed
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	if err := c.Handshake(); err != nil {
		return err
	}
	st := c.ConnectionState()
	if st.NegotiatedProtocol != acme.ALPNProto || len(st.PeerCertificates[0].DNSNames) != 1 || st.PeerCertificates[0].DNSNames[0] != s.domain {
		return errors.New("not an answer to a challenge")
	}
	want := sha256.Sum256([]byte("a-token-of-the-test." + thumb))
	for _, e := range st.PeerCertificates[0].Extensions {
		var got []byte
		if e.Id.String() == "1.3.6.1.5.5.7.1.31" && e.Critical {
			if _, err := asn1.Unmarshal(e.Value, &got); err == nil && subtle.ConstantTimeCompare(got, want[:]) == 1 {
				return nil
			}
		}
	}
	return errors.New("the answer is to another challenge")
}

func TestCertificateOfAnAuthority(t *testing.T) {
	t.Parallel()
	const name = "build.example.com"
	s := newACMEServer(t)
	log, cache := new(logged), filepath.Join(t.TempDir(), "acme")
	cfg := CertConfig{Log: log.logger(), ACME: ACME{
		Domains: []string{name}, Email: "ops@example.com", Directory: s.srv.URL + "/dir", CacheDir: cache, CAFile: s.caFile(t),
	}}
	begin := func() (l *Listener, stop func()) {
		c, err := OpenCertificates(cfg)
		if err != nil {
			t.Fatal(err)
		}
		meter := new(tally)
		l, err = Listen(t.Context(), "wss://127.0.0.1:0", Options{Certificates: c, Meter: meter})
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		s.dial = func() (net.Conn, error) {
			return (&net.Dialer{Timeout: patience}).DialContext(context.Background(), "tcp", strings.TrimPrefix(l.URL(), "wss://"))
		}
		s.mu.Unlock()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		end := serve(t, l, echo)
		go func() { defer close(done); _ = c.Run(ctx) }()
		return l, func() { end(); cancel(); wait(t, done) }
	}
	serial := func(l *Listener) string {
		c, err := tlsDial(t, l, &tls.Config{RootCAs: s.ca.pool, ServerName: name})
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, s.problem, log)
		}
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	l, stop := begin()
	first := serial(l)
	eventually(t, "the log says so", func() bool { return strings.Contains(log.String(), "there is a certificate") })
	if _, err := tlsDial(t, l, &tls.Config{RootCAs: s.ca.pool, ServerName: "other.example.com"}); err == nil {
		t.Error("another name has a certificate")
	}
	c, err := tlsDial(t, l, &tls.Config{RootCAs: s.ca.pool, ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("GET /readyz HTTP/1.1\r\nHost: " + name + "\r\n\r\n"))
	if got := statusOf(t, c); got != 200 {
		t.Errorf("readyz: %d", got)
	}
	stop()
	info, err := os.Stat(cache)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
	_ = filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
		return nil
	})
	// The next start has it.
	l, stop = begin()
	if again := serial(l); again != first || s.orders != 1 {
		t.Errorf("%s after %s, %d orders", again, first, s.orders)
	}
	stop()
}

// An authority that refuses is asked again later, and the listener goes on.
func TestAuthorityThatRefuses(t *testing.T) {
	t.Parallel()
	s := newACMEServer(t)
	s.dial = func() (net.Conn, error) { return nil, errors.New("the name leads elsewhere") }
	log := new(logged)
	c, err := OpenCertificates(CertConfig{Log: log.logger(), ACME: ACME{
		Domains: []string{"build.example.com"}, Directory: s.srv.URL + "/dir", CacheDir: filepath.Join(t.TempDir(), "acme"), CAFile: s.caFile(t),
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.acme.retry = time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	eventually(t, "it is said, and tried again", func() bool {
		return strings.Count(log.String(), "the authority gave no certificate") >= 2
	})
	cancel()
	wait(t, done)
	if bytes.Contains([]byte(log.String()), []byte("PRIVATE")) {
		t.Error("the log has a key")
	}
}
