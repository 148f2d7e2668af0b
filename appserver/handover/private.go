package handover

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
)

// Private is a unix socket for this user's processes alone, without those that are
// more confined than this one; every connection was made sure of by the kernel's
// word.
type Private struct {
	ln   *net.UnixListener
	path string
}

// ListenPrivate opens one at path, in a folder of this user's alone. What a process
// that is gone left there is replaced.
func ListenPrivate(path string) (*Private, error) {
	ln, err := listenPrivate(path, false)
	if err != nil {
		return nil, err
	}
	return &Private{ln, path}, nil
}

// Accept waits for the next connection. Strangers are hung up on.
func (p *Private) Accept() (net.Conn, error) {
	for {
		c, err := p.ln.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if w, err := admit(c); err == nil {
			return w.c, nil
		}
	}
}

// Close stops listening and removes the socket.
func (p *Private) Close() error {
	err := p.ln.Close()
	_ = os.Remove(p.path) // its name is this process's own
	return err
}

// DialPrivate connects to such a socket. [ErrNobody] when nobody listens.
func DialPrivate(ctx context.Context, path string) (net.Conn, error) {
	w, err := dialPrivate(ctx, path)
	if err != nil {
		return nil, err
	}
	return w.c, nil
}

// isReset: the other end was gone before it read everything.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
