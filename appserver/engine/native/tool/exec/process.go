package exec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	osexec "os/exec"
	"sync"
	"syscall"
	"time"

	"towline/appserver/engine/native/sandbox"
)

// Process is one running or finished command. Its methods are safe for
// concurrent use.
type Process struct {
	id  string
	cmd Command
	log *slog.Logger
	// patience is writeTimeout except in tests.
	patience time.Duration
	child    *osexec.Cmd
	readers  []reader
	started  time.Time
	exited   chan struct{} // the command itself has ended
	done     chan struct{} // and its output is complete, its children are gone

	// writing serialises writers: input of one call must not be interleaved with
	// another's. Taken before mu.
	writing sync.Mutex

	mu      sync.Mutex
	stdin   *os.File // nil when closed or absent; the terminal's own side with TTY
	tty     *os.File // nil without TTY
	reaped  bool     // the pid may belong to somebody else from now on
	code    int
	ended   time.Time
	out     clip
	err     clip
	all     clip
	fresh   clip // since the last Take
	killing bool
}

// reader is our end of one output stream.
type reader struct {
	stream string
	f      *os.File
}

// piece is output on its way from a reader to run.
type piece struct {
	stream string
	data   []byte
}

// ID names the process within its manager: a number that is not reused, except
// by Command.Instead.
func (p *Process) ID() string { return p.id }

// Pid is the process id of the command (or of the sandbox helper that becomes it).
func (p *Process) Pid() int { return p.child.Process.Pid }

// Command is what was started.
func (p *Process) Command() Command { return p.cmd }

// Done is closed when the command has ended, its output is complete and its
// children are gone.
func (p *Process) Done() <-chan struct{} { return p.done }

func (p *Process) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// ExitCode is the exit status once Done is closed, 128 plus the signal's number
// for a killed process, -1 before.
func (p *Process) ExitCode() int {
	if !p.over() {
		return -1
	}
	return p.code
}

// Duration is how long the process has run, or ran.
func (p *Process) Duration() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended.IsZero() {
		return time.Since(p.started)
	}
	return p.ended.Sub(p.started)
}

// Output is stdout and stderr as they came, with a note in the middle and true
// when some was left out.
func (p *Process) Output() (text string, truncated bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.text()
}

// Stdout is what went to stdout, or to the terminal.
func (p *Process) Stdout() (text string, truncated bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.text()
}

// Stderr is what went to stderr.
func (p *Process) Stderr() (text string, truncated bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err.text()
}

// Take waits until the process ends, yield has passed or ctx ends, whichever is
// first, and returns the output since the last Take, about limit bytes at most
// with a note where the middle was left out (0: no limit). exited tells that
// nothing more will come.
func (p *Process) Take(ctx context.Context, yield time.Duration, limit int) (text string, exited bool) {
	timer := time.NewTimer(yield)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	case <-ctx.Done():
	}
	exited = p.over() // before the text: what comes after it must not be lost
	p.mu.Lock()
	defer p.mu.Unlock()
	text, _ = p.fresh.text()
	p.fresh.reset()
	return shorten(text, limit), exited
}

// Write sends b to the process's stdin or terminal. It waits up to ten seconds
// for a process that does not read, then fails with ErrStuck.
func (p *Process) Write(b []byte) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	f := p.stdin
	p.mu.Unlock()
	switch {
	case p.over():
		return ErrExited
	case f == nil:
		return ErrNoStdin
	}
	if err := f.SetWriteDeadline(time.Now().Add(p.patience)); err != nil {
		return fmt.Errorf("write to process %s: %w", p.id, err)
	}
	_, err := f.Write(b)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrStuck
	case errors.Is(err, os.ErrClosed), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.EIO):
		if p.over() {
			return ErrExited
		}
		return ErrNoStdin
	}
	return fmt.Errorf("write to process %s: %w", p.id, err)
}

// CloseStdin ends the process's input; on a terminal it types ^D.
func (p *Process) CloseStdin() {
	if p.cmd.TTY {
		_ = p.Write([]byte{4}) // a process that is gone needs no end of input
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stdin != nil {
		_ = p.stdin.Close() // the reader sees the end either way
		p.stdin = nil
	}
}

// Resize changes the terminal's size; without a terminal it does nothing.
func (p *Process) Resize(rows, cols uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tty == nil {
		return nil
	}
	return setSize(p.tty, rows, cols)
}

// Kill ends the process and its children at once. It does not wait: see Done.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killing = true
	if p.child != nil && p.child.Process != nil && !p.reaped {
		killTree(p.child.Process.Pid)
	}
}

// start makes the pipes or the terminal and starts the command. On failure
// nothing is left open.
func (p *Process) start(base []string, box *sandbox.Runner) (err error) {
	c := p.cmd
	env := environment(base, c.Env, c.TTY)
	path, err := lookPath(c.Argv[0], c.Cwd, env)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("%s is not an executable file", c.Argv[0])
		}
		return fmt.Errorf("there is no program %q", c.Argv[0])
	}
	child := &osexec.Cmd{Path: path, Args: c.Argv, Dir: c.Cwd, Env: env}
	child.SysProcAttr = newSession(c.TTY)
	var theirs []*os.File
	defer func() {
		closeAll(theirs)
		if err != nil {
			for _, r := range p.readers {
				_ = r.f.Close() // never used
			}
			if p.stdin != nil && p.stdin != p.tty {
				_ = p.stdin.Close() // never used
			}
		}
	}()
	if c.TTY {
		theirs, err = p.openTerminal(child)
	} else {
		theirs, err = p.openPipes(child)
	}
	if err != nil {
		return err
	}
	if box != nil {
		err = box.Confine(child, c.Policy)
	} else if sandbox.Restricted(c.Policy) {
		err = errors.New("no sandbox is set up, so only danger-full-access commands can run")
	}
	if err != nil {
		return err
	}
	p.started = time.Now()
	if err = child.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.Argv[0], err)
	}
	p.mu.Lock()
	p.child = child
	if p.killing { // Close came first
		killTree(child.Process.Pid)
	}
	p.mu.Unlock()
	p.log.Debug("process started", "id", p.id, "pid", child.Process.Pid, "tty", c.TTY)
	return nil
}

func (p *Process) openPipes(child *osexec.Cmd) (theirs []*os.File, err error) {
	if p.cmd.KeepStdin {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		theirs = append(theirs, r)
		child.Stdin, p.stdin = r, w
	}
	for _, s := range []string{"stdout", "stderr"} {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		theirs = append(theirs, w)
		p.readers = append(p.readers, reader{s, r})
		if s == "stderr" {
			child.Stderr = w
			break
		}
		child.Stdout = w
		if p.cmd.MergeOutput {
			child.Stderr = w
			break
		}
	}
	return theirs, nil
}

// run carries the output until the process has ended and nobody holds its
// output open, or until drainDelay after its end; then it reaps it and closes
// everything. It owns the goroutines it starts.
func (p *Process) run() {
	pieces := make(chan piece)
	var readers sync.WaitGroup
	for _, r := range p.readers {
		readers.Go(func() { read(r, pieces) })
	}
	var helpers sync.WaitGroup
	helpers.Go(func() {
		readers.Wait()
		close(pieces)
	})
	helpers.Go(p.await)

	exited, open := p.exited, pieces
	var late <-chan time.Time
	killed := false
	for exited != nil || open != nil {
		select {
		case c, ok := <-open:
			if !ok {
				open = nil
				continue
			}
			p.take(c)
		case <-exited:
			exited = nil
			late = time.After(drainDelay)
		case <-late:
			// First end whoever still writes, then stop listening: a process that
			// left the group on purpose may hold our pipe for ever.
			if !killed {
				killed = true
				p.mu.Lock()
				if !p.reaped {
					killGroup(p.child.Process.Pid)
				}
				p.mu.Unlock()
				late = time.After(drainDelay)
				continue
			}
			late = nil
			for _, r := range p.readers {
				_ = r.f.Close() // ends the reader
			}
		}
	}
	p.finish()
	helpers.Wait()
	p.log.Debug("process ended", "id", p.id, "code", p.code)
	close(p.done)
}

// await waits for the command to end without giving its pid back to the system,
// so that signals to the group cannot reach a stranger.
func (p *Process) await() {
	if !waitUnreaped(p.child.Process.Pid) {
		_ = p.child.Wait() // finish reads the state; the status is no error to us
		p.mu.Lock()
		p.reaped = true
		p.mu.Unlock()
	}
	close(p.exited)
}

// finish kills what is left of the group, reaps the command and closes our ends.
func (p *Process) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	killGroup(p.child.Process.Pid)
	if !p.reaped {
		_ = p.child.Wait() // it has ended: returns at once
		p.reaped = true
	}
	p.code = exitCode(p.child.ProcessState)
	p.ended = time.Now()
	for _, r := range p.readers {
		_ = r.f.Close() // read to its end, or given up
	}
	if p.stdin != nil && p.stdin != p.tty {
		_ = p.stdin.Close() // nobody reads it any more
	}
	p.stdin, p.tty = nil, nil
}

// take stores one piece of output and shows it to the caller.
func (p *Process) take(c piece) {
	p.mu.Lock()
	if c.stream == "stderr" {
		p.err.write(c.data)
	} else {
		p.out.write(c.data)
	}
	p.all.write(c.data)
	p.fresh.write(c.data)
	p.mu.Unlock()
	if p.cmd.OnOutput != nil {
		p.cmd.OnOutput(c.stream, c.data)
	}
}

// read sends a stream in pieces that end at character boundaries.
func read(r reader, pieces chan<- piece) {
	buf := make([]byte, 32<<10)
	kept := 0
	for {
		n, err := r.f.Read(buf[kept:])
		n += kept
		whole := complete(buf[:n])
		if err != nil {
			whole = n
		}
		if whole > 0 {
			pieces <- piece{r.stream, append([]byte(nil), buf[:whole]...)}
		}
		if err != nil {
			return // EOF, EIO of a terminal without users, or closed by run
		}
		kept = copy(buf, buf[whole:n])
	}
}

func exitCode(st *os.ProcessState) int {
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return st.ExitCode()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // the child has its own copies
	}
}
