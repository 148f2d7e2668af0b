package sshclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Channel types and their payloads: RFC 4254 section 7.2, and OpenSSH's PROTOCOL
// section 2.4.
const (
	channelSession = "session"
	channelTCP     = "direct-tcpip"
	channelUnix    = "direct-streamlocal@openssh.com"
	channelAgent   = "auth-agent@openssh.com"
)

type tcpPayload struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

type unixPayload struct {
	Path      string
	Reserved  string
	Reserved2 uint32
}

// open opens a channel. The library waits for the server's answer for ever; here
// ctx ends the wait, and a channel that comes late is closed.
func (l *link) open(ctx context.Context, kind string, payload []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	answer := make(chan opened)
	given := make(chan struct{}) // closed when nobody waits any more
	defer close(given)
	ok := l.spawn(func() {
		ch, reqs, err := l.conn.OpenChannel(kind, payload)
		select {
		case answer <- opened{ch, reqs, err}:
			return
		case <-given:
		}
		if err == nil {
			go ssh.DiscardRequests(reqs) // ends with the channel
			_ = ch.Close()
		}
	})
	if !ok {
		return nil, nil, l.gone()
	}
	select {
	case o := <-answer:
		if o.err != nil {
			var refused *ssh.OpenChannelError
			if !errors.As(o.err, &refused) {
				o.err = l.ending(o.err)
			}
			return nil, nil, o.err
		}
		return o.ch, o.reqs, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	case <-l.done:
		return nil, nil, l.gone()
	}
}

// ending is why the link ends, for an error that only comes with its end.
func (l *link) ending(err error) error {
	select {
	case <-l.done:
		return l.gone()
	case <-time.After(endingPatience): // a server that breaks the protocol and lives
		return err
	}
}

// endingPatience is how long a link may take to notice its own end.
const endingPatience = 5 * time.Second

// dialTCP opens a TCP connection from the hop.
func (l *link) dialTCP(ctx context.Context, address string) (*stream, error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%s is no port", printable(p, 20))
	}
	ch, reqs, err := l.open(ctx, channelTCP, ssh.Marshal(tcpPayload{Host: host, Port: uint32(port), OriginHost: "127.0.0.1", OriginPort: 0}))
	if err != nil {
		return nil, err
	}
	return l.newStream(ch, reqs, streamAddr{"tcp", address}), nil
}

// dialUnix opens a unix socket of the hop.
func (l *link) dialUnix(ctx context.Context, path string) (*stream, error) {
	ch, reqs, err := l.open(ctx, channelUnix, ssh.Marshal(unixPayload{Path: path}))
	if err != nil {
		return nil, err
	}
	return l.newStream(ch, reqs, streamAddr{"unix", path}), nil
}

// stream is a channel as a net.Conn. CloseWrite is the end of what this side says
// and leaves the other direction open. Reads have deadlines; writes do not, they
// end with the connection.
type stream struct {
	ch     ssh.Channel
	in     *inbox
	remote net.Addr
	close  func() error
}

// streamAddr is where a stream leads, as seen from the far end.
type streamAddr struct{ network, address string }

func (a streamAddr) Network() string { return a.network }
func (a streamAddr) String() string  { return a.address }

func (l *link) newStream(ch ssh.Channel, reqs <-chan *ssh.Request, to net.Addr) *stream {
	s := &stream{ch: ch, in: newInbox(), remote: to}
	s.close = sync.OnceValue(func() error {
		s.in.close(net.ErrClosed)
		if err := ch.Close(); err != nil && !isEnd(err) {
			return err
		}
		return nil
	})
	l.spawn(func() { ssh.DiscardRequests(reqs) })
	l.spawn(func() { s.in.fill(ch) })
	return s
}

func (s *stream) Read(p []byte) (int, error)         { return s.in.Read(p) }
func (s *stream) Write(p []byte) (int, error)        { return s.ch.Write(p) }
func (s *stream) CloseWrite() error                  { return s.ch.CloseWrite() }
func (s *stream) Close() error                       { return s.close() }
func (s *stream) LocalAddr() net.Addr                { return streamAddr{"ssh", "here"} }
func (s *stream) RemoteAddr() net.Addr               { return s.remote }
func (s *stream) SetReadDeadline(t time.Time) error  { s.in.setDeadline(t); return nil }
func (s *stream) SetWriteDeadline(t time.Time) error { return noDeadline(t) }

// SetDeadline sets what can be set, and says when that is not all.
func (s *stream) SetDeadline(t time.Time) error {
	s.in.setDeadline(t)
	return noDeadline(t)
}

// noDeadline is the answer to a deadline for writing; lifting one is no problem.
func noDeadline(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	return errNoDeadline
}
