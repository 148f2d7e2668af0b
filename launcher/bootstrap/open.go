package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"towline/appserver/rpc"
	"towline/config"
	"towline/launcher/remote"
)

// handshakeTimeout bounds the WebSocket handshake, through the program that
// carries it, when the caller's context does not.
const handshakeTimeout = 30 * time.Second

// cutNote is what a person should know about a bare child.
const cutNote = "this host runs Codex without a daemon: a link that breaks ends the running turn"

// Opened describes an open app-server connection.
type Opened struct {
	Kind    Kind   `json:"kind"`
	Version string `json:"version"` // of the program that was started; a daemon that ran before may differ
	// CutEndsTurn: a link that breaks ends the running turn. Note says so.
	CutEndsTurn bool `json:"cutEndsTurn"`
	// Resumable: towline.resume.v1 was agreed. The Stream is a link for
	// rpc.NewResumable then, and nothing else.
	Resumable bool `json:"resumable"`
	// Started: a daemon was started for this connection, as far as is known:
	// Towline's own proxy does not tell.
	Started bool   `json:"started"`
	Note    string `json:"note,omitempty"`
	// Stderr is the end of what the remote program said besides, stripped of
	// control characters. It may be called at any time.
	Stderr func() string `json:"-"`
}

// Open starts what ch says if need be and connects to it over one command
// channel. ctx bounds that only. The Stream owns the channel; when it ends,
// Opened.Stderr may know why. Errors are *config.Problem.
func Open(ctx context.Context, r Remote, rep Report, ch Choice) (rpc.Stream, Opened, error) {
	o := rep.o.withDefaults()
	if rep.Door {
		return openDoor(ctx, r, o, ch)
	}
	opened := Opened{Kind: ch.Candidate.Kind, Version: ch.Candidate.Version}
	if ch.Action == Offer || !path.IsAbs(ch.Candidate.Path) {
		return nil, opened, &config.Problem{
			Stage: remote.StageFind, Err: fmt.Errorf("there is nothing to start: %w", rep.notFound()), Exit: config.ExitUnavailable,
			Hints: []string{"install Towline there: `towline connect " + o.host() + " --install`"},
		}
	}
	if s, ok := throughServer(ctx, r, rep, ch); ok {
		opened.Resumable = rpc.Resumes(s)
		opened.Stderr = func() string { return "" }
		return s, opened, nil
	}
	o.Events(remote.Event{Stage: remote.StageStart, Text: ch.Why})
	begin := o.Now()
	t, how, err := launch(ctx, r, rep, ch, &opened)
	if err != nil {
		return nil, opened, err
	}
	o.Events(remote.Event{Stage: remote.StageStart, Text: opened.text(), Done: true, Took: o.Now().Sub(begin)})
	if rep.Linger.Kills && (opened.Started || ch.Action == Start) && opened.Note == "" {
		opened.Note = "this host ends everything of a user who logged out: ask for `loginctl enable-linger`, or turns end with your last session"
	}
	s, err := handshake(ctx, t, o, how, ch.Candidate.Kind == Towline && !ch.Plain)
	if err != nil {
		t.close()
		return nil, opened, err
	}
	opened.Resumable = rpc.Resumes(s)
	return s, opened, nil
}

// launch runs open.sh until the channel is the program's; how is its framing.
func launch(ctx context.Context, r Remote, rep Report, ch Choice, opened *Opened) (t *talk, how string, err error) {
	o := rep.o.withDefaults()
	extra, err := exports(rep, ch)
	if err != nil {
		return nil, "", &config.Problem{Stage: remote.StageStart, Err: err, Hints: []string{"check SetEnv in ssh_config"}, Exit: config.ExitConfig}
	}
	yes := map[bool]string{true: "yes", false: "no"}
	t, err = start(ctx, r, o, "open", []variable{
		{"tl_kind", string(ch.Candidate.Kind)},
		{"tl_bin", ch.Candidate.Path},
		{"tl_stdio", yes[ch.Action == Stdio]},
		{"tl_forget", yes[ch.Forget]},
		{"tl_sock", ch.Candidate.Socket},
		{"tl_dir", runDir(rep)},
		{"tl_wait", strconv.Itoa(max(1, int(o.StartTimeout/poll)))},
		{"tl_envt", seconds(o.EnvTimeout)},
		{"", extra},
	}, remote.ExecOptions{ForwardAgent: ch.ForwardAgent})
	if err != nil {
		return nil, "", err
	}
	opened.Stderr = t.lastWords
	if how, err = begun(t, o, opened); err != nil {
		t.close()
		return nil, "", err
	}
	return t, how, nil
}

// directTimeout bounds the attempt to reach a daemon without a program between.
const directTimeout = 5 * time.Second

// throughServer opens the socket of a daemon that runs through the SSH server itself:
// a process less in the way of every message. Servers may forbid it and the
// daemon may be gone, which the usual way finds out and explains. A forwarded
// agent needs the session of a command.
func throughServer(ctx context.Context, r Remote, rep Report, ch Choice) (rpc.Stream, bool) {
	d, ok := r.(interface {
		DialUnix(ctx context.Context, path string) (net.Conn, error)
	})
	if !ok || ch.Action != Join || ch.Candidate.Kind != Towline || ch.Plain || ch.ForwardAgent {
		return nil, false
	}
	socket := ch.Candidate.Socket
	if socket == "" {
		socket = homeSocket(rep, ch)
	}
	if !path.IsAbs(socket) {
		return nil, false
	}
	o := rep.o.withDefaults()
	begin := o.Now()
	ctx, cancel := context.WithTimeout(ctx, directTimeout)
	defer cancel()
	c, err := d.DialUnix(ctx, socket)
	if err != nil {
		o.Log.Debug("the daemon's socket cannot be reached directly", "err", err)
		return nil, false
	}
	s, err := rpc.DialWebSocket(ctx, c, rpc.WebSocketOptions{Resume: true})
	if err != nil {
		o.Log.Debug("the daemon's socket does not answer", "err", err)
		return nil, false
	}
	o.Events(remote.Event{Stage: remote.StageStart, Text: ch.Why})
	o.Events(remote.Event{Stage: remote.StageStart, Text: Opened{Kind: Towline, Version: ch.Candidate.Version}.text(), Done: true, Took: o.Now().Sub(begin)})
	o.Events(remote.Event{Stage: remote.StageHandshake, Text: "opening the app-server's connection"})
	return s, true
}

// homeSocket is where a daemon that was started with what the probe found has
// its socket; config.Locate says the same there.
func homeSocket(rep Report, ch Choice) string {
	env := func(name string) string {
		if v := ch.Env[name]; v != "" {
			return v
		}
		return rep.Env[name]
	}
	switch {
	case env("TOWLINE_HOME") != "":
		return path.Join(env("TOWLINE_HOME"), "run/towline.sock")
	case path.IsAbs(env("XDG_RUNTIME_DIR")):
		return path.Join(env("XDG_RUNTIME_DIR"), "towline/towline.sock")
	case path.IsAbs(env("XDG_STATE_HOME")):
		return path.Join(env("XDG_STATE_HOME"), "towline/run/towline.sock")
	case path.IsAbs(rep.Home):
		return path.Join(rep.Home, ".local/state/towline/run/towline.sock")
	}
	return ""
}

func (o Opened) text() string {
	s := strings.TrimSpace(string(o.Kind) + " " + o.Version)
	switch {
	case o.CutEndsTurn:
		return s + " as a child of this connection"
	case o.Started:
		return s + " was started"
	}
	return s + " is there"
}

// runDir is where a private Codex daemon's socket and log go: a folder that
// outlives the session. What logind made goes with the last logout.
func runDir(rep Report) string {
	switch {
	case rep.StateDir != "" && !rep.ReadOnlyHome:
		return rep.StateDir + "/run"
	case path.IsAbs(rep.Env["XDG_RUNTIME_DIR"]):
		return rep.Env["XDG_RUNTIME_DIR"] + "/towline"
	}
	return ""
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// found are the variables that say where things are.
var found = []string{"TOWLINE_HOME", "CODEX_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"}

// exports writes the shell functions that set what open.sh is to set: what the
// probe found, so that a program looks where the probe looked, and what the
// caller wants.
func exports(rep Report, ch Choice) (string, error) {
	var b strings.Builder
	set := func(name, value string) {
		if name == "PATH" {
			fmt.Fprintf(&b, "tl_path=%s\n", shellQuote(value))
			return
		}
		fmt.Fprintf(&b, "%s=%s; export %s\n", name, shellQuote(value), name)
	}
	b.WriteString("known() {\n:\n")
	for _, name := range append([]string{"PATH"}, found...) {
		if v := rep.Env[name]; v != "" {
			set(name, v)
		}
	}
	b.WriteString("}\nextra() {\n:\n")
	for _, name := range slices.Sorted(maps.Keys(ch.Env)) {
		if v := ch.Env[name]; !envName.MatchString(name) || strings.HasPrefix(name, "tl_") || strings.ContainsRune(v, 0) {
			return "", fmt.Errorf("%q cannot be an environment variable", printable(name))
		}
		set(name, ch.Env[name])
	}
	b.WriteString("}\n")
	return b.String(), nil
}

// begun listens to open.sh until the channel is the program's. how is its
// framing: "ws" or "lines".
func begun(t *talk, o Options, opened *Opened) (how string, err error) {
	for {
		a, err := t.next()
		if err != nil {
			var p *config.Problem
			if errors.As(err, &p) && p.Stage == remote.StageProbe {
				p.Stage = remote.StageStart
			}
			return "", err
		}
		switch a.key {
		case "stage", "trying", "wait":
			o.Events(remote.Event{Stage: remote.StageStart, Text: a.text, Detail: true})
		case "env.note":
			o.Events(remote.Event{Stage: remote.StageStart, Text: "login environment: " + a.text, Detail: true})
		case "started":
			opened.Started = true
		case "bare":
			opened.Note = cutNote + " (" + a.text + ")"
		case "fail":
			_, text, _ := strings.Cut(a.text, " ")
			return "", &config.Problem{
				Stage: remote.StageStart, Err: errors.New(text), Exit: config.ExitUnavailable,
				Hints: []string{"see what is there now: `towline doctor " + o.host() + "`"},
			}
		case "go":
			if a.text == "lines" {
				opened.CutEndsTurn = opened.Kind == Codex
				if opened.Note == "" && opened.CutEndsTurn {
					opened.Note = cutNote
				}
			}
			return a.text, nil
		}
	}
}

// handshake makes a Stream of a channel that is the program's now.
func handshake(ctx context.Context, t *talk, o Options, how string, resume bool) (rpc.Stream, error) {
	if err := t.free(); err != nil {
		return nil, t.lost(err)
	}
	c := &channel{t: t}
	if how == "lines" {
		return rpc.NewLines(c), nil
	}
	o.Events(remote.Event{Stage: remote.StageHandshake, Text: "opening the app-server's connection"})
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, fmt.Errorf("no answer within %v", handshakeTimeout))
	defer cancel()
	s, err := rpc.DialWebSocket(ctx, c, rpc.WebSocketOptions{Resume: resume})
	if err != nil {
		return nil, t.unanswered(err)
	}
	o.Events(remote.Event{Stage: remote.StageHandshake, Text: "the app-server's end answers", Detail: true})
	return s, nil
}

// unanswered is the Problem of a program that was started and did not connect
// us. What it said on standard error is the cause.
func (t *talk) unanswered(cause error) error {
	p := &config.Problem{Stage: remote.StageHandshake, Err: cause, Exit: config.ExitUnavailable}
	if errors.Is(cause, context.Canceled) {
		t.close()
		return p
	}
	t.hearOut()
	t.close() // all of stderr is here
	ended := t.ended
	said, advised := t.complaint()
	var refused *rpc.HandshakeError
	host := t.o.host()
	switch {
	case errors.As(cause, &refused):
		p.Hints = []string{"see what is there: `towline doctor " + host + "`"}
	case said != "" || outcome(ended) != "":
		p.Stage = remote.StageStart
		p.Err = errors.New("the app-server's program ended" + outcome(ended) + quoted(said))
		for _, a := range advised {
			p.Hints = append(p.Hints, "on "+host+": "+a)
		}
		p.Hints = append(p.Hints, "see every step: `towline doctor "+host+"`")
	default:
		p.Err = fmt.Errorf("the app-server does not answer: %w", cause)
		p.Hints = []string{"see every step: `towline doctor " + host + "`"}
	}
	return p
}

// complaint is what the program at the other end said besides, and what it
// advised.
func (t *talk) complaint() (said string, advised []string) { return complaint(t.stderr.text()) }

// lastWords is what it said, for those who have their own advice.
func (t *talk) lastWords() string {
	said, _ := t.complaint()
	return said
}

// maxAdvised is how much advice of a program is passed on.
const maxAdvised = 8

// complaint is what a program said that a person should read: Codex prints
// warnings and a backtrace of unknowns around the one line that matters, and
// Towline what to do, which is to be done there.
func complaint(text string) (said string, advised []string) {
	var out []string
	for _, l := range lines(text) {
		switch {
		case strings.HasPrefix(l, "WARNING:"), strings.HasPrefix(l, "Stack backtrace"), unknownFrame.MatchString(l), l == "Caused by:":
			continue
		}
		if a, ok := strings.CutPrefix(l, "hint: "); ok {
			if len(advised) < maxAdvised {
				advised = append(advised, a)
			}
			continue
		}
		out = append(out, strings.TrimPrefix(l, "error: "))
	}
	return quote(out, true), advised
}

var unknownFrame = regexp.MustCompile(`^\d+: `)

// channel is the command's input and output as one. Its Close ends the command;
// one that ended by itself is heard out first, for its last words.
type channel struct {
	t   *talk
	eof atomic.Bool
}

func (c *channel) Read(p []byte) (int, error) {
	n, err := c.t.r.Read(p)
	if err != nil {
		c.eof.Store(true)
	}
	return n, err
}

func (c *channel) Write(p []byte) (int, error) { return c.t.p.Stdin().Write(p) }

func (c *channel) Close() error {
	if c.eof.Load() {
		c.t.hearOut()
	}
	c.t.close()
	return nil
}
