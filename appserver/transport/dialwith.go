package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"towline/appserver/rpc"
	"towline/config"
)

const (
	// handshakeTimeout bounds dialing when the caller's context does not;
	// remoteHandshakeTimeout does where it goes over a network.
	handshakeTimeout       = 10 * time.Second
	remoteHandshakeTimeout = 15 * time.Second
	// aliveEvery is how often the other end of a network connection is asked for a
	// sign of life. Two that stay away end the connection.
	aliveEvery = 15 * time.Second
)

// DialOptions are what [DialWith] and [Connect] need besides an address. The zero
// value dials as somebody without a credential.
type DialOptions struct {
	// Token is shown as the bearer of an Authorization header. It goes only where
	// [TokenFits] says, and is in no error.
	Token string
	// TokenName is what hints call the token: "$NAME"; empty is "the token".
	TokenName string
	// CA are the authorities a wss:// server may be signed by; nil is the system's.
	CA *x509.CertPool
	// Proxy finds the HTTP proxy for an address, as http.Transport's does; nil is
	// none. Loopback and unix sockets have none, whatever it says.
	Proxy func(*url.URL) (*url.URL, error)
	// Resume offers rpc.ResumeProtocol; rpc.Resumes then tells whether the stream is
	// a link for rpc.NewResumable, and nothing else. [Connect] sets it.
	Resume bool
	// Log hears of links that come and go under what Connect returns; nil discards.
	Log *slog.Logger
}

// DialWith connects to "unix://PATH", "ws://HOST:PORT" or "wss://HOST:PORT" and
// finishes the WebSocket handshake. ctx bounds the dialing only. A unix socket
// must be served by the same user or by root, as for [Dial]. Errors are
// *config.Problem, hold no secret and nothing that acts on a terminal, and match
// rpc.ErrRefused when trying again does not mend them. One that says when to try
// again is found with [rpc.RetryAfter].
func DialWith(ctx context.Context, rawURL string, o DialOptions) (rpc.Stream, error) {
	a, err := parseRemote(rawURL)
	if err != nil {
		return nil, usageProblem("dial", refused{err}, a.advice())
	}
	if o.Token != "" && !a.private() {
		return nil, usageProblem("dial", refused{errors.New("a token goes only over wss:// or loopback ws://: on the way to " + a.shown() + " anybody could read it")},
			fmt.Sprintf("use wss://%s, or carry the connection through ssh: `towline HOST`, or `ssh -L 4500:127.0.0.1:PORT HOST` and ws://127.0.0.1:4500", a.host))
	}
	patience := handshakeTimeout
	if !a.loopback() {
		patience = remoteHandshakeTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("no answer in time"))
	defer cancel()
	s, err := a.dial(ctx, o)
	if err != nil {
		return nil, a.problem(ctx, err, o)
	}
	return s, nil
}

// Connect is DialWith for who stays: where the other end offers it, the stream
// outlives its links, and is an *rpc.Resumable. Any other ends with its link.
func Connect(ctx context.Context, rawURL string, o DialOptions) (rpc.Stream, error) {
	o.Resume = true
	dial := func(ctx context.Context) (rpc.Stream, error) {
		s, err := DialWith(ctx, rawURL, o)
		if err == nil && !rpc.Resumes(s) {
			_ = s.Close(nil)
			err = &config.Problem{
				Stage: "dial", Err: refused{errors.New("what answers there now is not the Towline that kept the session")},
				Hints: []string{"connect anew"}, Exit: config.ExitUnavailable,
			}
		}
		return s, err
	}
	s, err := DialWith(ctx, rawURL, o)
	if err != nil || !rpc.Resumes(s) {
		return s, err
	}
	r := rpc.NewResumable(rpc.ResumeOptions{First: s, Dial: dial, Log: o.Log})
	if err := r.Connect(ctx); err != nil {
		return nil, &config.Problem{
			Stage: "dial", Err: fmt.Errorf("%s: %w", shown(rawURL), err), Exit: config.ExitUnavailable,
			Hints: []string{"check that the server there still works"},
		}
	}
	return r, nil
}

// dial makes the connection, its TLS, and the handshake.
func (a remoteAddress) dial(ctx context.Context, o DialOptions) (rpc.Stream, error) {
	ws := rpc.WebSocketOptions{Host: a.host, Resume: o.Resume}
	if o.Token != "" {
		ws.Header = http.Header{"Authorization": {"Bearer " + o.Token}}
	}
	if a.via == viaUnix {
		ws.Host = ""
		c, err := dialUnix(ctx, a.path)
		if err != nil {
			return nil, err
		}
		return rpc.DialWebSocket(ctx, c, ws)
	}
	if !a.loopback() {
		ws.Alive = aliveEvery
	}
	c, err := a.dialTCP(ctx, o.Proxy)
	if err != nil {
		return nil, err
	}
	if a.via == viaWS {
		// A name can lead elsewhere than it says, and the token must not.
		if ra := addrOf(c.RemoteAddr()); o.Token != "" && !ra.IsLoopback() {
			_ = c.Close()
			return nil, refused{fmt.Errorf("%s leads to %s, which is not this machine: the token was not sent", a.hostname, ra)}
		}
		return rpc.DialWebSocket(ctx, c, ws)
	}
	t := tls.Client(c, &tls.Config{
		ServerName: a.hostname, RootCAs: o.CA, MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, // a WebSocket has no place in HTTP/2
	})
	if err := t.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, tlsError{err}
	}
	return rpc.DialWebSocket(ctx, tlsBytes{t, c}, ws)
}

// dialTCP opens the bytes, through a proxy where there is one.
func (a remoteAddress) dialTCP(ctx context.Context, proxy func(*url.URL) (*url.URL, error)) (net.Conn, error) {
	var d net.Dialer
	if proxy != nil && !a.loopback() {
		u, err := proxy(a.forProxy())
		if err != nil {
			return nil, proxyError{cmp.Or(rootCause(err), err)}
		}
		if u != nil {
			return dialProxy(ctx, &d, u, a.host)
		}
	}
	return d.DialContext(ctx, "tcp", a.host)
}

// tlsBytes closes what is under TLS at once: the alert that says so may wait for
// a peer that does not read.
type tlsBytes struct {
	*tls.Conn
	under io.Closer
}

func (t tlsBytes) Close() error {
	_ = t.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	return errors.Join(t.Conn.CloseWrite(), t.under.Close())
}
