package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"towline/appserver/rpc"
	"towline/config"
)

// handshakeTimeout bounds dialing when the caller's context does not.
const handshakeTimeout = 10 * time.Second

// Dial connects to "unix://PATH" or "ws://HOST:PORT" and finishes the WebSocket
// handshake. ctx bounds the dialing only. A unix socket must be served by the
// same user or by root: whoever finds a dead name in a shared folder could
// otherwise put a server of their own behind it. Errors are *config.Problem.
func Dial(ctx context.Context, url string) (rpc.Stream, error) { return dialURL(ctx, url, false) }

// DialLink is [Dial] for a link of a resumable stream, which rpc.Resumes tells
// whether it is.
func DialLink(ctx context.Context, url string) (rpc.Stream, error) { return dialURL(ctx, url, true) }

// DialEngine is [Dial] for the unix socket of an engine that streams: rpc.Linger
// works on it, at the price of a thread for a connection.
func DialEngine(ctx context.Context, path string) (rpc.Stream, error) {
	url := "unix://" + path
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, errors.New("no answer in time"))
	defer cancel()
	c, err := dialUnix(ctx, path)
	if err == nil {
		var rw io.ReadWriteCloser
		if rw, err = unpolled(c.(*net.UnixConn)); err == nil {
			var s rpc.Stream
			if s, err = rpc.DialWebSocket(ctx, rw, rpc.WebSocketOptions{}); err == nil {
				return s, nil
			}
		}
	}
	return nil, dialProblem(ctx, url, err)
}

func dialURL(ctx context.Context, url string, resume bool) (rpc.Stream, error) {
	a, err := parseAddress(url)
	if err != nil {
		return nil, usageProblem("dial", err, "use unix:///PATH or ws://HOST:PORT")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, errors.New("no answer in time"))
	defer cancel()
	c, err := dialBytes(ctx, a)
	if err == nil {
		var s rpc.Stream
		if s, err = rpc.DialWebSocket(ctx, c, rpc.WebSocketOptions{Host: a.host, Resume: resume}); err == nil {
			return s, nil
		}
	}
	return nil, dialProblem(ctx, url, err)
}

func dialBytes(ctx context.Context, a address) (net.Conn, error) {
	if a.via == viaUnix {
		return dialUnix(ctx, a.path)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", a.host)
}

// DialBytes opens the bytes under the unix socket at path, as [Dial] finds it,
// for somebody else to make the handshake on. Errors are *config.Problem; those
// for which nobody listens there match fs.ErrNotExist or syscall.ECONNREFUSED.
func DialBytes(ctx context.Context, path string) (*net.UnixConn, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, usageProblem("dial", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, errors.New("no answer in time"))
	defer cancel()
	c, err := dialUnix(ctx, abs)
	if err != nil {
		return nil, dialProblem(ctx, "unix://"+abs, err)
	}
	return c.(*net.UnixConn), nil
}

// dialUnix follows links itself, because the kernel refuses a long path even
// when it is a link to a short one.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	actual, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if len(actual) > maxSocketPath {
		return nil, fmt.Errorf("the path is longer than the %d bytes a socket may have", maxSocketPath)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", actual)
	if err != nil {
		return nil, err
	}
	if !ownerKnown {
		return c, nil
	}
	cred, err := peerCredentials(c.(*net.UnixConn))
	if err == nil && cred.uid != 0 && cred.uid != uint32(os.Geteuid()) { //nolint:gosec // uids are 32 bits
		err = fmt.Errorf("the server there belongs to uid %d, not to you", cred.uid)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func dialProblem(ctx context.Context, url string, err error) error {
	p := &config.Problem{Stage: "dial", Exit: config.ExitUnavailable}
	cause := rootCause(err)
	var refused *rpc.HandshakeError
	switch {
	case errors.As(err, &refused):
		cause = refused
		switch refused.Status {
		case http.StatusUnauthorized, http.StatusForbidden:
			p.Exit = config.ExitDenied
			p.Hints = []string{"connect as the user the server runs as"}
		default:
			p.Hints = []string{"check that an app-server listens there"}
		}
	case ctx.Err() != nil:
		cause = context.Cause(ctx)
		p.Hints = []string{"check that the server there still works"}
	case errors.Is(err, fs.ErrNotExist):
		cause = kindly{"there is no such socket", err}
		p.Hints = []string{"start the server first: `towline serve`"}
	case errors.Is(err, syscall.ECONNREFUSED):
		cause = kindly{"nobody listens there", err}
		p.Hints = []string{"start the server first: `towline serve`"}
	case errors.Is(err, fs.ErrPermission):
		p.Exit = config.ExitDenied
		p.Hints = []string{"connect as the user the server runs as"}
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		cause = errors.New("the server closed the connection before the handshake ended")
		p.Hints = []string{"check that an app-server listens there"}
	}
	p.Err = fmt.Errorf("%s: %w", url, cause)
	return p
}

// kindly is an error in other words.
type kindly struct {
	text string
	err  error
}

func (k kindly) Error() string { return k.text }
func (k kindly) Unwrap() error { return k.err }
