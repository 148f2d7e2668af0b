// Package exec runs processes for the agent and its clients: over pipes or a
// terminal, with bounded output, for one call or across many.
//
// A [Manager] belongs to one thread (or one connection) and owns everything it
// started: closing it kills every process with its children and waits. A
// command's children end with it: what is still in its process group when it
// exits is given a moment to finish its output and then killed.
package exec

import (
	"errors"
	"log/slog"
	"time"

	"towline/appserver/engine/native/sandbox"
	"towline/appserver/protocol"
)

// Limits.
const (
	// MaxProcesses bounds the processes of one Manager that run at once, and
	// likewise the exited ones it remembers.
	MaxProcesses = 64
	// DefaultOutputCap is how many bytes of output are kept per stream; the
	// middle goes first.
	DefaultOutputCap = 1 << 20
	// drainDelay is how long children that outlive their command may still
	// write to its output before they are killed.
	drainDelay = 500 * time.Millisecond
	// writeTimeout bounds a Write to a process that does not read.
	writeTimeout = 10 * time.Second
)

// Errors callers may want to tell apart.
var (
	ErrTooMany = errors.New("too many processes run at once: end one first")
	ErrClosed  = errors.New("the thread's processes were shut down")
	ErrExited  = errors.New("the process has exited")
	ErrNoStdin = errors.New("the process has no open stdin")
	ErrStuck   = errors.New("the process does not read its input")
)

// Config is what a Manager needs.
type Config struct {
	Sandbox *sandbox.Runner
	// Env gives the environment commands start from, already free of secrets;
	// it is asked at each start. Nil means a minimal one (PATH, HOME, …).
	Env func() []string
	Log *slog.Logger
}

// Command says what to run.
type Command struct {
	Argv   []string
	Cwd    string   // absolute
	Env    []string // added to the manager's, winning over it
	TTY    bool
	Rows   uint16 // of the terminal; 0 means 24x80
	Cols   uint16
	Policy protocol.SandboxPolicy
	// OutputCap is how many bytes are kept per stream and in all;
	// 0 means DefaultOutputCap.
	OutputCap int64
	// KeepStdin leaves stdin open for Write; otherwise it is /dev/null. A
	// terminal always has stdin.
	KeepStdin bool
	// MergeOutput puts stderr on the same pipe as stdout, so that what is read is
	// in the order it was written; all of it is then stdout.
	MergeOutput bool
	// Instead is the id of an exited process this one takes the place of, id
	// and all: to its owner the same thing, tried again. "" for a new one.
	Instead string
	// OnOutput is called for each piece of output, in order, never concurrently
	// for one process, with stream "stdout" or "stderr" (a terminal has only
	// stdout). Pieces end at UTF-8 boundaries where the output is UTF-8. It must
	// not block for long nor keep chunk; no call comes after Done is closed.
	OnOutput func(stream string, chunk []byte)
}
