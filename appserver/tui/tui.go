// Package tui is the terminal client of the app-server protocol: the screen a
// person sees when they attach to a host.
//
// It is a thin client. It holds no thread of its own and decides nothing: it
// dials an app-server, resumes or starts a thread, draws what it is told, and
// sends what is typed. It works against a Towline gate, whose extension methods
// it uses, and against a stock `codex app-server`, which answers those with an
// error and then simply has less to show.
//
// Start at [Run]. One Bubble Tea model (model.go) owns everything on the
// screen; the rest are plain structs with methods. Nothing in Update does I/O:
// commands do, through the link (link.go), which also brings in what the server
// sends without ever making it wait.
package tui

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Config is everything Run needs. In and Out are required, and one of Dial and
// Connect.
type Config struct {
	// Dial opens a fresh connection to the app-server, at the start and again
	// after each loss.
	Dial func(ctx context.Context) (rpc.Stream, error)
	// Connect makes a connection that takes steps worth watching and may ask
	// questions, before Dial can be: what it returns has the Dial to use. It runs
	// behind a screen of its own. When it fails, the person may have it run again;
	// when they do not, its error is Run's. Its context ends when they leave.
	Connect func(ctx context.Context, c Connecting) (Opened, error)
	// In and Out are the terminal. The end of In ends the program.
	In  io.Reader
	Out io.Writer
	// Environ describes the terminal (TERM, COLORTERM, NO_COLOR, …). The
	// process's own environment is never consulted.
	Environ []string
	// Size is the terminal's size at the start, Sizes what follows. A nil Sizes
	// means that Out is a real terminal, which is then watched directly.
	Size  Size
	Sizes <-chan Size

	// Thread opens that thread; NewThread a fresh one. Neither: where the
	// person was last, or the list of threads.
	Thread    protocol.ThreadID
	NewThread bool

	// Host and Project are what to call the other end until it says so itself.
	Host, Project string
	// Version is this build's, told to the server.
	Version string
	// OpenURL opens a page in the browser of this machine, when the host is this
	// machine; nil when it is another, whose logins a browser here cannot complete.
	OpenURL func(url string) error
	// ReattachHint is what to type to come back, e.g. "ssh -p 2222 host".
	ReattachHint string
	// EndWhenRefused makes an error of Dial that matches rpc.ErrRefused the end of
	// Run, also when the host had let us in before: nobody at this screen can mend it.
	EndWhenRefused bool
	Log            *slog.Logger

	clock func() time.Time // of tests; nil is time.Now
}

// Size is a terminal's size in cells.
type Size struct{ Cols, Rows int }

// Result is what remains when the screen is gone.
type Result struct {
	Thread  protocol.ThreadID // the thread that was open, "" when none was
	Working bool              // it was still working
	Text    string            // one line to print after the screen is restored
}

// Run shows the client until the person leaves, In ends, or ctx does, which
// makes it return at once with ctx's cause. The connection's end is not the
// client's: it says so on the screen and dials again. Only when the very first
// attempt fails does Run give up, with that error, because whoever called it can
// explain more than a banner.
//
// Neither a read from In nor a write to Out can be interrupted, so after Run has
// returned one of each may still be in progress until their owner closes them.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	runCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var p *tea.Program
	l := &link{ctx: runCtx, cfg: &cfg, box: newInbox()}
	l.person = &connector{ctx: runCtx, send: func(msg tea.Msg) { p.Send(msg) }, release: l.release}
	n, profile := colours(cfg.Environ)
	m := newModel(&cfg, l, n)

	started := make(chan struct{}) // p is set
	ended := func() {
		<-started
		p.Send(endMsg{})
	}
	opts := []tea.ProgramOption{
		tea.WithContext(runCtx), tea.WithEnvironment(cfg.Environ), tea.WithColorProfile(profile),
		tea.WithWindowSize(m.w, m.h),
	}
	out := newOutput(runCtx, cfg.Out)
	if f := terminalFile(cfg.Out); f != nil && cfg.Sizes == nil {
		opts = append(opts, tea.WithOutput(ttyOutput{f, out}))
	} else {
		out.crlf = true
		opts = append(opts, tea.WithOutput(out))
	}
	var in *input
	if f := terminalFile(cfg.In); f != nil && cfg.Sizes == nil {
		opts = append(opts, tea.WithInput(ttyInput{f, func() { go ended() }}))
	} else {
		in = pump(runCtx, cfg.In)
		opts = append(opts, tea.WithInput(silent{runCtx}))
	}
	if cfg.Sizes != nil {
		opts = append(opts, tea.WithoutSignalHandler())
	}
	p = tea.NewProgram(m, opts...)
	m.send = p.Send
	close(started)

	var wg sync.WaitGroup
	wg.Go(func() { l.feed(p.Send) })
	if in != nil {
		wg.Go(func() { in.decode(getenv(cfg.Environ, "TERM"), cfg.Log, p.Send) })
	}
	if cfg.Sizes != nil {
		wg.Go(func() { follow(runCtx, cfg.Sizes, p.Send) })
	}
	_, err := p.Run()
	if !m.leaving {
		m.result = m.farewell()
	}
	cancel(errDone)
	wg.Wait()
	l.wait()
	if ctx.Err() != nil {
		return m.result, context.Cause(ctx)
	}
	if m.fatal != nil {
		return Result{}, m.fatal
	}
	if err != nil && !m.leaving {
		return m.result, err
	}
	return m.result, nil
}

var errDone = errors.New("the client has ended")

// follow tells the program about the terminal's size.
func follow(ctx context.Context, sizes <-chan Size, send func(tea.Msg)) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			send(tea.WindowSizeMsg{Width: s.Cols, Height: s.Rows})
		case <-ctx.Done():
			return
		}
	}
}
