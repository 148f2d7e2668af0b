package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"towline/appserver/rpc"
	"towline/config"
)

// refused is an error that trying again does not mend; it matches rpc.ErrRefused.
type refused struct{ err error }

func (r refused) Error() string        { return r.err.Error() }
func (r refused) Unwrap() error        { return r.err }
func (r refused) Is(target error) bool { return target == rpc.ErrRefused }

// tlsError is how a TLS handshake failed.
type tlsError struct{ err error }

func (e tlsError) Error() string { return e.err.Error() }
func (e tlsError) Unwrap() error { return e.err }

// problem is err, of dialing a, with what to do about it.
func (a remoteAddress) problem(ctx context.Context, err error, o DialOptions) error {
	p := &config.Problem{Stage: "dial", Exit: config.ExitUnavailable}
	cause := rootCause(err)
	var hand *rpc.HandshakeError
	var secure tlsError
	var proxied proxyError
	var name *net.DNSError
	switch {
	case errors.As(err, &hand):
		cause = a.unwelcome(p, hand, o)
	case ctx.Err() != nil:
		cause = context.Cause(ctx)
		p.Hints = []string{"check that the server there still works"}
	case errors.As(err, &secure):
		cause = a.insecure(p, secure.err)
	case errors.As(err, &proxied):
		cause = proxied
		p.Hints = []string{"HTTPS_PROXY and HTTP_PROXY name the proxy; a host that needs none goes into NO_PROXY"}
	case errors.As(err, &name):
		cause = kindly{"no address is known for " + config.OneLine(name.Name), err}
		p.Hints = []string{"check the name, or whether a VPN has to be up"}
	case errors.Is(err, fs.ErrNotExist):
		cause = kindly{"there is no such socket", err}
		p.Hints = []string{"start the server first: `towline serve`"}
	case errors.Is(err, syscall.ECONNREFUSED):
		cause = kindly{"nobody listens there", err}
		p.Hints = []string{a.start()}
	case errors.Is(err, fs.ErrPermission):
		p.Exit = config.ExitDenied
		p.Hints = []string{"connect as the user the server runs as"}
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		cause = errors.New("the server closed the connection before the handshake ended")
		p.Hints = []string{"check that an app-server listens there"}
		if a.via == viaWS {
			p.Hints = append(p.Hints, "when it listens with TLS: wss://"+a.host)
		}
	case errors.Is(err, rpc.ErrNoHTTP) && a.via == viaWS:
		p.Hints = []string{"when it listens with TLS: wss://" + a.host}
	}
	p.Err = fmt.Errorf("%s: %w", config.OneLine(a.shown()), cause)
	return p
}

func (a remoteAddress) start() string {
	switch {
	case a.via == viaUnix:
		return "start the server first: `towline serve`"
	case a.loopback():
		return "start the server first: `towline serve --listen " + a.shown() + "`"
	}
	return "see on that host what listens: `towline status`, `ss -ltn`"
}

// unwelcome is a server's answer that is no WebSocket.
func (a remoteAddress) unwelcome(p *config.Problem, no *rpc.HandshakeError, o DialOptions) error {
	name := cmp.Or(o.TokenName, "the token")
	switch no.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		p.Exit = config.ExitDenied
		switch {
		case o.Token == "" && a.via != viaUnix && no.Status == http.StatusUnauthorized:
			p.Hints = []string{"the server wants a token: put one into a variable and name it with `--remote-auth-token-env NAME`"}
		case o.Token == "" && !a.loopback():
			p.Hints = []string{"on that host, the log of the server says why"}
		case o.Token == "":
			p.Hints = []string{"connect as the user the server runs as"}
		case no.Status == http.StatusForbidden:
			p.Hints = []string{"on the host, see what " + name + " may do: `towline token list`"}
		case strings.Contains(no.Text, "expired"), strings.Contains(no.Text, "revoked"):
			p.Hints = []string{name + " has ended: ask for a new one (on the host: `towline token create`)"}
		default:
			p.Hints = []string{name + " does not count there: check which server it is for"}
		}
		return refused{no}
	case http.StatusTooManyRequests:
		p.Hints = []string{"wait before you try again"}
		if no.RetryAfter > 0 {
			p.Hints = []string{fmt.Sprintf("try again in %s", no.RetryAfter.Round(time.Second))}
		}
		return no
	case http.StatusBadRequest:
		if a.via == viaWS && strings.Contains(no.Text, "HTTPS") {
			p.Hints = []string{"it listens with TLS: wss://" + a.host}
			return refused{no}
		}
	}
	p.Hints = []string{"check that an app-server listens there"}
	return no
}

// insecure is a TLS handshake that failed: what is wrong with the certificate, and
// how to mend that. None of it is mended by trust in whoever answers.
func (a remoteAddress) insecure(p *config.Problem, err error) error {
	var (
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		name    x509.HostnameError
		plain   tls.RecordHeaderError
		alert   tls.AlertError
	)
	switch {
	case errors.As(err, &name):
		return a.misnamed(p, name)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		c := invalid.Cert
		if now := time.Now(); now.Before(c.NotBefore) {
			p.Hints = []string{"check the clock of this machine, which says " + now.Format(time.DateTime)}
			return refused{fmt.Errorf("the certificate %sis not valid before %s", whose(c), c.NotBefore.Local().Format(time.DateTime))}
		}
		p.Hints = []string{"have the certificate of the server renewed; a listener of Towline takes new files by itself"}
		return refused{fmt.Errorf("the certificate %shas ended on %s", whose(c), c.NotAfter.Local().Format(time.DateTime))}
	case errors.As(err, &unknown):
		return a.untrusted(p, unknown.Cert)
	case errors.As(err, &invalid):
		p.Hints = []string{"have the server show a certificate for servers, signed by an authority"}
		return refused{fmt.Errorf("the certificate %sdoes not count: %s", whose(invalid.Cert), config.OneLine(invalid.Error()))}
	case errors.As(err, &plain):
		p.Hints = []string{"check the port"}
		if a.loopback() {
			p.Hints = []string{"without TLS the address is ws://" + a.host}
		}
		return errors.New("what answers there does not speak TLS")
	case errors.As(err, &alert):
		p.Hints = []string{"check that the server takes TLS 1.2 or 1.3"}
		return fmt.Errorf("the server ends the TLS handshake: %s", config.OneLine(strings.TrimPrefix(alert.Error(), "tls: ")))
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		p.Hints = []string{"check that a wss:// listener is there"}
		return errors.New("the server closed the connection within the TLS handshake")
	}
	p.Hints = []string{"check that a wss:// listener is there"}
	return errors.New(config.OneLine(rootCause(err).Error()))
}

// untrusted is a certificate whose authority nobody here knows.
func (a remoteAddress) untrusted(p *config.Problem, c *x509.Certificate) error {
	p.Hints = []string{"when that is yours, name the authority's certificate: `--remote-ca FILE`, or SSL_CERT_FILE=FILE"}
	switch {
	case c == nil:
		return refused{errors.New("the certificate is signed by an authority that this machine does not trust")}
	case c.Issuer.String() == c.Subject.String():
		return refused{fmt.Errorf("the certificate %sis signed by itself, and this machine does not trust it", whose(c))}
	}
	return refused{fmt.Errorf("the certificate %sis signed by %q, which this machine does not trust", whose(c), certName(c.Issuer.CommonName, c.Issuer.String()))}
}

// misnamed is a certificate for somebody else.
func (a remoteAddress) misnamed(p *config.Problem, e x509.HostnameError) error {
	const most = 5
	var names []string
	for _, n := range e.Certificate.DNSNames {
		names = append(names, config.OneLine(n))
	}
	for _, ip := range e.Certificate.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		p.Hints = []string{"have it made anew with the name as a subject alternative name"}
		return refused{fmt.Errorf("the certificate has no name in it, so it is not for %s", a.hostname)}
	}
	_, port, _ := net.SplitHostPort(a.host)
	p.Hints = []string{"have the certificate made for " + a.hostname + " too"}
	if !strings.Contains(names[0], "*") {
		p.Hints = []string{"when that is the server you mean, dial it by its name: wss://" + net.JoinHostPort(names[0], port), p.Hints[0]}
	}
	list := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return refused{fmt.Errorf("the certificate is for %s, not for %s", list, a.hostname)}
}

// whose names a certificate, with a space after it.
func whose(c *x509.Certificate) string {
	if c == nil {
		return ""
	}
	n := c.Subject.CommonName
	if len(c.DNSNames) > 0 {
		n = c.DNSNames[0]
	} else if len(c.IPAddresses) > 0 {
		n = c.IPAddresses[0].String()
	}
	if n = config.OneLine(n); n == "" {
		return ""
	}
	return "of " + n + " "
}

func certName(common, all string) string {
	if common == "" {
		common = all
	}
	return config.OneLine(common)
}

// kindly is an error in other words.
type kindly struct {
	text string
	err  error
}

func (k kindly) Error() string { return k.text }
func (k kindly) Unwrap() error { return k.err }
