package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/coder/websocket"

	"towline/appserver/rpc"
	"towline/config"
)

// handshakeTimeout bounds dialing when the caller's context does not.
const handshakeTimeout = 10 * time.Second

// Dial connects to "unix://PATH" or "ws://HOST:PORT" and finishes the WebSocket
// handshake. ctx bounds the dialing only. A unix socket must be served by the
// same user or by root: whoever finds a dead name in a shared folder could
// otherwise put a server of their own behind it. Errors are *config.Problem.
func Dial(ctx context.Context, url string) (rpc.Stream, error) {
	a, err := parseAddress(url)
	if err != nil {
		return nil, usageProblem("dial", err, "use unix:///PATH or ws://HOST:PORT")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, errors.New("no answer in time"))
	defer cancel()
	host := a.host
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if a.via == viaUnix {
				return dialUnix(ctx, a.path)
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", a.host)
		},
	}
	if a.via == viaUnix {
		host = "localhost"
	}
	client := &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c, resp, err := websocket.Dial(ctx, "ws://"+host+"/", &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		return nil, dialProblem(ctx, url, resp, err)
	}
	return &fragmenting{Stream: rpc.NewWebSocket(c), c: c}, nil
}

// dialUnix follows links itself, because the kernel refuses a long path even
// when it is a link to a short one.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	actual, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if len(actual) > maxSocketPath {
		return nil, fmt.Errorf("the path is longer than the %d bytes a socket may have", maxSocketPath)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", actual)
	if err != nil {
		return nil, err
	}
	if !ownerKnown {
		return c, nil
	}
	cred, err := peerCredentials(c.(*net.UnixConn))
	if err == nil && cred.uid != 0 && cred.uid != uint32(os.Geteuid()) { //nolint:gosec // uids are 32 bits
		err = fmt.Errorf("the server there belongs to uid %d, not to you", cred.uid)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func dialProblem(ctx context.Context, url string, resp *http.Response, err error) error {
	p := &config.Problem{Stage: "dial", Exit: config.ExitUnavailable}
	cause := rootCause(err)
	switch {
	case resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
		// The body is what the library kept of it, at most a kilobyte.
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		cause = errors.New(statusText(resp.StatusCode))
		if why := printable(string(b)); why != "" {
			cause = fmt.Errorf("%w: %s", cause, why)
		}
		switch resp.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			p.Exit = config.ExitDenied
			p.Hints = []string{"connect as the user the server runs as"}
		default:
			p.Hints = []string{"check that an app-server listens there"}
		}
	case ctx.Err() != nil:
		cause = context.Cause(ctx)
		p.Hints = []string{"check that the server there still works"}
	case errors.Is(err, fs.ErrNotExist):
		cause = errors.New("there is no such socket")
		p.Hints = []string{"start the server first: `towline serve`"}
	case errors.Is(err, syscall.ECONNREFUSED):
		cause = errors.New("nobody listens there")
		p.Hints = []string{"start the server first: `towline serve`"}
	case errors.Is(err, fs.ErrPermission):
		p.Exit = config.ExitDenied
		p.Hints = []string{"connect as the user the server runs as"}
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		cause = errors.New("the server closed the connection before the handshake ended")
		p.Hints = []string{"check that an app-server listens there"}
	}
	p.Err = fmt.Errorf("%s: %w", url, cause)
	return p
}

// printable makes text from elsewhere fit for a terminal, on one line.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s))
}

// fragmenting is a Stream whose messages beyond what Codex takes in one frame
// go out in several.
type fragmenting struct {
	rpc.Stream
	c *websocket.Conn
}

func (f *fragmenting) Write(ctx context.Context, msg []byte) error {
	if len(msg) <= codexFrameBytes {
		return f.Stream.Write(ctx, msg)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, rpc.WriteTimeout, rpc.ErrSlow)
	defer cancel()
	err := f.writeFrames(ctx, msg)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = f.Close(err) // half a message is out
	}
	return err
}

func (f *fragmenting) writeFrames(ctx context.Context, msg []byte) error {
	w, err := f.c.Writer(ctx, websocket.MessageText)
	if err != nil {
		return err
	}
	for len(msg) > 0 {
		n := min(len(msg), codexFrameBytes)
		if _, err := w.Write(msg[:n]); err != nil {
			return err
		}
		msg = msg[n:]
	}
	return w.Close()
}
