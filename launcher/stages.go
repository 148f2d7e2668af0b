package launcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"towline/config"
	"towline/launcher/remote"
)

// stages in order, and what to type when one fails and nothing better is known.
// %s is the host as the person typed it.
var stages = []struct{ name, hint string }{
	{remote.StageResolve, "see what ssh_config says: `ssh -G %s`"},
	{remote.StageDial, "try it without Towline: `ssh -v %s true`"},
	{remote.StageHostKey, "see what is known of the host: `ssh-keygen -F %s`"},
	{remote.StageAuth, "try it without Towline: `ssh -v %s true`"},
	{remote.StageShell, "try the login shell by itself: `ssh %s true`"},
	{remote.StageProbe, "see every step: `towline doctor %s`"},
	{remote.StageFind, "put this program there: `towline connect %s --install`"},
	{remote.StageVersion, "put this version there: `towline connect %s --install`"},
	{remote.StageInstall, "see every step: `towline doctor %s`"},
	{remote.StageStart, "see every step: `towline doctor %s`"},
	{remote.StageHandshake, "see every step: `towline doctor %s`"},
	{remote.StageReady, "see every step: `towline doctor %s`"},
}

// progress passes events on, and knows which stage is under way: what fails
// without saying where failed there.
type progress struct {
	host string
	tell func(remote.Event)
	now  func() time.Time

	mu      sync.Mutex // guards what follows
	stage   string
	hop     string
	since   time.Time
	open    bool // the stage has begun and not ended
	started time.Time
	waiting time.Time      // for a person, since then; zero while not
	waited  time.Duration  // for people so far
	ends    map[string]end // of stages, by name and hop
}

// end is how a stage ended.
type end int

const (
	running end = iota
	well
	badly
)

func newProgress(host string, tell func(remote.Event)) *progress {
	if tell == nil {
		tell = func(remote.Event) {}
	}
	return &progress{host: host, tell: tell, now: time.Now, started: time.Now(), ends: make(map[string]end)}
}

// event passes on what a part tells. Parts may leave out the hop and the time.
func (p *progress) event(e remote.Event) {
	p.mu.Lock()
	if e.Hop == "" {
		e.Hop = p.host
	}
	e.Text = oneLine(e.Text)
	over := e.Done || e.Err != nil
	if !p.waiting.IsZero() && !e.Waiting && !e.Detail {
		p.waited += p.now().Sub(p.waiting)
		p.waiting = time.Time{}
	} else if e.Waiting && p.waiting.IsZero() {
		p.waiting = p.now()
	}
	if !e.Detail {
		key := e.Stage + "\x00" + e.Hop
		if was := p.ends[key]; e.Done && was != running || e.Err != nil && was == badly {
			p.mu.Unlock()
			return // whoever did it has said so
		}
		switch {
		case e.Err != nil:
			p.ends[key] = badly
		case e.Done:
			p.ends[key] = well
		default:
			p.ends[key] = running
		}
	}
	switch {
	case e.Detail:
	case !p.open || e.Stage != p.stage || e.Hop != p.hop:
		p.stage, p.hop, p.since = e.Stage, e.Hop, p.now()
		if over && e.Took == 0 {
			e.Took = time.Nanosecond // it was no time, not an unknown one
		}
	case over && e.Took == 0:
		e.Took = p.now().Sub(p.since)
	}
	if !e.Detail {
		p.open = !over
	}
	p.mu.Unlock()
	p.tell(e)
}

// begin, detail, done and fail are events of our own.
func (p *progress) begin(stage, text string) { p.event(remote.Event{Stage: stage, Text: text}) }

func (p *progress) detail(stage, text string) {
	p.event(remote.Event{Stage: stage, Text: text, Detail: true})
}

func (p *progress) done(stage, text string) {
	p.event(remote.Event{Stage: stage, Text: text, Done: true})
}

// fail makes the error of a stage that failed, and tells it. Every error that
// leaves this package passes here: it has one of the stages above and a hint.
// fallback is the stage of an error that names none.
func (p *progress) fail(fallback string, err error) error {
	problem := staged(p.host, fallback, err)
	p.event(remote.Event{Stage: problem.Stage, Hop: p.hopOf(problem.Stage), Err: problem})
	return problem
}

// hopOf is the hop the stage is at, when it is the current one.
func (p *progress) hopOf(stage string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stage == stage {
		return p.hop
	}
	return ""
}

// elapsed is the time since the beginning, without what a person took to answer.
func (p *progress) elapsed() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now().Sub(p.started) - p.waited
}

// staged makes err a Problem with one of the stages and at least one hint.
func staged(host, fallback string, err error) *config.Problem {
	var p *config.Problem
	if errors.As(err, &p) && known(p.Stage) {
		if len(config.Hints(p)) > 0 {
			return p
		}
		fallback, err = p.Stage, p.Err
	}
	out := &config.Problem{Stage: fallback, Err: err, Hints: config.Hints(err), Exit: config.ExitCode(err)}
	if p != nil && p.Err != nil && !known(p.Stage) && err == error(p) && p.Stage == "" {
		out.Err = p.Err
	}
	if errors.Is(err, context.Canceled) {
		out.Exit = config.ExitInterrupted
		out.Err = errors.New("interrupted")
	}
	if out.Exit == 0 || out.Exit == config.ExitFailure {
		out.Exit = config.ExitUnavailable
	}
	if len(out.Hints) == 0 {
		out.Hints = []string{hintFor(fallback, host)}
	}
	return out
}

func known(stage string) bool {
	return slices.ContainsFunc(stages, func(s struct{ name, hint string }) bool { return s.name == stage })
}

func hintFor(stage, host string) string {
	for _, s := range stages {
		if s.name == stage {
			return fmt.Sprintf(s.hint, host)
		}
	}
	return fmt.Sprintf("see every step: `towline doctor %s`", host)
}

// oneLine makes text from elsewhere fit for one line of a terminal.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}
