//go:build !linux && !darwin

package handover

import (
	"context"
	"net"
	"os"
)

type wire struct {
	c    *net.UnixConn
	peer int
}

func listenPrivate(string, bool) (*net.UnixListener, error) { return nil, ErrUnsupported }

func dialPrivate(context.Context, string) (*wire, error) { return nil, ErrUnsupported }

func admit(c *net.UnixConn) (*wire, error) {
	_ = c.Close()
	return nil, ErrUnsupported
}

func (w *wire) send(context.Context, message, ...*os.File) error { return ErrUnsupported }

func (w *wire) receive(context.Context) (message, []*os.File, error) {
	return message{}, nil, ErrUnsupported
}

func (w *wire) close() { _ = w.c.Close() }

func alive(int) bool { return false }
