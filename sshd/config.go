package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"towline/appserver/access"
	"towline/sshd/session"
)

// Limits is what strangers, and then one client, may take. The zero value of
// each field is its default.
type Limits struct {
	// StartupsBegin, StartupsRate and StartupsFull thin out connections that have
	// not logged in yet, as OpenSSH's MaxStartups does: above Begin (10) a new one
	// is dropped with Rate (30) percent probability, rising to certainty at Full
	// (100). Nobody who is logged in counts.
	StartupsBegin, StartupsRate, StartupsFull int
	// StartupsPerSource bounds the same for one address (for IPv6 one /64), so
	// that a single machine cannot use up everybody's share. Default 10.
	StartupsPerSource int
	// Connections bounds connections that are logged in. Default 512.
	Connections int
	// AuthTries is how many keys a client may offer. Default 6, as OpenSSH.
	AuthTries int
	// Sessions bounds open channels of one connection. Default 10, as OpenSSH.
	Sessions int
	// LoginGrace is the time from accept to logged in. Default 30 s.
	LoginGrace time.Duration
	// KeepAlive is how long a silent client is left alone; after KeepAliveMissed
	// such spans without a byte from it the connection is closed. Defaults 15 s
	// and 3: a dead peer is noticed after 45 s.
	KeepAlive       time.Duration
	KeepAliveMissed int
	// Recheck is how often the keys of open connections are held against the
	// authorized_keys file; one that fails twice running is closed. Default 2 s.
	Recheck time.Duration
	// Drain is how long sessions may take to end once Serve's context has. Default 5 s.
	Drain time.Duration
	// Forwards and AllForwards bound open connections to a login's port, of one
	// client and of all. Defaults 16 and 64; a browser opens six.
	Forwards, AllForwards int
	// ForwardTime ends such a connection whatever it does. Default 20 min, more
	// than a login takes.
	ForwardTime time.Duration
	// Errands bounds commands that are processes of their own, of all clients.
	// Default 8.
	Errands int
}

func (l Limits) withDefaults() Limits {
	count := func(p *int, d int) {
		if *p == 0 {
			*p = d
		}
	}
	span := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	count(&l.StartupsBegin, 10)
	count(&l.StartupsRate, 30)
	count(&l.StartupsFull, 100)
	count(&l.StartupsPerSource, 10)
	count(&l.Connections, 512)
	count(&l.AuthTries, 6)
	count(&l.Sessions, 10)
	span(&l.LoginGrace, 30*time.Second)
	span(&l.KeepAlive, 15*time.Second)
	count(&l.KeepAliveMissed, 3)
	span(&l.Recheck, 2*time.Second)
	span(&l.Drain, 5*time.Second)
	count(&l.Forwards, 16)
	count(&l.AllForwards, 64)
	span(&l.ForwardTime, 20*time.Minute)
	count(&l.Errands, 8)
	return l
}

// Config is what a Server is made of. HostKeyFile, AuthorizedKeysFile, UI and
// AppServer are required: there is no way to start a door that lets everyone in.
type Config struct {
	// Listen is a TCP address; port 0 picks one, see Server.Addr.
	Listen string
	// Socket, where not nil, listens on it already: a daemon before this one handed
	// it over. It is closed.
	Socket *os.File
	// HostKeyFile holds the ed25519 host key. It is made when absent.
	HostKeyFile string
	// AuthorizedKeysFile says who may log in and as what, see package auth. It may
	// be absent and is read again whenever it changes.
	AuthorizedKeysFile string
	Limits             Limits
	Log                *slog.Logger

	// UI runs for `ssh host` with a terminal and returns the exit status. ctx ends
	// when the client is gone, its input ended, its key was removed or the server
	// stops; context.Cause tells which (package session). It must return soon then.
	UI func(ctx context.Context, s *Session) int
	// AppServer speaks the protocol, one JSON message a line, for `ssh host
	// app-server` and for the subsystem "codex-app-server". rw reads io.EOF once the
	// client half-closes and can still be written then. Closing it is optional.
	AppServer func(ctx context.Context, rw io.ReadWriteCloser, p access.Principal, remote string) error
	// WebSocket speaks the protocol as WebSocket messages, beginning with the
	// client's handshake, for `ssh host app-server proxy`: what a local client finds
	// on the daemon's unix socket. Nil means that there is no such command. It closes
	// rw when it returns, which is when the connection is over.
	WebSocket func(ctx context.Context, rw io.ReadWriteCloser, p access.Principal, remote string) error
	// Self is how to run this program for the commands that are processes of their
	// own (login, logout, credentials). The zero value means that there are none.
	Self Self
	// Listens reports whether this process itself listens on a loopback port for
	// something other than a login; nil means that it does not. Nothing of that can
	// be reached by a forward.
	Listens func(port uint16) bool
	// LoginPorts are those on which a login waits; nil is loginport.Ports.
	LoginPorts []uint16
	// Help is the text of `ssh host help`. Nil lists the commands.
	Help func(p access.Principal) string
	// Audit is told what an owner wants to be able to look up later; see the Event
	// constants. It must not block. Nil means nobody asks.
	Audit func(event string, p access.Principal, attrs ...slog.Attr)
}

func (c Config) validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is required", what))
		}
	}
	need(c.Listen != "", "an address")
	need(c.HostKeyFile != "", "a host key file")
	need(c.AuthorizedKeysFile != "", "an authorized_keys file")
	need(c.UI != nil, "a UI")
	need(c.AppServer != nil, "an app-server")
	return errors.Join(errs...)
}

// Events given to Config.Audit.
const (
	EventLogin   = "ssh.login"   // a key was proved and admitted
	EventDenied  = "ssh.denied"  // a connection ended without logging in
	EventLogout  = "ssh.logout"  // a logged-in connection ended
	EventRefused = "ssh.refused" // a logged-in client asked for a forward, an agent, X11 …
	EventRevoked = "ssh.revoked" // a live connection lost its right to be here
	EventForward = "ssh.forward" // a login's port was reached
	EventCommand = "ssh.command" // a command that is a process began, or ended (with a status)
)

// Size is a terminal's size in cells, each from 1 to 1000.
type Size = session.Size

// Session is one person at one terminal.
//
// There is no terminal device behind it. A Bubble Tea program runs on it with
// WithContext(ctx), WithInput(In), WithOutput(Out), WithEnvironment(Environ),
// WithColorProfile(colorprofile.Env(Environ)), since Out is no tty to ask,
// WithWindowSize(Size), and WithoutSignalHandler, since signals are this
// process's and not the person's. A goroutine that ends with the program sends
// what arrives on Sizes as tea.WindowSizeMsg. The end of In also ends ctx, so a
// program need not look for it.
type Session struct {
	Principal access.Principal
	Remote    string // address and port
	User      string // the user name the client sent; it proves nothing
	Term      string // the terminal's type, safe to print
	// Environ is what the client may say about itself (LANG, LC_*, COLORTERM,
	// TERM_PROGRAM) and TERM, as KEY=value.
	Environ []string
	// Size is the terminal's size now; Sizes holds the newest one after that. It is
	// never closed: select on the context as well.
	Size  Size
	Sizes <-chan Size
	// In reads io.EOF when the client's input ends or the session does.
	In io.Reader
	// Out and Err are the terminal. "\n" goes out as "\r\n", as from a tty in its
	// usual mode, which is what Bubble Tea expects of an output that is no tty.
	Out, Err io.Writer
}
