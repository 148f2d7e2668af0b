// Package systemssh carries a connection over the system's own ssh program: for
// what the in-process client cannot honour (GSSAPI, PKCS#11, security keys
// without an agent, a ControlMaster that is alive), or because someone asked.
//
// There is one login for everything. Where the platform can, that is a control
// master (PROTOCOL.mux of OpenSSH), and no further ssh is run:
//
//   - The user's own, when it is alive. It is used as ssh itself would use it and
//     left as it was found. See shared.
//   - Else a private one, on a socket in a folder of mode 0700, used through its
//     proxy protocol: commands, unix sockets and TCP addresses of the remote then
//     behave exactly as with the in-process client. See mux.
//
// Where there is no multiplexing (Windows), there is one channel: Exec works once
// and the dials say why they do not (see single), unless the caller prefers a
// login for each command ([Config.MoreLogins]).
//
// ssh does the asking through SSH_ASKPASS, which is this program again
// ([AskpassCommand]): it passes the question to a socket of ours and the answer
// to ssh. Progress is read from ssh's -v lines, which OpenSSH never translates,
// and decides nothing: whether the login worked is known from the control socket.
package systemssh

import (
	"context"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// Config says whom to reach, and with what.
type Config struct {
	Target sshconfig.Target
	// Program is the ssh to run; "ssh" of the PATH when empty.
	Program string
	// ConfigFile is read instead of ~/.ssh/config, as with `ssh -F`.
	ConfigFile string
	// Self is this program, for ssh to ask questions with; os.Executable when
	// empty. Its main must begin with [AskpassArgs].
	Self string
	// Ask is who answers. Nil answers nothing: only logins that ask nothing work.
	Ask remote.Asker
	// Events is told of progress, one call at a time; nil for nobody.
	Events func(remote.Event)
	// Log gets what ssh said, at debug level; nil for nowhere.
	Log *slog.Logger
	// RuntimeDir is a private folder for sockets; it is made when missing. When
	// its path is too long for a socket a fresh folder under the system's
	// temporary one is used.
	RuntimeDir string
	// SingleChannel does without multiplexing even where it works.
	SingleChannel bool
	// MoreLogins lets Exec log in once more for each command after the first,
	// where there is no multiplexing. Ask is asked again each time, and a name
	// that stands for several machines may lead to another one.
	MoreLogins bool
	// Patience is how long ssh may say nothing, apart from when a person is being
	// asked, before the stage it is in has failed. Zero is the target's
	// ConnectTimeout, or 30 seconds.
	Patience time.Duration

	beat time.Duration // of shared's heartbeat; tests are faster
}

// withDefaults fills in what a zero value leaves out.
func (c Config) withDefaults() (Config, error) {
	if c.Program == "" {
		c.Program = "ssh"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Events == nil {
		c.Events = func(remote.Event) {}
	}
	if c.beat == 0 {
		c.beat = aliveInterval
	}
	if c.Patience == 0 {
		c.Patience = max(c.Target.ConnectTimeout, 0)
	}
	if c.Patience == 0 {
		c.Patience = 30 * time.Second
	}
	if c.Self == "" {
		self, err := os.Executable()
		if err != nil {
			return c, err
		}
		c.Self = self
	}
	return c, nil
}

// Dial logs in, asking what must be asked, and returns the connection. An error
// is a *config.Problem that names the stage and keeps ssh's own words. ctx
// bounds the login only.
func Dial(ctx context.Context, c Config) (remote.Conn, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, &config.Problem{Stage: remote.StageDial, Err: err, Hints: []string{"start this program by its full path"}}
	}
	if !c.SingleChannel {
		if s := existing(ctx, c); s != nil {
			return s, nil
		}
	}
	r, err := releaseOf(ctx, c.Program)
	if err != nil {
		return nil, err
	}
	sweep(ctx, c.Program, c.RuntimeDir)
	l, err := newLogin(c, r)
	if err != nil {
		return nil, err
	}
	if c.SingleChannel || !r.multiplexes() {
		s, err := dialSingle(ctx, l)
		switch {
		case err != nil:
			return nil, err // not a typed nil
		case c.MoreLogins:
			return newSeveral(c, r, s), nil
		}
		return s, nil
	}
	return dialMaster(ctx, l)
}

// dialMaster logs in with a control master of our own.
func dialMaster(ctx context.Context, l *login) (remote.Conn, error) {
	socket := l.dir.file(masterName)
	if err := l.start(masterArgs(l.c, l.r, l.scratch, socket), nil); err != nil {
		return nil, err
	}
	var client *ssh.Client
	var nc net.Conn
	err := l.run(ctx, func() (bool, error) {
		// ssh listens here once it is logged in, and not before.
		if _, err := os.Lstat(socket); err != nil {
			return false, nil
		}
		var err error
		client, nc, err = control(ctx, socket)
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	return newMux(l.c, client, nc, l), nil
}
