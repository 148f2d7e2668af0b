//go:build unix

package transport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/rpc"
	"towline/config"
)

// authority signs certificates for tests.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, pool: x509.NewCertPool()}
	if a.cert, err = x509.ParseCertificate(raw); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// sign makes a certificate for names and addresses.
func (a *authority) sign(t *testing.T, public any, serial int64, until time.Time, names ...string) []byte {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// pair makes a certificate and its key as PEM.
func (a *authority) pair(t *testing.T, serial int64, until time.Time, names ...string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.sign(t, k.Public(), serial, until, names...)}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// certFiles are the two files of a listener.
type certFiles struct{ cert, key string }

func newCertFiles(t *testing.T, cert, key []byte) certFiles {
	t.Helper()
	dir := t.TempDir()
	f := certFiles{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	f.put(t, f.cert, cert)
	f.put(t, f.key, key)
	return f
}

// put replaces a file as those who care do it.
func (f certFiles) put(t *testing.T, path string, text []byte) {
	t.Helper()
	tmp := path + ".new"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

func (f certFiles) open(t *testing.T, log *slog.Logger) *Certificates {
	t.Helper()
	c, err := OpenCertificates(CertConfig{CertFile: f.cert, KeyFile: f.key, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tlsDial makes the TLS handshake of a client.
func tlsDial(t *testing.T, l *Listener, cfg *tls.Config) (*tls.Conn, error) {
	t.Helper()
	_, hostport, _ := strings.Cut(strings.Replace(l.URL(), "0.0.0.0", "127.0.0.1", 1), "://")
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: cfg}
	c, err := d.DialContext(t.Context(), "tcp", hostport)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*tls.Conn), nil
}

// logged keeps what is logged.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func TestClientsComeInThroughTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cert, key := ca.pair(t, 7, time.Now().Add(time.Hour), "127.0.0.1", "build.example.com", "*.agents.example.com")
	files := newCertFiles(t, cert, key)
	type caller struct {
		p   access.Principal
		via string
	}
	callers, meter := make(chan caller, 10), new(tally)
	all := sessions(t, rpc.SessionsConfig{})
	l := open(t, "wss://0.0.0.0:0", Options{
		Auth: knows("good", ci), RequireAuth: true, Certificates: files.open(t, nil), Meter: meter, Sessions: all,
	}, func(ctx context.Context, s rpc.Stream, p access.Principal, via, remote string) {
		callers <- caller{p, via}
		echo(ctx, s, p, via, remote)
	})
	if !strings.HasPrefix(l.URL(), "wss://0.0.0.0:") || strings.HasSuffix(l.URL(), ":0") || !l.Remote() {
		t.Errorf("%s, remote %v", l.URL(), l.Remote())
	}
	for _, resume := range []bool{false, true} {
		c, err := tlsDial(t, l, &tls.Config{RootCAs: ca.pool})
		if err != nil {
			t.Fatal(err)
		}
		if v := c.ConnectionState().Version; v != tls.VersionTLS13 {
			t.Errorf("version %x", v)
		}
		s, err := rpc.DialWebSocket(t.Context(), c, rpc.WebSocketOptions{Host: "build.example.com", Header: http.Header{"Authorization": {"Bearer good"}}, Resume: resume})
		if err != nil {
			t.Fatal(err)
		}
		if resume != rpc.Resumes(s) {
			t.Error("a resumable stream is not agreed on")
		}
		if resume {
			_ = s.Close(nil)
			continue
		}
		big := `"` + strings.Repeat("ä", 9<<20) + `"`
		if got := roundTrip(t, s, big); got != big {
			t.Errorf("%d bytes of %d came back", len(got), len(big))
		}
		if who := <-callers; who.p.Key() != ci.Key() || who.via != "wss" {
			t.Errorf("%+v", who)
		}
		_ = s.Close(nil)
	}
	// In HTTP what is true of ws is true here.
	for request, want := range map[string]int{
		"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n":                                                   200,
		upgrade("127.0.0.1"):                                                                        401,
		upgrade("one.agents.example.com", bearerHeader("good")):                                     101,
		upgrade("two.one.agents.example.com", bearerHeader("good")):                                 403,
		upgrade("localhost", bearerHeader("good")):                                                  101, // it came by loopback
		upgrade("build.example.com:443", bearerHeader("good"), "Origin: https://build.example.com"): 403,
	} {
		c, err := tlsDial(t, l, &tls.Config{RootCAs: ca.pool})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, request)
		if got := statusOf(t, c); got != want {
			t.Errorf("%d, want %d, to %s", got, want, request)
		}
	}
	if _, err := tlsDial(t, l, &tls.Config{RootCAs: ca.pool, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil { //nolint:gosec // that is the test
		t.Error("TLS 1.1 is spoken")
	}
	if c, err := tlsDial(t, l, &tls.Config{RootCAs: ca.pool, MaxVersion: tls.VersionTLS12}); err != nil { //nolint:gosec // so is this
		t.Errorf("TLS 1.2: %v", err)
	} else if c.ConnectionState().NegotiatedProtocol == "h2" {
		t.Error("HTTP/2 is offered")
	}
	plain := rawDial(t, strings.Replace(l.URL(), "wss://0.0.0.0", "ws://127.0.0.1", 1))
	_, _ = io.WriteString(plain, upgrade("localhost", bearerHeader("good")))
	if got, _ := io.ReadAll(plain); bytes.Contains(got, []byte("101")) {
		t.Errorf("without TLS: %q", got)
	}
	eventually(t, "failed handshakes are counted", func() bool { return meter.count("wss tls") >= 2 })
}

func TestCertificateFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	ca, hour := newAuthority(t), time.Now().Add(time.Hour)
	cert, key := ca.pair(t, 1, hour, "127.0.0.1")
	files, log := newCertFiles(t, cert, key), new(logged)
	c := files.open(t, log.logger())
	l := open(t, "wss://127.0.0.1:0", Options{Certificates: c}, echo)
	serial := func() int64 {
		conn, err := tlsDial(t, l, &tls.Config{RootCAs: ca.pool})
		if err != nil {
			t.Fatal(err)
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	now := time.Now()
	later := func() { // as if time had passed: a handshake relies on the last look for a second
		now = now.Add(certInterval)
		c.look(now)
		c.mu.Lock()
		c.looked = time.Now().Add(-certLazy)
		c.mu.Unlock()
	}
	if got := serial(); got != 1 {
		t.Fatalf("serial %d", got)
	}
	conn, err := tlsDial(t, l, &tls.Config{RootCAs: ca.pool})
	if err != nil {
		t.Fatal(err)
	}
	old, err := rpc.DialWebSocket(t.Context(), conn, rpc.WebSocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close(nil) }()

	cert2, key2 := ca.pair(t, 2, hour, "127.0.0.1")
	files.put(t, files.cert, cert2) // the key is still the other's
	later()
	if got := serial(); got != 1 {
		t.Errorf("between the two files: serial %d", got)
	}
	files.put(t, files.key, key2)
	later()
	if got := serial(); got != 2 {
		t.Errorf("after both: serial %d", got)
	}
	ended, endedKey := ca.pair(t, 3, time.Now().Add(-time.Minute), "127.0.0.1")
	for what, damage := range map[string]func(){
		"nonsense":    func() { files.put(t, files.cert, []byte("nonsense")) },
		"it is gone":  func() { _ = os.Remove(files.key) },
		"it is loose": func() { files.put(t, files.cert, cert2); files.put(t, files.key, key2); _ = os.Chmod(files.key, 0o644) },
		"it is over":  func() { files.put(t, files.cert, ended); files.put(t, files.key, endedKey) },
	} {
		before := strings.Count(log.String(), "the old one stays")
		damage()
		later()
		if got := serial(); got != 2 {
			t.Errorf("%s: serial %d", what, got)
		}
		later()
		if got := strings.Count(log.String(), "the old one stays") - before; got != 1 {
			t.Errorf("%s is said %d times:\n%s", what, got, log)
		}
	}
	cert4, key4 := ca.pair(t, 4, hour, "127.0.0.1")
	files.put(t, files.cert, cert4)
	files.put(t, files.key, key4)
	later()
	if got := serial(); got != 4 {
		t.Errorf("mended: serial %d\n%s", got, log)
	}
	if got := roundTrip(t, old, "1"); got != "1" {
		t.Errorf("who was there before gets %q", got)
	}
	if !strings.Contains(log.String(), "the certificate ends") {
		t.Error("nobody says that it ends within the week")
	}
	if strings.Contains(log.String(), "PRIVATE") {
		t.Error("the log has the key")
	}
}

func TestCertificatesThatCannotServe(t *testing.T) {
	t.Parallel()
	ca, hour := newAuthority(t), time.Now().Add(time.Hour)
	cert, key := ca.pair(t, 1, hour, "127.0.0.1")
	_, other := ca.pair(t, 2, hour, "127.0.0.1")
	good, loose := newCertFiles(t, cert, key), newCertFiles(t, cert, key)
	if err := os.Chmod(loose.key, 0o604); err != nil {
		t.Fatal(err)
	}
	mixed, broken, long := newCertFiles(t, cert, other), newCertFiles(t, []byte("x"), key), newCertFiles(t, make([]byte, maxCertFile+1), key)
	cache := filepath.Join(t.TempDir(), "acme")
	for name, tc := range map[string]struct {
		cfg  CertConfig
		want string
	}{
		"others can read the key": {CertConfig{CertFile: loose.cert, KeyFile: loose.key}, "others can read this secret (mode 0604)"},
		"the wrong key":           {CertConfig{CertFile: mixed.cert, KeyFile: mixed.key}, "does not match"},
		"no certificate":          {CertConfig{CertFile: broken.cert, KeyFile: broken.key}, "PEM"},
		"too long":                {CertConfig{CertFile: long.cert, KeyFile: long.key}, "longer than"},
		"a folder":                {CertConfig{CertFile: filepath.Dir(good.cert), KeyFile: good.key}, "not a regular file"},
		"nothing there":           {CertConfig{CertFile: good.cert + "x", KeyFile: good.key}, "no such file"},
		"no key":                  {CertConfig{CertFile: good.cert}, "needs its key"},
		"both":                    {CertConfig{CertFile: good.cert, KeyFile: good.key, ACME: ACME{Domains: []string{"a.b"}}}, "exclude"},
		"neither":                 {CertConfig{}, "needs its key"},
		"a wildcard":              {CertConfig{ACME: ACME{Domains: []string{"*.example.com"}, CacheDir: cache}}, "all names below"},
		"an address":              {CertConfig{ACME: ACME{Domains: []string{"192.0.2.1"}, CacheDir: cache}}, "not the full name"},
		"a short name":            {CertConfig{ACME: ACME{Domains: []string{"build"}, CacheDir: cache}}, "not the full name"},
		"no cache":                {CertConfig{ACME: ACME{Domains: []string{"a.b"}}}, "folder"},
		"a plain directory":       {CertConfig{ACME: ACME{Domains: []string{"a.b"}, Directory: "http://x/", CacheDir: cache}}, "https"},
		"no address":              {CertConfig{ACME: ACME{Domains: []string{"a.b"}, Email: "nobody", CacheDir: cache}}, "e-mail"},
		"no CA":                   {CertConfig{ACME: ACME{Domains: []string{"a.b"}, CAFile: good.key, CacheDir: cache}}, "holds no certificate"},
	} {
		if _, err := OpenCertificates(tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) || config.ExitCode(err) != config.ExitConfig {
			t.Errorf("%s: %v (exit %d), want %q", name, err, config.ExitCode(err), tc.want)
		}
	}
}

// A client that is slow with its handshake holds a place for a while only.
func TestSlowHandshakeIsCutOff(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cert, key := ca.pair(t, 1, time.Now().Add(time.Hour), "127.0.0.1")
	files := newCertFiles(t, cert, key)
	l := open(t, "wss://127.0.0.1:0", Options{Certificates: files.open(t, nil), Limits: Limits{Handshake: 300 * time.Millisecond}}, echo)
	for what, say := range map[string]string{"nothing": "", "half a hello": "\x16\x03\x01\x02\x00\x01"} {
		c := rawDial(t, strings.Replace(l.URL(), "wss", "ws", 1))
		_, _ = io.WriteString(c, say)
		if _, err := io.Copy(io.Discard, c); os.IsTimeout(err) {
			t.Errorf("%s: still open", what)
		}
	}
	c, err := tlsDial(t, l, &tls.Config{RootCAs: ca.pool})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(c).ReadByte(); err == nil || os.IsTimeout(err) {
		t.Errorf("TLS and nothing else: %v", err)
	}
}

func TestNamesOfAListenerBeyondLoopback(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cert, key := ca.pair(t, 1, time.Now().Add(time.Hour), "build.example.com")
	files := newCertFiles(t, cert, key)
	l := &Listener{remote: true, opts: Options{Certificates: files.open(t, nil), Hosts: []string{"other.example.com"}}}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	local := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 443}
	for host, want := range map[string]bool{
		"192.0.2.9": true, "192.0.2.9:443": true, "192.0.2.9:8443": true, "192.0.2.10:443": false, "[::ffff:192.0.2.9]:443": true,
		"build.example.com": true, "BUILD.example.com.:443": true, "other.example.com": true, "attacker.example": false,
		"localhost": false, "127.0.0.1:443": false, "": false, name: true, name + ".local": !strings.Contains(name, "."), name + ".attacker.example": false,
	} {
		r, err := http.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(local)), http.MethodGet, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		if got := l.named(r); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}
