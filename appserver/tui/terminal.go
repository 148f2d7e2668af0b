package tui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	uv "github.com/charmbracelet/ultraviolet"
	"golang.org/x/term"
)

// getenv is a variable of the terminal's environment.
func getenv(environ []string, name string) (v string) {
	for _, e := range environ {
		if k, val, ok := strings.Cut(e, "="); ok && k == name {
			v = val
		}
	}
	return v
}

// colours is how many colours the terminal described by environ shows. Only
// environ counts: the process may be a daemon with a terminal of its own, or none.
func colours(environ []string) (int, colorprofile.Profile) {
	if t := getenv(environ, "TERM"); getenv(environ, "NO_COLOR") != "" || t == "" || t == "dumb" {
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

// darkBy is what the environment says of the background, before the terminal
// itself was heard: some set COLORFGBG to "foreground;background", as numbers of
// the sixteen colours. Without it, dark is the better guess.
func darkBy(environ []string) bool {
	v := getenv(environ, "COLORFGBG")
	bg := v[strings.LastIndexByte(v, ';')+1:]
	return bg != "7" && bg != "15"
}

// maxUnread bounds what may come from the terminal without making an event: a
// paste that never ends is the only way to get there.
const maxUnread = 16 << 20

// input reads a terminal that is not this machine's. Its Read ends with ctx even
// when In's does not: what In gives then is lost with the screen.
type input struct {
	ctx    context.Context
	data   chan []byte
	rest   []byte
	unread atomic.Int64 // bytes since the last event
}

// pump copies In, in a goroutine of its own that ends with In: nothing can
// interrupt a read in progress, so whoever owns In ends it.
func pump(ctx context.Context, in io.Reader) *input {
	r := &input{ctx: ctx, data: make(chan []byte)}
	go func() {
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
			if !ok || r.unread.Add(int64(len(b))) > maxUnread {
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

// decode turns bytes into events for the program until In ends, which it tells
// last. Bubble Tea would do this itself, but its reader waits for ever for a
// program that has ended while it had something to say. Bytes the decoder cannot
// bear end this terminal's session and nothing else.
func (r *input) decode(term string, log *slog.Logger, send func(tea.Msg)) {
	events := make(chan uv.Event)
	go func() {
		defer close(events)
		defer func() {
			if p := recover(); p != nil {
				log.Error("terminal input could not be decoded", "panic", fmt.Sprint(p))
			}
		}()
		_ = uv.NewTerminalReader(r, term).StreamEvents(r.ctx, events) // its end is the end of In
	}()
	for e := range events {
		r.unread.Store(0)
		send(e)
	}
	send(endMsg{})
}

// silent is the input Bubble Tea gets in its place: it says nothing until ctx
// ends. Bubble Tea asks the terminal questions only when it has an input.
type silent struct{ ctx context.Context }

func (s silent) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, io.EOF
}

// output writes to the terminal and soon gives up when ctx ends: a terminal that
// is gone must not hold the program.
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
	var late <-chan time.Time
	over := o.ctx.Done()
	for {
		select {
		case err := <-o.done:
			if err != nil {
				return 0, err
			}
			return len(p), nil
		case <-over:
			late, over = time.After(lastWords), nil
		case <-late:
			o.busy = true
			return 0, errGone
		}
	}
}

// lastWords is how long a write may take once the client is to end: what leaves
// the screen as it was is written then.
const lastWords = 300 * time.Millisecond

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
