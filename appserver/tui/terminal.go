package tui

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/charmbracelet/colorprofile"
	"golang.org/x/term"
)

// colours is how many colours the terminal described by environ shows. Only
// environ counts: the process may be a daemon with a terminal of its own, or none.
func colours(environ []string) (int, colorprofile.Profile) {
	env := map[string]string{}
	for _, e := range environ {
		if k, v, ok := strings.Cut(e, "="); ok {
			env[k] = v
		}
	}
	if env["NO_COLOR"] != "" || env["TERM"] == "" || env["TERM"] == "dumb" {
		return 0, colorprofile.ASCII
	}
	switch p := colorprofile.Env(environ); p {
	case colorprofile.TrueColor:
		return 1 << 24, p
	case colorprofile.ANSI256:
		return 256, p
	case colorprofile.ANSI:
		return 16, p
	}
	return 0, colorprofile.ASCII
}

// input reads the terminal for the program and tells of its end. Its Read ends
// with ctx even when In's does not: what In gives then is lost with the screen.
type input struct {
	ctx   context.Context
	data  chan []byte
	rest  []byte
	ended func()
}

// pump copies In, in a goroutine of its own that ends with In: nothing can
// interrupt a read in progress, so whoever owns In ends it.
func pump(ctx context.Context, in io.Reader, ended func()) *input {
	r := &input{ctx: ctx, data: make(chan []byte), ended: ended}
	go func() {
		defer ended()
		defer close(r.data)
		for {
			buf := make([]byte, 4096)
			n, err := in.Read(buf)
			if n > 0 {
				select {
				case r.data <- buf[:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return r
}

func (r *input) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		select {
		case b, ok := <-r.data:
			if !ok {
				return 0, io.EOF
			}
			r.rest = b
		case <-r.ctx.Done():
			return 0, io.EOF
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// output writes to the terminal and gives up when ctx ends: a terminal that is
// gone must not hold the program.
//
// Where Out is no terminal of this machine, Bubble Tea writes for one whose
// driver makes "\r\n" of "\n". The terminals at the other end of a network have
// no such driver, so it is done here; done twice it does no harm.
type output struct {
	ctx  context.Context
	w    io.Writer
	crlf bool
	mu   sync.Mutex // one write at a time
	done chan error // of the write in progress; capacity 1
	busy bool
}

func newOutput(ctx context.Context, w io.Writer) *output {
	return &output{ctx: ctx, w: w, done: make(chan error, 1)}
}

var errGone = errors.New("the terminal is gone")

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy {
		return 0, errGone // an earlier write never came back
	}
	buf := append([]byte(nil), p...) // the write may outlive this call
	if o.crlf {
		buf = bytes.ReplaceAll(buf, []byte("\n"), []byte("\r\n"))
	}
	go func() { _, err := o.w.Write(buf); o.done <- err }()
	select {
	case err := <-o.done:
		if err != nil {
			return 0, err
		}
		return len(p), nil
	case <-o.ctx.Done():
		o.busy = true
		return 0, errGone
	}
}

// ttyOutput is output that is still known as the terminal it is.
type ttyOutput struct {
	*os.File
	o *output
}

func (t ttyOutput) Write(p []byte) (int, error) { return t.o.Write(p) }

// ttyInput is a real terminal whose end ends the program.
type ttyInput struct {
	*os.File
	ended func()
}

func (t ttyInput) Read(p []byte) (int, error) {
	n, err := t.File.Read(p)
	if err != nil || n == 0 {
		t.ended()
	}
	return n, err
}

// terminalFile is f as a terminal, nil when it is none.
func terminalFile(f any) *os.File {
	if f, ok := f.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}
