package egress

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"
)

// Via is how a machine whose environment names a proxy gets out: for a target, a
// way through that proxy, or nil where it goes directly. environ is such as
// os.Getenv; it is read once.
func Via(environ func(string) string) func(Target) DialFunc {
	get := func(name string) string {
		return cmp.Or(environ(strings.ToUpper(name)), environ(strings.ToLower(name)))
	}
	c := httpproxy.Config{HTTPProxy: get("HTTP_PROXY"), HTTPSProxy: get("HTTPS_PROXY"), NoProxy: get("NO_PROXY")}
	if all := get("ALL_PROXY"); all != "" {
		c.HTTPProxy, c.HTTPSProxy = cmp.Or(c.HTTPProxy, all), cmp.Or(c.HTTPSProxy, all)
	}
	find := c.ProxyFunc()
	return func(t Target) DialFunc {
		scheme := "https"
		if t.Port == 80 {
			scheme = "http"
		}
		p, err := find(&url.URL{Scheme: scheme, Host: t.String()})
		switch {
		case err != nil:
			return func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("the proxy that this machine's environment names is no address")
			}
		case p == nil:
			return nil
		}
		return func(ctx context.Context, _, addr string) (net.Conn, error) { return dialProxy(ctx, p, addr) }
	}
}

// dialProxy has the proxy p connect to addr. Errors do not repeat p, which may
// hold a password.
func dialProxy(ctx context.Context, p *url.URL, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	d := &net.Dialer{Timeout: dialTime}
	if p.Scheme == "socks5" || p.Scheme == "socks5h" {
		s, err := proxy.FromURL(p, d)
		if err != nil {
			return nil, errors.New("the proxy that this machine's environment names cannot be used")
		}
		c, err := s.(proxy.ContextDialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("this machine's proxy: %w", rootCause(err))
		}
		return c, nil
	}
	port := cmp.Or(p.Port(), map[string]string{"http": "80", "https": "443"}[p.Scheme])
	if port == "" {
		return nil, errors.New("the proxy that this machine's environment names is of a kind that is not known")
	}
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(p.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("this machine's proxy: %w", rootCause(err))
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	out, err := connectVia(ctx, c, p, addr)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("this machine's proxy: %w", err)
	}
	return out, nil
}

func connectVia(ctx context.Context, c net.Conn, p *url.URL, addr string) (net.Conn, error) {
	if p.Scheme == "https" {
		tc := tls.Client(c, &tls.Config{ServerName: p.Hostname(), MinVersion: tls.VersionTLS12})
		if err := tc.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		c = tc
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if u := p.User; u != nil {
		pass, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+pass)))
	}
	if err := req.Write(c); err != nil {
		return nil, rootCause(err)
	}
	br := bufio.NewReaderSize(c, maxAnswer)
	res, err := http.ReadResponse(br, req)
	if err != nil {
		return nil, errors.New("no answer that could be understood")
	}
	if res.StatusCode != http.StatusOK {
		_ = res.Body.Close()
		return nil, fmt.Errorf("it answered %d", res.StatusCode)
	}
	if br.Buffered() > 0 {
		return nil, errors.New("it spoke before it was spoken to")
	}
	return c, nil
}
