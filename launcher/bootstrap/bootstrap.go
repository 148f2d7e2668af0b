// Package bootstrap finds out what is on the other side of an SSH connection
// and gets an app-server connection out of it.
//
// It needs nothing but a command channel: every step is one Exec of [Command],
// a spelling that every login shell understands, with a fixed POSIX script on
// its standard input. The script answers in lines that begin with a random
// marker, so whatever banners, rc files and message-of-the-day programs print
// is passed over; when the marker never comes, what came instead is shown.
//
//	rep, err := bootstrap.Probe(ctx, conn, o)        // what is there
//	ch, err := bootstrap.Choose(rep, o)              // what will be used, and why
//	ch, err = bootstrap.Install(ctx, conn, rep, …)   // if the person agreed to it
//	stream, opened, err := bootstrap.Open(ctx, conn, rep, ch)
//
// Nothing here asks a person, draws, or opens a network connection of its own.
// Errors are *config.Problem with one of the stages of package remote.
package bootstrap

import (
	"context"
	"log/slog"
	"time"

	"towline/appserver/protocol"
	"towline/launcher/remote"
)

// Command is what is sent to the login shell. An absolute path and an option:
// bash, dash, zsh, fish, csh, ksh and nushell agree on what that means, and it
// works where PATH does not.
const Command = "/bin/sh -s"

// Remote is the part of a connection this package uses. A remote.Conn is one.
// When it also has Server() string, the server's version string is consulted:
// native Windows and Towline's own SSH door are known by it.
type Remote interface {
	Exec(ctx context.Context, command string, o remote.ExecOptions) (remote.Process, error)
}

// Options say what is wanted. The zero value is usable.
type Options struct {
	// Host is the target as the person types it, for hints. Empty: "HOST".
	Host string
	// InstallDir is where Towline is looked for and installed; "~/" is the
	// remote's home. Empty: $XDG_DATA_HOME/towline or ~/.local/share/towline.
	InstallDir string
	// Pin narrows the choice: "towline", "codex", or the absolute path of one
	// of them. Empty: the best there is.
	Pin string
	// Version and Window are this client's own. An empty Window is protocol.Spoken.
	Version string
	Window  protocol.Window
	// ShellTimeout is how long the login shell may stay silent before it is
	// given up, EnvTimeout how long its rc files may take, ItemTimeout how long
	// each question of the probe. 0: 30 s, 10 s, 5 s.
	ShellTimeout, EnvTimeout, ItemTimeout time.Duration
	// StartTimeout is how long a daemon may take to start, LockTimeout how long
	// another installer may hold the lock. 0: 30 s, 10 min.
	StartTimeout, LockTimeout time.Duration
	// Events is told about progress, from one goroutine at a time; may be nil.
	Events func(remote.Event)
	Log    *slog.Logger
	// Now is the clock the remote's is compared with; nil is time.Now.
	Now func() time.Time

	// For tests: script text after lib.sh, and how long a lock's holder may
	// stand still.
	prelude string
	stall   time.Duration
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&o.ShellTimeout, 30 * time.Second},
		{&o.EnvTimeout, 10 * time.Second},
		{&o.ItemTimeout, 5 * time.Second},
		{&o.stall, stallTimeout},
		{&o.StartTimeout, 30 * time.Second},
		{&o.LockTimeout, 10 * time.Minute},
	} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	if o.Window == (protocol.Window{}) {
		o.Window = protocol.Spoken
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Events == nil {
		o.Events = func(remote.Event) {}
	}
	return o
}

// host is the target's name for a hint.
func (o Options) host() string {
	if o.Host == "" {
		return "HOST"
	}
	return o.Host
}
