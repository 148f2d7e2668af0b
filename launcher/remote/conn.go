// Package remote says what the launcher's parts share: an SSH connection to the
// target, the questions a person may be asked while it is made, and how progress
// is told. It holds types only.
//
// What carries bytes is a [Conn]: SSH in this process (sshclient) or the system
// ssh (systemssh). What is found and started on the other side is bootstrap's
// business. Nothing here draws or reads a terminal; questions go through an
// [Asker] the caller brings.
package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
)

// Conn is one authenticated SSH connection to the target, behind however many
// jump hosts. All methods may be called concurrently. Everything it opened ends
// with it.
type Conn interface {
	// Exec runs command in the remote user's login shell, without a terminal.
	// ctx bounds the start only; Close of the Process ends it.
	Exec(ctx context.Context, command string, o ExecOptions) (Process, error)
	// DialUnix opens a unix socket of the remote (direct-streamlocal). Servers
	// may forbid it.
	DialUnix(ctx context.Context, path string) (net.Conn, error)
	// DialTCP opens a TCP address as seen from the remote (direct-tcpip).
	// Servers may forbid it.
	DialTCP(ctx context.Context, addr string) (net.Conn, error)
	// Server is the server's SSH version string, or "" when unknown.
	Server() string
	// Done is closed when the connection is gone; Err then says why.
	Done() <-chan struct{}
	Err() error
	// Close ends the connection and waits for what it started. Idempotent.
	Close() error
}

// ExecOptions are what a command may have besides its text.
type ExecOptions struct {
	// ForwardAgent asks for agent forwarding on this channel, where the target's
	// configuration allows it.
	ForwardAgent bool
}

// Process is a running remote command. Its streams may be used concurrently
// with each other; Close is idempotent and ends the command's channel.
type Process interface {
	// Stdin's Close is the end of input, not of the command.
	Stdin() io.WriteCloser
	Stdout() io.Reader
	Stderr() io.Reader
	// Wait blocks until the command ended and its output was read. A status
	// other than 0 is an *ExitError.
	Wait() error
	Close() error
}

// ExitError is how a remote command failed.
type ExitError struct {
	Status int    // exit status, -1 when a signal ended it or none was told
	Signal string // SSH's name of the signal, without SIG; "" for none
}

func (e *ExitError) Error() string {
	switch {
	case e.Signal != "":
		return "ended by signal " + e.Signal
	case e.Status < 0:
		return "ended without a status"
	}
	return "exit status " + strconv.Itoa(e.Status)
}

// ErrNobody is an Asker's answer when no person is there to ask.
var ErrNobody = errors.New("nobody is here to answer")
