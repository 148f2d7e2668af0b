package transport

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// Handed is a listening socket on its way to the process that goes on with it.
type Handed struct {
	Asked string   // the address as it was configured; with port 0 as that
	URL   string   // the address it has
	File  *os.File // whoever gets it closes it
}

// HandOver duplicates the socket for another process. The listener goes on until
// [Listener.Release]: between the two both may accept.
func (l *Listener) HandOver() (Handed, error) {
	f, err := duplicate(l.ln)
	if err != nil {
		return Handed{}, fmt.Errorf("hand %s over: %w", l.url, err)
	}
	return Handed{Asked: l.asked, URL: l.url, File: f}, nil
}

// Release stops accepting and leaves the socket, its names and those who are
// connected alone: another process listens there now.
func (l *Listener) Release() error {
	var err error
	l.released.Store(true)
	l.once.Do(func() { err = l.ln.Close() })
	return err
}

// Adopt goes on with a socket that another process handed over, as if [Listen]
// had opened it at h.Asked. The file is closed, whatever happens. Errors are
// *config.Problem.
func Adopt(h Handed, o Options) (*Listener, error) {
	defer func() { _ = h.File.Close() }()
	l, a, err := prepare(h.Asked, o)
	if err != nil {
		return nil, err
	}
	ln, err := net.FileListener(h.File) // a duplicate
	if err != nil {
		return nil, listenProblem(fmt.Errorf("%s: not a socket to go on with: %w", h.Asked, err))
	}
	l.ln, l.cleanup = ln, func() {}
	switch ln := ln.(type) {
	case *net.UnixListener:
		err = errors.New("a unix socket is no port")
		if a.via == viaUnix {
			var b *bound
			if b, err = adoptUnix(ln, a.path); err == nil {
				l.cleanup, l.url = b.remove, "unix://"+b.path
			}
		}
	case *net.TCPListener:
		err = errors.New("a port is no unix socket")
		if a.via != viaUnix {
			l.url, err = a.via+"://"+ln.Addr().String(), nil
			at := addrOf(ln.Addr())
			if want := a.addr.Addr(); at != want && !(at.IsUnspecified() && want.IsUnspecified()) {
				err = fmt.Errorf("it listens on %s", ln.Addr())
			}
		}
	default:
		err = errors.New("an unknown kind of socket")
	}
	if err != nil {
		_ = ln.Close()
		return nil, listenProblem(fmt.Errorf("%s: not the socket to go on with: %w", h.Asked, err))
	}
	return l, nil
}
