package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"sync"
	"testing"
	"time"

	gliderssh "github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

// GoHost says how a host made with gliderlabs/ssh behaves: a second
// implementation of the protocol, whose authentication a test can script.
type GoHost struct {
	User *User // whose shell runs commands
	// Key lets a key in; nil lets in those the user authorised.
	Key func(user string, key gossh.PublicKey) bool
	// Password lets a password in; nil offers no passwords.
	Password func(user, password string) bool
	// Challenge holds the keyboard-interactive conversation; nil offers none.
	Challenge func(user string, ask gossh.KeyboardInteractiveChallenge) bool
	// Version is told to clients after "SSH-2.0-".
	Version string
	// Say is what every command prints before it fails, instead of being run.
	Say string
	// Forward allows direct-tcpip.
	Forward bool
}

// StartGoHost serves until the end of the test, in this process.
func StartGoHost(t testing.TB, o GoHost) *Server {
	t.Helper()
	NeedRoot(t)
	s := &Server{HostKey: NewKey(t, Ed25519, "host", ""), log: &syncBuffer{}}
	ln, err := net.Listen("tcp", Loopback(t)+":2222") //nolint:noctx // closed with the test
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = ln.Addr().String()
	var running sync.WaitGroup
	var mu sync.Mutex // guards conns
	conns := map[net.Conn]struct{}{}
	srv := &gliderssh.Server{
		Version: o.Version,
		// This library lets everybody in when it sees no handler, so there is
		// always one for keys.
		PublicKeyHandler: func(ctx gliderssh.Context, key gliderssh.PublicKey) bool {
			if o.Key != nil {
				return o.Key(ctx.User(), key)
			}
			return o.User.authorizes(key)
		},
		Handler: func(sess gliderssh.Session) {
			running.Add(1)
			defer running.Done()
			_ = sess.Exit(o.execute(sess))
		},
		ConnCallback: func(_ gliderssh.Context, c net.Conn) net.Conn {
			mu.Lock()
			defer mu.Unlock()
			conns[c] = struct{}{}
			return c
		},
		ChannelHandlers: map[string]gliderssh.ChannelHandler{"session": gliderssh.DefaultSessionHandler},
	}
	if o.Password != nil {
		srv.PasswordHandler = func(ctx gliderssh.Context, password string) bool { return o.Password(ctx.User(), password) }
	}
	if o.Challenge != nil {
		srv.KeyboardInteractiveHandler = func(ctx gliderssh.Context, ask gossh.KeyboardInteractiveChallenge) bool {
			return o.Challenge(ctx.User(), ask)
		}
	}
	if o.Forward {
		srv.ChannelHandlers["direct-tcpip"] = gliderssh.DirectTCPIPHandler
		srv.LocalPortForwardingCallback = func(gliderssh.Context, string, uint32) bool { return true }
	}
	srv.AddHostKey(s.HostKey.Signer)
	s.drop = func() {
		mu.Lock()
		defer mu.Unlock()
		for c := range conns {
			_ = c.Close()
		}
		clear(conns)
	}
	running.Add(1)
	go func() { defer running.Done(); _ = srv.Serve(ln) }()
	s.stop = func() { _ = srv.Close(); s.drop(); running.Wait() }
	t.Cleanup(s.Stop)
	return s
}

// execute runs the command in the user's login shell, as sshd does, and
// returns its status.
func (o GoHost) execute(sess gliderssh.Session) int {
	if o.Say != "" {
		_, _ = io.WriteString(sess.Stderr(), o.Say)
		return 1
	}
	ctx, cancel := context.WithCancel(sess.Context())
	defer cancel()
	args := []string{o.User.Shell, "-c", sess.RawCommand()}
	if sess.RawCommand() == "" {
		args = []string{o.User.Shell, "-l"}
	}
	cmd := o.User.Command(ctx, args...)
	cmd.WaitDelay = 2 * time.Second
	cmd.Stdout, cmd.Stderr = sess, sess.Stderr()
	// A pipe rather than the session itself: Wait would otherwise last until
	// the client closes its side.
	in, err := cmd.StdinPipe()
	if err != nil {
		return 255
	}
	if err := cmd.Start(); err != nil {
		_, _ = io.WriteString(sess.Stderr(), err.Error()+"\n")
		return 127
	}
	go func() { _, _ = io.Copy(in, sess); _ = in.Close() }() // ends with the session
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return 255
}

// authorizes says whether the user's authorized_keys has the key.
func (u *User) authorizes(key gossh.PublicKey) bool {
	for rest := []byte(u.Read(".ssh/authorized_keys")); len(rest) > 0; {
		k, _, _, more, err := gossh.ParseAuthorizedKey(rest)
		if err != nil {
			return false
		}
		if gliderssh.KeysEqual(k, key) {
			return true
		}
		rest = more
	}
	return false
}
