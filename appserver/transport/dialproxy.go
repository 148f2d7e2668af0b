package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"towline/config"
)

// maxProxyAnswer bounds what a proxy says before the connection is there.
const maxProxyAnswer = 16 << 10

// proxyError is a proxy that is in the way.
type proxyError struct{ err error }

func (e proxyError) Error() string { return e.err.Error() }
func (e proxyError) Unwrap() error { return e.err }

// dialProxy has the HTTP proxy at u connect to host (RFC 9110 9.3.6), as Codex has
// for ws:// and wss:// alike.
func dialProxy(ctx context.Context, d *net.Dialer, u *url.URL, host string) (net.Conn, error) {
	name := "the proxy " + config.OneLine(u.Host)
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, proxyError{refused{fmt.Errorf("%s is of a kind that is not supported (%s)", name, config.OneLine(u.Scheme))}}
	}
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, proxyError{fmt.Errorf("%s: %w", name, rootCause(err))}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	out, err := tunnel(ctx, c, u, host)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, proxyError{fmt.Errorf("%s: %w", name, err)}
	}
	return out, nil
}

func tunnel(ctx context.Context, c net.Conn, u *url.URL, host string) (net.Conn, error) {
	if u.Scheme == "https" {
		t := tls.Client(c, &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		c = t
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: host}, Host: host, Header: http.Header{}}
	if u.User != nil {
		password, _ := u.User.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	}
	if err := req.Write(c); err != nil {
		return nil, err
	}
	limit := &io.LimitedReader{R: c, N: maxProxyAnswer}
	br := bufio.NewReaderSize(limit, 4096)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it closed the connection")
		}
		return nil, err
	}
	_ = resp.Body.Close() // a CONNECT that went well has none
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("it does not connect to %s: HTTP %d %s", host, resp.StatusCode, http.StatusText(resp.StatusCode))
		if resp.StatusCode == http.StatusProxyAuthRequired || resp.StatusCode == http.StatusForbidden {
			return nil, refused{err}
		}
		return nil, err
	}
	if br.Buffered() > 0 { // the server speaks second: these bytes are nobody's we asked
		return nil, errors.New("it sent bytes before it was asked for any")
	}
	return c, nil
}
