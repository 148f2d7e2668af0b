package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/mail"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"towline/config"
)

const (
	maxACMEDomains = 100
	acmeTimeout    = time.Minute // of one request to the authority
	// acmeRetry and acmeRetryMost are between attempts at a first certificate:
	// authorities count failures by the hour.
	acmeRetry     = time.Minute
	acmeRetryMost = time.Hour
	acmeGrace     = 5 * time.Second
)

// ACME is an authority that gives certificates to whoever answers at a name
// (RFC 8555). It looks with TLS-ALPN-01 (RFC 8737), on port 443 of the name, which
// has to lead to a wss listener of this process. Whoever configures a domain
// agrees to the authority's terms.
type ACME struct {
	Domains []string
	Email   string // for the authority's notices; may be empty
	// Directory is the authority's address; empty is Let's Encrypt.
	Directory string
	CacheDir  string // keeps account and certificates; made with mode 0700
	CAFile    string // what the authority's own address is trusted by; empty is the system
}

// issuer gets certificates from an authority.
type issuer struct {
	cfg     ACME
	manager *autocert.Manager
	log     *slog.Logger
	retry   time.Duration
	life    context.Context // of requests to the authority
	end     context.CancelFunc
}

func newIssuer(cfg ACME, log *slog.Logger) (*issuer, error) {
	if err := cfg.validate(); err != nil {
		return nil, certProblem(err, "see `towline app-server --help`")
	}
	if err := privateDir(cfg.CacheDir); err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: acmeTimeout, ResponseHeaderTimeout: acmeTimeout,
		DialContext: (&net.Dialer{Timeout: acmeTimeout}).DialContext, ForceAttemptHTTP2: true, IdleConnTimeout: acmeTimeout,
	}
	if cfg.CAFile != "" {
		raw, err := readPrivate(cfg.CAFile, false)
		if err != nil {
			return nil, certProblem(err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(raw) {
			return nil, certProblem(fmt.Errorf("%s holds no certificate", cfg.CAFile), "name a PEM file")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	i := &issuer{cfg: cfg, log: log, retry: acmeRetry}
	i.life, i.end = context.WithCancel(context.Background())
	i.manager = &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(cfg.CacheDir), Email: cfg.Email,
		HostPolicy: func(_ context.Context, host string) error {
			if !i.knows(host) {
				return errors.New("not a name of this listener")
			}
			return nil
		},
		Client: &acme.Client{
			DirectoryURL: cfg.Directory, UserAgent: "towline",
			HTTPClient: &http.Client{Transport: while{i.life, transport}, Timeout: acmeTimeout},
		},
	}
	return i, nil
}

func (a ACME) validate() error {
	if len(a.Domains) > maxACMEDomains {
		return fmt.Errorf("at most %d domains can have certificates", maxACMEDomains)
	}
	for _, d := range a.Domains {
		switch {
		case strings.HasPrefix(d, "*."):
			return fmt.Errorf("%s: this way of asking an authority gives no certificates for all names below one", d)
		case !strings.Contains(d, ".") || strings.ContainsAny(d, "/:@ \t") || strings.HasPrefix(d, ".") || net.ParseIP(d) != nil:
			return fmt.Errorf("%s: not the full name of a machine", config.OneLine(d))
		}
	}
	if a.Email != "" {
		if _, err := mail.ParseAddress(a.Email); err != nil {
			return fmt.Errorf("%s: not an e-mail address", config.OneLine(a.Email))
		}
	}
	if u, err := url.Parse(a.Directory); a.Directory != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		return fmt.Errorf("%s: not the https address of an ACME directory", config.OneLine(a.Directory))
	}
	if !filepath.IsAbs(a.CacheDir) {
		return errors.New("the folder for ACME certificates is missing")
	}
	return nil
}

// knows reports whether host is one of the domains.
func (i *issuer) knows(host string) bool {
	return slices.ContainsFunc(i.cfg.Domains, func(d string) bool { return strings.EqualFold(d, host) })
}

func (i *issuer) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return i.manager.GetCertificate(hello)
}

// while is a way to make requests until a context ends: the manager's own calls
// take none.
type while struct {
	life context.Context
	next *http.Transport
}

func (w while) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := w.life.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(r.Context())
	context.AfterFunc(w.life, cancel) // the client's own timeout ends the rest
	return w.next.RoundTrip(r.WithContext(ctx))
}

// run gets the certificates, so that the first client need not wait for them and
// the log says what is wrong. They are renewed by themselves.
func (i *issuer) run(ctx context.Context) error {
	defer i.end()
	for _, d := range i.cfg.Domains {
		for wait := i.retry; ; wait = min(2*wait, acmeRetryMost) {
			err := i.first(ctx, d)
			if err == nil {
				i.log.Info("tls: there is a certificate", "domain", d)
				break
			}
			if ctx.Err() != nil {
				return nil
			}
			i.log.Error("tls: the authority gave no certificate", "domain", d, "err", config.OneLine(err.Error()), "again_in", wait)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return nil
			}
		}
	}
	<-ctx.Done()
	return nil
}

// first asks as a client that can do what today's can. Asking takes no context: it
// ends soon after the requests it makes cannot be made any more.
func (i *issuer) first(ctx context.Context, domain string) error {
	done := make(chan error, 1)
	go func() {
		_, err := i.manager.GetCertificate(&tls.ClientHelloInfo{
			ServerName: domain, SupportedProtos: []string{"http/1.1"},
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
			SupportedCurves:  []tls.CurveID{tls.CurveP256},
			CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		})
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	i.end()
	select {
	case <-done:
	case <-time.After(acmeGrace):
	}
	return ctx.Err()
}
