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
	"io"
	"log/slog"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Config is everything Run needs. Dial, In and Out are required.
type Config struct {
	// Dial opens a fresh connection to the app-server, at the start and again
	// after each loss.
	Dial func(ctx context.Context) (rpc.Stream, error)
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
	// ReattachHint is what to type to come back, e.g. "ssh -p 2222 host".
	ReattachHint string
	Log          *slog.Logger
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
// client's: it says so on the screen and dials again.
func Run(ctx context.Context, cfg Config) (Result, error) {
	return Result{}, context.Cause(ctx)
}
