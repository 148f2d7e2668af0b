package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"towline/appserver/protocol"
	runs "towline/appserver/run"
	"towline/appserver/tui/text"
)

// execVoice says what a run does: events as lines of JSON on standard output, or
// for people progress on standard error and the last message on standard output.
type execVoice struct {
	json, detached bool
	quiet          bool // the result alone
	lines          *lineWriter
	errOut         io.Writer
	plain          bool // standard output is no terminal: messages go there as they are
	colour         bool
	width          int
	said           string                   // the newest message of the agent's; the last one is for standard output
	begun          map[string]time.Duration // what was shown to have begun
	root           string                   // the folder it works in
}

// newExecVoice makes one. fail is told when standard output cannot be written.
func newExecVoice(o *execOptions, fail func(error)) *execVoice {
	v := &execVoice{
		json: o.json, detached: o.detach, quiet: o.quiet || o.detach, errOut: o.errOut, width: 100, begun: make(map[string]time.Duration),
		plain: !isTerminal(o.out), colour: o.color == "always",
	}
	if isTerminal(o.errOut) {
		v.colour = v.colour || o.color == "auto" && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		if w, _, err := term.GetSize(int(os.Stderr.Fd())); err == nil && w > 20 {
			v.width = w
		}
	}
	// A reader that goes away shall be an error here, not the end of the process. A
	// handler, and not a signal that is ignored: programs that are started would
	// ignore it as well.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	v.lines = newLineWriter(o.out, fail)
	return v
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// event is a runs.Config's.
func (v *execVoice) event(ctx context.Context, e runs.Event) {
	if v.json {
		if v.quiet {
			return
		}
		if line, err := runs.Encode(e); err == nil {
			v.lines.put(ctx, line)
		}
		return
	}
	switch {
	case e.Type == runs.Failure:
		v.say("!", text.CleanLine(e.Message))
	case e.Item != nil:
		v.item(e)
	}
}

// item shows a thing of the turn to a person.
func (v *execVoice) item(e runs.Event) {
	over := e.Type == runs.ItemCompleted
	switch b := e.Item.Body.(type) {
	case runs.Text:
		if e.Item.Type == "reasoning" {
			v.say("·", firstHeading(b.Text))
			return
		}
		v.unsaid()
		v.said = b.Text
	case runs.CommandItem:
		v.command(e, b, over)
	case runs.FilesItem:
		if over {
			v.unsaid()
			for _, c := range b.Changes {
				word := map[string]string{"add": "+", "delete": "-"}[c.Kind]
				if b.Status != protocol.ItemCompleted {
					v.say("!", "not changed: "+v.short(c.Path))
					continue
				}
				if word == "" {
					word = "~"
				}
				v.say(word, v.short(c.Path))
			}
		}
	case runs.ToolItem:
		if over {
			v.say("$", fmt.Sprintf("%s.%s: %s", b.Server, b.Tool, b.Status))
		}
	case runs.SearchItem:
		if over {
			v.say("?", "searched for "+b.Query)
		}
	case runs.TodoList:
		if !over {
			v.todo(b)
		}
	}
}

func (v *execVoice) command(e runs.Event, b runs.CommandItem, over bool) {
	if _, shown := v.begun[e.Item.ID]; !shown {
		v.unsaid()
		v.begun[e.Item.ID] = 0
		v.say("$", unwrapShell(b.Command))
	}
	if !over {
		return
	}
	delete(v.begun, e.Item.ID)
	end := strings.ReplaceAll(b.Status, "_", " ")
	if b.ExitCode != nil && *b.ExitCode != 0 {
		end = fmt.Sprintf("exit status %d", *b.ExitCode)
	}
	if e.Source != nil {
		if c, ok := e.Source.Body.(*protocol.CommandExecution); ok && c.DurationMs != nil && *c.DurationMs >= 100 {
			end += fmt.Sprintf(", %.1f s", float64(*c.DurationMs)/1000)
		}
	}
	v.say(" ", end)
}

// todo shows how far a plan is.
func (v *execVoice) todo(b runs.TodoList) {
	v.unsaid()
	done, next := 0, ""
	for _, it := range b.Items {
		if it.Completed {
			done++
		} else if next == "" {
			next = ": " + it.Text
		}
	}
	v.say("·", fmt.Sprintf("plan %d/%d%s", done, len(b.Items), next))
}

// unsaid shows the message before the newest: the last one is not among them.
func (v *execVoice) unsaid() {
	if v.said != "" {
		fmt.Fprintln(v.errOut, strings.TrimRight(text.Clean(v.said), "\n"))
		v.said = ""
	}
}

// say is one line of progress, cut to the terminal.
func (v *execVoice) say(mark, s string) {
	s = text.Truncate(text.CleanLine(s), v.width-2, "…")
	if v.colour {
		mark = "\x1b[2m" + mark + "\x1b[0m"
	}
	fmt.Fprintf(v.errOut, "%s %s\n", mark, s)
}

// note is a runs.Config's.
func (v *execVoice) note(_ context.Context, n runs.Note) {
	switch n.Kind {
	case runs.NoteBegan:
		if n.Opened != nil {
			v.root = n.Opened.Cwd
		}
		if v.json || v.detached || n.Opened == nil {
			return
		}
		o := n.Opened
		fmt.Fprintf(v.errOut, "thread %s\n", text.CleanLine(string(n.Thread)))
		v.say(" ", fmt.Sprintf("%s in %s, sandbox %s, approvals %s", o.Model, tilde(o.Cwd), sandboxWord(o.Sandbox.Type), strings.Trim(string(o.ApprovalPolicy), `"`)))
	case runs.NoteWarning:
		if !v.json {
			v.say("!", n.Text)
		}
	case runs.NoteLost:
		why := ""
		if n.Text != "" {
			why = ": " + n.Text
		}
		v.say("!", "the connection is lost; trying to get it back"+why)
	case runs.NoteBack:
		v.say("!", "the connection is back")
	case runs.NoteWaiting:
		v.say("?", "waiting for an answer (`towline approvals list`): "+execQuestion(n.Approval))
	case runs.NoteAnswered:
		who := ""
		if n.Approval.By != nil {
			who = " by " + n.Approval.By.Name
		}
		v.say("?", "answered"+who+": "+n.Approval.Decision)
	}
}

func execQuestion(a *runs.Approval) string {
	if a.Subject == "" {
		return strings.ReplaceAll(a.Kind, "_", " ")
	}
	return unwrapShell(a.Subject)
}

// result is the last that is said. It waits until all of it is written, but not for
// a reader that does not read when ctx is over.
func (v *execVoice) result(ctx context.Context, res *runs.Result) error {
	if v.json {
		line, err := runs.Encode(res)
		if err != nil {
			return err
		}
		return v.lines.close(ctx, line)
	}
	if res.Status == runs.StatusStarted {
		fmt.Fprintf(v.errOut, "it works; watch it: `towline attach %[1]s`, wait for it: `towline wait %[1]s`\n", res.ThreadID)
		return v.lines.close(ctx, []byte(res.ThreadID+"\n"))
	}
	var last []byte
	if res.Status == runs.StatusCompleted {
		message := res.Message
		if !v.plain {
			message = text.Clean(message)
		}
		if message != "" && !strings.HasSuffix(message, "\n") {
			message += "\n"
		}
		last = []byte(message)
	} else {
		v.unsaid()
	}
	err := v.lines.close(ctx, last)
	if res.TurnID != "" {
		v.say("·", execSummary(res))
	}
	return err
}

// execSummary is a result in one line.
func execSummary(r *runs.Result) string {
	parts := []string{fmt.Sprintf("%s after %v", strings.ReplaceAll(r.Status, "_", " "), (time.Duration(r.DurationMs) * time.Millisecond).Round(100*time.Millisecond))}
	if r.Usage != nil {
		parts = append(parts, fmt.Sprintf("%d tokens in, %d out", r.Usage.Input, r.Usage.Output))
	}
	for _, c := range []struct {
		n        int
		one, few string
	}{{len(r.Commands), "command", "commands"}, {len(r.Files), "file changed", "files changed"}, {len(r.Approvals), "approval", "approvals"}} {
		switch {
		case c.n == 1:
			parts = append(parts, "1 "+c.one)
		case c.n > 1:
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.few))
		}
	}
	return strings.Join(parts, "; ")
}

// firstHeading is the first line of what a model thinks, without its markup.
func firstHeading(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.Trim(line, "*# ")
}

var shellWrap = regexp.MustCompile(`^\S*/?(?:bash|zsh|sh) -l?c (.+)$`)

// unwrapShell is a command without the shell it is given to.
func unwrapShell(s string) string {
	m := shellWrap.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return s
	}
	if in := m[1]; len(in) > 1 && in[0] == '\'' && in[len(in)-1] == '\'' {
		return strings.ReplaceAll(in[1:len(in)-1], `'\''`, "'")
	}
	return m[1]
}

// short is a path as seen from the folder of the work.
func (v *execVoice) short(path string) string {
	if v.root != "" {
		if rel, err := filepath.Rel(v.root, path); err == nil && filepath.IsLocal(rel) {
			return rel
		}
	}
	return tilde(path)
}

// tilde is a path with the home folder as people write it.
func tilde(path string) string {
	if home, err := os.UserHomeDir(); err == nil && home != "/" {
		if rest, ok := strings.CutPrefix(path, home); ok && (rest == "" || rest[0] == '/') {
			return "~" + rest
		}
	}
	return path
}

// sandboxWord is a word of the protocol's for people.
func sandboxWord(s string) string {
	switch s {
	case protocol.PolicyReadOnly:
		return protocol.SandboxReadOnly
	case protocol.PolicyWorkspaceWrite:
		return protocol.SandboxWorkspaceWrite
	case protocol.PolicyFullAccess:
		return protocol.SandboxFullAccess
	}
	return s
}

const (
	// maxUnwritten is what may wait for whoever reads standard output, in bytes. Then
	// the run reads the server no further.
	maxUnwritten = 16 << 20
	// lastWrite is how long a reader may take for the end once the run was stopped.
	lastWrite = 2 * time.Second
)

// lineWriter writes lines in a goroutine of its own, so that a reader who is slow
// holds up neither a signal nor a timeout.
type lineWriter struct {
	w    io.Writer
	fail func(error)
	room chan struct{} // capacity 1
	wake chan struct{} // capacity 1
	done chan struct{} // closed when all is written

	mu    sync.Mutex // guards what follows
	lines [][]byte
	size  int
	last  bool
	err   error
}

func newLineWriter(w io.Writer, fail func(error)) *lineWriter {
	l := &lineWriter{w: w, fail: fail, room: make(chan struct{}, 1), wake: make(chan struct{}, 1), done: make(chan struct{})}
	// close waits for it, but for a write that nobody reads, which the end of the
	// process ends.
	go l.run()
	return l
}

func (l *lineWriter) run() {
	defer close(l.done)
	for {
		l.mu.Lock()
		lines, last := l.lines, l.last
		l.lines = nil
		l.mu.Unlock()
		for _, b := range lines {
			_, err := l.w.Write(b)
			l.mu.Lock()
			l.size -= len(b)
			first := err != nil && l.err == nil
			if first {
				l.err = err
			}
			failed := l.err != nil
			l.mu.Unlock()
			if first {
				l.fail(err)
			}
			if failed {
				return
			}
			select {
			case l.room <- struct{}{}:
			default:
			}
		}
		if len(lines) > 0 {
			continue
		}
		if last {
			return
		}
		<-l.wake
	}
}

// put gives it a line, and waits for room until ctx ends.
func (l *lineWriter) put(ctx context.Context, b []byte) {
	for {
		l.mu.Lock()
		if l.size == 0 || l.size+len(b) <= maxUnwritten || l.err != nil {
			l.lines = append(l.lines, b)
			l.size += len(b)
			l.mu.Unlock()
			l.poke()
			return
		}
		l.mu.Unlock()
		select {
		case <-l.room:
		case <-l.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (l *lineWriter) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// close writes the last line and waits until all is written.
func (l *lineWriter) close(ctx context.Context, b []byte) error {
	l.mu.Lock()
	if len(b) > 0 {
		l.lines = append(l.lines, b)
		l.size += len(b)
	}
	l.last = true
	l.mu.Unlock()
	l.poke()
	select {
	case <-l.done:
	case <-ctx.Done():
		t := time.NewTimer(lastWrite)
		defer t.Stop()
		select {
		case <-l.done:
		case <-t.C:
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
