package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"towline/appserver/rpc"
)

// Dial connects to "unix://PATH" or "ws://HOST:PORT" and finishes the WebSocket
// handshake. ctx bounds the dialing only. A unix socket must be served by the
// same user or by root: whoever finds a dead name in a shared folder could
// otherwise put a server of their own behind it. Errors are *config.Problem.
func Dial(ctx context.Context, url string) (rpc.Stream, error) {
	return DialWith(ctx, url, DialOptions{})
}

// DialLink is [Dial] for a link of a resumable stream, which rpc.Resumes tells
// whether it is.
func DialLink(ctx context.Context, url string) (rpc.Stream, error) {
	return DialWith(ctx, url, DialOptions{Resume: true})
}

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
	return remoteAddress{via: viaUnix, path: strings.TrimPrefix(url, "unix://")}.problem(ctx, err, DialOptions{})
}
