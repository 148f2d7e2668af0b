package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"towline/appserver/tui"
	"towline/config"
	"towline/launcher"
	"towline/launcher/remote"
)

// connectOptions are the flags of `towline HOST`.
type connectOptions struct {
	hostOptions
	project            string
	fresh              bool // a new thread
	plain, json, codex bool
	install, noInstall bool
	goBack             bool
	binary             string
	lend               lendOptions
	tty                bool // both standard streams are terminals
	out, errOut        io.Writer
}

func (o *connectOptions) flags(c *cobra.Command) {
	o.hostOptions.flags(c)
	f := c.Flags()
	f.StringVar(&o.project, "project", "", "the remote `DIR` new threads work in (default: where you were last)")
	f.BoolVar(&o.fresh, "new", false, "begin a new thread")
	f.BoolVar(&o.plain, "plain", false, "show the connection being made as lines on standard error")
	f.BoolVar(&o.json, "json", false, "connect, print each step as a JSON object, and leave")
	f.BoolVar(&o.codex, "codex", false, "open a stock Codex UI on it (codex --remote) instead of this one")
	f.BoolVar(&o.install, "install", false, "put this version there without asking, beside any other")
	f.StringVar(&o.binary, "binary", "", "put `FILE` there, a towline for the host's system, instead of this program")
	f.BoolVar(&o.noInstall, "no-install", false, "do not ask to put this program there")
	f.BoolVar(&o.goBack, "rollback", false, "go back to the version that was there before the last --install, and leave")
	o.lend.flags(c)
}

func newConnect() *cobra.Command {
	var o connectOptions
	c := &cobra.Command{
		Use:   "connect HOST",
		Short: "Work on a host over SSH (the same as `towline HOST`)",
		Long: "connect opens the UI on a host that your ssh configuration names, or that ssh\n" +
			"could reach. It needs nothing there but SSH: a Towline or Codex app-server that\n" +
			"runs there is joined, one that is installed is started, and where there is\n" +
			"neither this program offers to put itself there. Nothing listens on a new port.\n\n" +
			"With --lend-credentials the host works with this machine's ChatGPT login: it gets\n" +
			"tokens that end soon, keeps them in memory, and has none when you leave. With\n" +
			"--lend-network a host without a way out reaches its model through this machine,\n" +
			"over the same connection, and nothing else.\n\n" +
			"A name that is also a command is reached with `towline connect NAME`.",
		Example: "  towline dev-server\n  towline dev-server --project ~/src/shop\n  towline connect dev-server --install\n  towline dev-server --codex\n" +
			"  towline dev-server --lend-credentials --lend-network",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return runConnect(cmd, &o, args[0]) },
	}
	o.flags(c)
	return c
}

// runConnect is `towline HOST`, whichever way it was typed.
func runConnect(cmd *cobra.Command, o *connectOptions, host string) error {
	o.tty = term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
	o.out, o.errOut = cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := o.check(host); err != nil {
		return err
	}
	log, done, err := o.verboseLog(o.errOut)
	if err != nil {
		return err
	}
	defer done()
	lc, err := o.launcher(host, log)
	if err != nil {
		return err
	}
	switch {
	case o.install:
		lc.Install = launcher.InstallAlways
		if o.binary != "" {
			lc.Build = fileBuild(o.binary)
		}
	case o.binary != "":
		return wrongUse("connect", "--binary says what to put there", "add --install")
	case o.noInstall:
		lc.Install = launcher.InstallNever
	}
	ctx := cmd.Context()
	if err := o.lend.prepare(ctx, host, lc.Log, os.Stderr); err != nil {
		return err
	}
	defer o.lend.close()
	lc.LendsLogin = o.lend.credentials
	switch {
	case o.goBack:
		return goBackTo(ctx, lc, o)
	case o.json:
		return connectJSON(ctx, lc, o)
	case o.codex:
		return connectCodex(ctx, lc, o)
	case o.plain:
		return connectPlain(ctx, lc, o)
	}
	return connectScreen(ctx, lc, o)
}

func (o *connectOptions) check(host string) error {
	wrong := func(text, hint string) error { return wrongUse("connect", text, hint) }
	n := 0
	for _, set := range []bool{o.install, o.noInstall, o.goBack} {
		if set {
			n++
		}
	}
	if n > 1 {
		return wrong("--install, --no-install and --rollback exclude each other", "name one of them")
	}
	if o.goBack && o.lend.wanted() {
		return wrong("--rollback leaves at once, so there is nothing to lend", "lend when you connect")
	}
	if o.json && o.codex {
		return wrong("--json and --codex exclude each other", "for a script, use `towline bridge "+host+" --json`")
	}
	if !o.tty && !o.json && !o.goBack {
		return wrong("the UI needs a terminal", "for a script: `towline bridge "+host+"`, or `towline connect "+host+" --json` to see whether it can be reached")
	}
	return nil
}

func wrongUse(command, text, hint string) error {
	return &config.Problem{Stage: command, Err: errors.New(text), Hints: []string{hint}, Exit: config.ExitUsage}
}

// connectScreen makes the connection behind the UI's own screen.
func connectScreen(ctx context.Context, lc launcher.Config, o *connectOptions) error {
	u := &ui{cfg: lc, o: o}
	return runUI(ctx, o, openUI{Host: lc.Host, ComeBack: o.comeBack(lc.Host)}, tui.Config{
		Connect: u.connect, NewThread: o.fresh, Host: lc.Host, Project: o.project,
	})
}

// connectPlain makes it as lines, then opens the UI.
func connectPlain(ctx context.Context, lc launcher.Config, o *connectOptions) error {
	who := o.lines(o.errOut)
	s, err := launcher.Connect(ctx, through(lc, who))
	if err != nil {
		return err
	}
	u := &ui{cfg: lc, o: o}
	l, err := o.lend.begin(ctx, s, lc.Host, lc.Log, func(text string) { who.Notice("", text) })
	if err != nil {
		return errors.Join(err, s.Close())
	}
	err = runUI(ctx, o, openUI{Host: lc.Host, ComeBack: o.comeBack(lc.Host)}, tui.Config{
		NewThread: o.fresh, Host: lc.Host, Project: o.project,
		Connect: func(_ context.Context, c tui.Connecting) (tui.Opened, error) {
			who.to(c)
			return u.opened(l), nil
		},
	})
	who.hush()
	return errors.Join(err, l.end())
}

// comeBack is what to type to get to the same place again.
func (o *connectOptions) comeBack(host string) string {
	s := "towline " + shellWord(host)
	if o.sshConfig != "" {
		s += " -F " + shellWord(o.sshConfig)
	}
	if o.transport != "" {
		s += " --transport " + o.transport
	}
	return s + o.lend.args()
}

// runUI opens the UI until the person leaves.
func runUI(ctx context.Context, o *connectOptions, self openUI, c tui.Config) error {
	c.In, c.Out, c.Environ = os.Stdin, os.Stdout, os.Environ()
	c.Version, c.ReattachHint, c.Log = version(), self.ComeBack, slog.New(slog.DiscardHandler)
	d := watchDetach(ctx, o.paths, self)
	defer d.close()
	res, err := tui.Run(d.ctx, c)
	if d.asked() || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		err = nil
	}
	if err == nil && res.Text != "" {
		fmt.Fprintln(o.out, res.Text)
	}
	return err
}

// connectJSON connects, says so step by step, and leaves: whether a host can be
// worked on, for scripts.
func connectJSON(ctx context.Context, lc launcher.Config, o *connectOptions) error {
	enc := json.NewEncoder(o.out)
	var mu sync.Mutex
	lc.Ask = nil // a script answers nothing
	lc.Events = func(e remote.Event) {
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(stepJSON(e)) // whoever reads has gone: the connection is still tried
	}
	s, err := launcher.Connect(ctx, lc)
	var l *lent
	if err == nil {
		if l, err = o.lend.begin(ctx, s, lc.Host, lc.Log, func(string) {}); err != nil {
			err = errors.Join(err, s.Close())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if err != nil {
		return errors.Join(err, enc.Encode(problemJSON(err)))
	}
	info := s.Info()
	err = enc.Encode(readyHost{
		Ready: true, Host: lc.Host, Target: info.Target.User + "@" + info.Target.HostName, Server: info.Server,
		Kind: string(info.Opened.Kind), Version: info.Opened.Version, OS: info.Report.OS, Arch: info.Report.Arch,
		CutEndsTurn: info.Opened.CutEndsTurn, Resumable: info.Opened.Resumable, Notice: info.Choice.Skew.Notice, Blocked: info.Choice.Skew.Block,
		Lent: l.word,
	})
	return errors.Join(err, l.end())
}

// step is one line of `--json`. Scripts rely on it.
type step struct {
	Stage   string `json:"stage"`
	Hop     string `json:"hop"`
	Text    string `json:"text,omitempty"`
	Detail  bool   `json:"detail,omitempty"`
	Waiting bool   `json:"waiting,omitempty"`
	Done    bool   `json:"done"`
	Error   string `json:"error,omitempty"`
	TookMS  int64  `json:"tookMs,omitempty"`
}

func stepJSON(e remote.Event) step {
	s := step{Stage: e.Stage, Hop: e.Hop, Text: e.Text, Detail: e.Detail, Waiting: e.Waiting, Done: e.Done, TookMS: e.Took.Milliseconds()}
	if e.Err != nil {
		s.Error = e.Err.Error()
	}
	return s
}

// problemLine is how a command with --json tells an error on standard output.
type problemLine struct {
	Stage string   `json:"stage"`
	Error string   `json:"error"`
	Hints []string `json:"hints"`
	Exit  int      `json:"exit"`
}

func problemJSON(err error) problemLine {
	out := problemLine{Error: err.Error(), Hints: config.Hints(err), Exit: config.ExitCode(err)}
	var p *config.Problem
	if errors.As(err, &p) {
		out.Stage, out.Error = p.Stage, p.Err.Error()
	}
	return out
}

// readyHost is the last line of `--json` when all went well.
type readyHost struct {
	Ready       bool   `json:"ready"`
	Host        string `json:"host"`
	Target      string `json:"target"`
	Server      string `json:"server"`
	Kind        string `json:"kind"`
	Version     string `json:"version"`
	OS          string `json:"os"`
	Arch        string `json:"arch"`
	CutEndsTurn bool   `json:"cutEndsTurn"`
	Resumable   bool   `json:"resumable"`
	Notice      string `json:"notice,omitempty"`
	Blocked     bool   `json:"blocked,omitempty"`
	Lent        string `json:"lent,omitempty"` // what was lent, and taken back again
}

// goBackTo undoes the last update of a host's Towline.
func goBackTo(ctx context.Context, lc launcher.Config, o *connectOptions) error {
	ch, err := launcher.Rollback(ctx, through(lc, o.lines(o.errOut)))
	if err == nil {
		fmt.Fprintf(o.out, "%s uses towline %s again\n", lc.Host, printable(ch.Candidate.Version))
		if ch.Skew.Notice != "" {
			fmt.Fprintf(o.errOut, "note: %s\n", printable(ch.Skew.Notice))
		}
	}
	return err
}
