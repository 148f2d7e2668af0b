package bearer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"towline/config"
)

// Limits on what an issuer may make this host do.
const (
	fetchTimeout = 10 * time.Second
	maxAnswer    = 256 << 10 // bytes of a discovery document or a key set
	maxURL       = 2048
)

// newClient asks issuers: over TLS 1.2 or newer, never elsewhere by a redirect, and
// with nothing left open in between.
func newClient(ca *x509.CertPool) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: ca, MinVersion: tls.VersionTLS12}
	t.DisableKeepAlives = true
	t.ResponseHeaderTimeout = fetchTimeout
	t.MaxResponseHeaderBytes = 64 << 10
	return &http.Client{
		Transport: t, Timeout: fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get fetches one document. Errors name the host and no more of the address.
func get(ctx context.Context, c *http.Client, at *url.URL) ([]byte, error) {
	fail := func(err error) error { return fmt.Errorf("%s: %w", at.Host, err) }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, fail(errors.New("not an address"))
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fail(err)
	}
	defer func() { _ = resp.Body.Close() }() // read as far as wanted
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return nil, fail(fmt.Errorf("sends elsewhere (HTTP %d), which is not followed", resp.StatusCode))
	case resp.StatusCode != http.StatusOK:
		return nil, fail(fmt.Errorf("answers HTTP %d", resp.StatusCode))
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fail(err)
	}
	if len(raw) > maxAnswer {
		return nil, fail(fmt.Errorf("answers with more than %d bytes", maxAnswer))
	}
	return raw, nil
}

// address reads an address that keys may be fetched from: https, or http on this
// machine.
func address(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > maxURL || u.Opaque != "" || u.Hostname() == "":
		return nil, fmt.Errorf("%q is no URL", config.OneLine(text))
	case u.User != nil || u.Fragment != "":
		return nil, errors.New("the URL holds credentials or a fragment")
	case u.Scheme == "https" || u.Scheme == "http" && loopback(u):
		return u, nil
	}
	return nil, fmt.Errorf("%q is not https; plain http is for this machine only", config.OneLine(u.Scheme+"://"+u.Host))
}

func loopback(u *url.URL) bool {
	a, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && a.IsLoopback()
}

// discover asks an OIDC issuer where its keys are (OpenID Connect Discovery 1.0,
// section 4). The document must name the very issuer, and an address at its own
// host or one of hosts: who can change the document cannot bring keys of his own.
func discover(ctx context.Context, c *http.Client, issuer string, hosts []string) (*url.URL, error) {
	base, err := address(issuer)
	if err != nil {
		return nil, err
	}
	at := *base
	at.RawQuery = ""
	raw, err := get(ctx, c, at.JoinPath(".well-known", "openid-configuration"))
	if err != nil {
		return nil, err
	}
	m, err := object(raw, true)
	if err != nil {
		return nil, fmt.Errorf("%s: its discovery document: %w", base.Host, err)
	}
	says, err := optionalText(m, "issuer")
	if err != nil || says == nil || *says != issuer {
		return nil, fmt.Errorf("%s: its discovery document is of another issuer", base.Host)
	}
	text, err := optionalText(m, "jwks_uri")
	if err != nil || text == nil {
		return nil, fmt.Errorf("%s: its discovery document has no jwks_uri", base.Host)
	}
	keys, err := address(*text)
	if err != nil {
		return nil, fmt.Errorf("%s: its jwks_uri: %w", base.Host, err)
	}
	if keys.Scheme == "http" && base.Scheme != "http" {
		return nil, fmt.Errorf("%s: its jwks_uri is not https", base.Host)
	}
	own := strings.EqualFold(keys.Hostname(), base.Hostname())
	if !own && !slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, keys.Host) || strings.EqualFold(h, keys.Hostname()) }) {
		return nil, fmt.Errorf("%s: its keys are at %s, which is not among the jwks_hosts", base.Host, config.OneLine(keys.Host))
	}
	return keys, nil
}

// hostname reads one of jwks_hosts.
func hostname(h string) bool {
	host := h
	if name, _, err := net.SplitHostPort(h); err == nil {
		host = name
	}
	return host != "" && len(h) < 256 && !strings.ContainsAny(h, "/@?# *") && config.OneLine(h) == h
}
