// Package sshfwd carries connections of this machine's loopback to a port of a
// host's, over an SSH connection that somebody else made.
//
// A [Listener] holds the port here. A [Carrier] finds out how bytes get to the
// port there and carries each connection: as a direct-tcpip channel where the
// server allows that, and else through a command whose standard streams are the
// connection. Which of the ways works is tried with a check of the caller's,
// because most of them look the same whether anything answers or not. Nothing
// here reads what it carries.
//
// [Hold] occupies a port there, for programs that take another when it is busy.
package sshfwd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"towline/config"
)

// Stage is the stage of the Problems of this package.
const Stage = "forward"

const (
	// openTimeout bounds opening one connection to the host's port, checkTimeout
	// finding out whether a way works.
	openTimeout  = 10 * time.Second
	checkTimeout = 10 * time.Second
)

// Host is an SSH connection, as far as it is needed here.
type Host interface {
	// DialTCP opens an address as seen from the host. Servers may forbid it.
	DialTCP(ctx context.Context, addr string) (net.Conn, error)
	// Exec runs a command in the login shell. A nil Process with an error that is
	// ErrNoShell says that there is none.
	Exec(ctx context.Context, command string) (Process, error)
}

// ErrNoShell is a Host's answer to Exec where nothing can be run.
var ErrNoShell = errors.New("this host runs no commands")

// Process is a running command of the host. Close ends its channel, and with it
// what reads or writes its streams.
type Process interface {
	Stdin() io.WriteCloser
	Stdout() io.Reader
	Stderr() io.Reader
	Wait() error
	Close() error
}

// Conn is one connection to the host's port. CloseWrite ends one direction.
type Conn interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Way is how bytes get to the port.
type Way string

// The ways, in the order they are tried.
const (
	Direct  Way = "direct-tcpip" // the server opens the connection itself
	Towline Way = "towline"      // our own program there
	Netcat  Way = "nc"           // whichever there is
	Bash    Way = "bash"         // /dev/tcp
	Socat   Way = "socat"
	Python  Way = "python3"
	Perl    Way = "perl"
)

// commands are the ways that are commands, in the order they are tried.
var commands = []Way{Towline, Netcat, Bash, Socat, Python, Perl}

// Options set up a Carrier. The zero value is usable.
type Options struct {
	// Name is what to call the host in hints; "" is HOST.
	Name string
	// Towline is the path of our own program there; "" for none.
	Towline string
	// Check finds out whether an open connection leads to what is wanted; it may
	// talk to it, and must end with ctx. Nil: that it could be opened is enough.
	Check func(ctx context.Context, c io.ReadWriter) error
	// Patience is how long one try may take; 0 is 10 s.
	Patience time.Duration
	Log      *slog.Logger

	path string // for tests: where programs are looked for there, instead of everywhere
}

// Carrier reaches one port of a host's loopback. Find must have succeeded before
// Dial is used; Dial may be called concurrently.
type Carrier struct {
	host Host
	port int
	o    Options
	way  Way
}

// NewCarrier makes one. It does nothing yet.
func NewCarrier(h Host, port int, o Options) *Carrier {
	if o.Name == "" {
		o.Name = "HOST"
	}
	if o.Patience <= 0 {
		o.Patience = checkTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Carrier{host: h, port: port, o: o}
}

// Way is the one that was found, "" before that.
func (c *Carrier) Way() Way { return c.way }

// Find looks for a way that works and keeps it. The error is a *config.Problem
// that says what was tried.
func (c *Carrier) Find(ctx context.Context) (Way, error) {
	var tried []string
	failed := func(w Way, err error) {
		c.o.Log.Debug("a way does not work", "way", w, "port", c.port, "err", err)
		tried = append(tried, string(w)+": "+config.OneLine(err.Error()))
	}
	err := c.try(ctx, Direct)
	if err == nil {
		return c.way, nil
	}
	failed(Direct, err)
	ways, err := c.there(ctx)
	switch {
	case errors.Is(err, ErrNoShell):
	case err != nil:
		failed("a command", err)
	case len(ways) == 0:
		tried = append(tried, "a command: there is none of towline, nc, bash, socat, python3 and perl")
	}
	for _, w := range ways {
		if err := c.try(ctx, w); err == nil {
			return c.way, nil
		} else { //nolint:revive // err is of this try alone
			failed(w, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return "", &config.Problem{
		Stage: Stage, Err: fmt.Errorf("port %d of the host cannot be reached (%s)", c.port, strings.Join(tried, "; ")), Exit: config.ExitUnavailable,
		Hints: []string{
			"allow it there: AllowTcpForwarding local in sshd_config, or install nc, socat or python3",
			"log in with a code instead: `towline login " + c.o.Name + " --device-auth`",
		},
	}
}

// try opens a connection one way, checks it and closes it.
func (c *Carrier) try(ctx context.Context, w Way) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.o.Patience, errors.New("no answer in time"))
	defer cancel()
	conn, err := c.open(ctx, w)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // it was only to see
	if c.o.Check != nil {
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		if err := c.o.Check(ctx, conn); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if s, ok := conn.(*stream); ok {
				if said := s.complaint(); said != "" {
					err = fmt.Errorf("%w (%s)", err, said)
				}
			}
			return err
		}
	}
	c.way = w
	return nil
}

// Dial opens a connection to the port, the way that was found.
func (c *Carrier) Dial(ctx context.Context) (Conn, error) {
	if c.way == "" {
		return nil, errors.New("no way to the port was found yet")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, openTimeout, errors.New("no answer in time"))
	defer cancel()
	return c.open(ctx, c.way)
}

func (c *Carrier) open(ctx context.Context, w Way) (Conn, error) {
	if w != Direct {
		return c.run(ctx, w)
	}
	nc, err := c.host.DialTCP(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)))
	if err != nil {
		return nil, err
	}
	if conn, ok := nc.(Conn); ok {
		return conn, nil
	}
	return whole{nc}, nil
}

// whole is a connection whose directions cannot be ended one by one. The end of
// ours is left unsaid: saying it would cut off the answer.
type whole struct{ net.Conn }

func (whole) CloseWrite() error { return nil }
