package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"towline/appserver/tui/text"
)

// PlainAsker is a Connecting without a screen: progress and questions are lines
// on Out, and answers come from a terminal, or are refused where there is none.
// It is for commands whose output is read by programs: nothing it writes goes
// to standard output, nothing it reads comes from standard input.
//
// Make one with NewPlainAsker. Its methods may be called concurrently.
type PlainAsker struct {
	o   PlainOptions
	mu  sync.Mutex // one question, or one line, at a time
	ask sync.Mutex // one question at a time; taken before mu
	bar bool       // the last line is a progress bar
	pct int64      // what it says
}

var _ Connecting = (*PlainAsker)(nil)

// PlainOptions set up a PlainAsker.
type PlainOptions struct {
	// Out is where lines go, usually standard error.
	Out io.Writer
	// Refuse answers every question with ErrNobody, without looking for a
	// terminal: for --json and batch use.
	Refuse bool
	// Quiet leaves out progress; questions and notices are still shown. Verbose
	// adds details.
	Quiet, Verbose bool
	// Terminal opens the terminal to ask on; nil is the process's own: /dev/tty,
	// or the console.
	Terminal func() (PlainTerminal, error)
}

// PlainTerminal is a terminal that questions are asked on.
type PlainTerminal interface {
	io.Writer
	// ReadLine gives one line, without its end. Without echo what is typed is not
	// shown. It ends early, with ctx's cause, when ctx does.
	ReadLine(ctx context.Context, echo bool) (string, error)
	Close() error
}

// NewPlainAsker makes one.
func NewPlainAsker(o PlainOptions) *PlainAsker {
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.Terminal == nil {
		o.Terminal = openTerminal
	}
	return &PlainAsker{o: o}
}

// Step implements Connecting: a line for what is over, and, in detail, for all.
func (p *PlainAsker) Step(s Step) {
	if p.o.Quiet && s.Err == nil {
		return
	}
	name := text.CleanLine(partOf(s.Stage, s.Hop))
	if name == "" || name == text.CleanLine(s.Hop) {
		name = strings.TrimSpace(text.CleanLine(s.Hop) + " " + text.CleanLine(s.Stage))
	} else if name != s.Stage {
		name += ": " + text.CleanLine(s.Stage)
	}
	words := text.CleanLine(s.Text)
	switch {
	case s.Err != nil:
		p.line("✘ %s: %s", name, explain(s.Err).cause)
	case s.Detail && p.o.Verbose:
		p.line("    %s", words)
	case s.Done && words != "":
		p.line("✔ %s: %s (%s)", name, words, seconds(s.Took))
	case s.Done:
		p.line("✔ %s (%s)", name, seconds(s.Took))
	case !s.Detail && p.o.Verbose:
		p.line("● %s %s", name, words)
	}
}

// Progress implements Connecting: a line at every tenth.
func (p *PlainAsker) Progress(done, total int64) {
	if p.o.Quiet || total <= 0 {
		return
	}
	tenth := max(0, min(done, total)) * 10 / total
	p.mu.Lock()
	same := p.bar && tenth == p.pct
	p.bar, p.pct = true, tenth
	p.mu.Unlock()
	if !same {
		p.line("  %d %%, %s of %s", tenth*10, megabytes(done), megabytes(total))
	}
}

// Notice implements Asker.
func (p *PlainAsker) Notice(hop, s string) {
	for l := range strings.SplitSeq(strings.TrimRight(text.Clean(s), "\n "), "\n") {
		p.line("%s: %s", text.CleanLine(hop), l)
	}
}

func (p *PlainAsker) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.o.Out, format+"\n", args...) // nobody to tell
}

// HostKey implements Asker.
func (p *PlainAsker) HostKey(ctx context.Context, q HostKeyQuestion) (Decision, error) {
	r, err := p.put(ctx, hostKeyQuery(q))
	return Decision(r.choice), err
}

// Secret implements Asker.
func (p *PlainAsker) Secret(ctx context.Context, q SecretQuestion) (string, error) {
	r, err := p.put(ctx, secretQuery(q))
	return r.text, err
}

// Choose implements Asker.
func (p *PlainAsker) Choose(ctx context.Context, q Question) (int, error) {
	if len(q.Choices) == 0 {
		return 0, errors.New("a question without choices")
	}
	r, err := p.put(ctx, choiceQuery(q))
	return r.choice, err
}

// maxTries is how often an answer that fits no choice is asked for again.
const maxTries = 5

// put asks on the terminal.
func (p *PlainAsker) put(ctx context.Context, q *query) (reply, error) {
	if p.o.Refuse {
		return reply{}, ErrNobody
	}
	p.ask.Lock()
	defer p.ask.Unlock()
	if ctx.Err() != nil {
		return reply{}, context.Cause(ctx)
	}
	t, err := p.o.Terminal()
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrNobody, err)
	}
	defer func() { _ = t.Close() }() // it was only read from
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(t, format+"\n", args...) }
	hop := ""
	if q.hop != "" && !strings.Contains(q.title, q.hop) {
		hop = " (" + q.hop + ")"
	}
	say("%s%s", q.title, hop)
	if q.again {
		say("that was not right")
	}
	for _, a := range q.about {
		say("%s", a)
	}
	for _, f := range q.facts {
		say("  %-13s %s", f.Name, f.Value)
	}
	if q.typed {
		_, _ = fmt.Fprintf(t, "%s: ", q.label)
		s, err := t.ReadLine(ctx, !q.hidden)
		if q.hidden {
			say("")
		}
		return reply{text: s}, err
	}
	var keys []string
	for _, c := range q.choices {
		keys = append(keys, c.Key+" = "+text.CleanLine(c.Label))
	}
	for range maxTries {
		_, _ = fmt.Fprintf(t, "%s: ", strings.Join(keys, ", "))
		s, err := t.ReadLine(ctx, true)
		if err != nil {
			return reply{}, err
		}
		s = strings.ToLower(strings.TrimSpace(s))
		for i, c := range q.choices {
			// The word counts as well as its letter: "yes" for y.
			if s == c.Key || len(s) > 1 && (c.Key == "y" && s == "yes" || c.Key == "n" && s == "no" || s == strings.ToLower(c.Label)) {
				if q.values != nil {
					i = q.values[i]
				}
				return reply{choice: i}, nil
			}
		}
		say("please type one of: %s", strings.Join(keys, ", "))
	}
	return reply{}, ErrAborted
}
