package tui

import (
	"strings"
	"time"

	"towline/appserver/tui/text"
)

// Bounds of what is kept of a connection's progress.
const (
	maxStages  = 200
	maxDetails = 2000 // lines, over all stages
	maxNotices = 200  // lines
)

// stage is one step of the connection, as told.
type stage struct {
	name    string
	text    string // what came of it, or what it is at
	took    time.Duration
	done    bool
	err     error
	since   time.Time
	paused  time.Time // a person is being waited for since then
	waited  time.Duration
	details []string
}

// elapsed is how long the stage worked, people left out.
func (s *stage) elapsed(now time.Time) time.Duration {
	if s.done || s.err != nil {
		return s.took
	}
	d := now.Sub(s.since) - s.waited
	if !s.paused.IsZero() {
		d -= now.Sub(s.paused)
	}
	return max(d, 0)
}

func (s *stage) pause(now time.Time, on bool) {
	switch {
	case on && s.paused.IsZero():
		s.paused = now
	case !on && !s.paused.IsZero():
		s.waited += now.Sub(s.paused)
		s.paused = time.Time{}
	}
}

// part is what a person sees as one step: a hop, the login shell, the
// app-server. It has the stages that belong to it.
type part struct {
	name    string
	stages  []*stage
	notices []string // what a server said meanwhile
}

// The parts that are not hops.
const (
	partResolve = "resolve"
	partShell   = "login shell"
	partServer  = "app-server"
	partReady   = "ready"
)

// partOf is the part a stage belongs to; stages of a hop belong to the hop.
func partOf(stage, hop string) string {
	switch stage {
	case "dial", "host key", "authenticate":
		return hop
	case "shell", "probe":
		return partShell
	case "find", "version", "install", "start", "handshake":
		return partServer
	}
	return stage
}

func (p *part) last() *stage { return p.stages[len(p.stages)-1] }

// failed is the stage that went wrong, nil when none did.
func (p *part) failed() *stage {
	if s := p.last(); s.err != nil {
		return s
	}
	return nil
}

func (p *part) done() bool { return p.last().done }

func (p *part) elapsed(now time.Time) (d time.Duration) {
	for _, s := range p.stages {
		d += s.elapsed(now)
	}
	return d
}

// summary is what came of the finished stages, and what the running one is at.
func (p *part) summary() string {
	var out []string
	for _, s := range p.stages {
		switch {
		case s.text != "":
			out = append(out, s.text)
		case !s.done && s.err == nil:
			out = append(out, s.name)
		}
	}
	return strings.Join(out, " · ")
}

// progress is the steps of one run, in order.
type progress struct {
	parts   []*part
	current *stage
	count   int // stages
	details int // lines of details
	over    bool
	err     error // of the stage that failed
}

func (p *progress) part(name string) *part {
	for _, x := range p.parts {
		if x.name == name {
			return x
		}
	}
	return nil
}

// step learns of a step. host is what the target is called.
func (p *progress) step(s Step, host string, now time.Time) {
	s.Stage, s.Hop, s.Text = text.CleanLine(s.Stage), text.CleanLine(s.Hop), text.CleanLine(s.Text)
	if s.Hop == "" {
		s.Hop = host
	}
	name := partOf(s.Stage, s.Hop)
	pt := p.part(name)
	if pt == nil {
		if p.count >= maxStages {
			return
		}
		pt = &part{name: name}
	}
	var st *stage
	for _, x := range pt.stages {
		if x.name == s.Stage {
			st = x
		}
	}
	if st == nil || st.done && !s.Detail && !s.Done { // again
		if p.count++; p.count > maxStages {
			return
		}
		st = &stage{name: s.Stage, since: now}
		if len(pt.stages) == 0 {
			p.parts = append(p.parts, pt)
		}
		pt.stages = append(pt.stages, st)
	}
	if s.Detail {
		if p.details < maxDetails && s.Text != "" {
			p.details++
			st.details = append(st.details, s.Text)
		}
		return
	}
	st.pause(now, s.Waiting)
	if s.Text != "" {
		st.text = s.Text
	}
	p.current = st
	if s.Done || s.Err != nil {
		if st.took = s.Took; s.Took == 0 {
			st.took = st.elapsed(now)
		}
		st.done, st.err = s.Done && s.Err == nil, s.Err
		st.paused = time.Time{}
	}
}

// fail marks where it ended: at the stage named, or wherever it was.
func (p *progress) fail(stage, host string, err error, now time.Time) {
	p.over, p.err = true, err
	for _, pt := range p.parts {
		if st := pt.failed(); st != nil {
			return
		}
	}
	if stage == "" && p.current != nil && !p.current.done {
		stage = p.current.name
	}
	if stage == "" {
		stage = "connect"
	}
	hop := host
	if p.current != nil && p.current.name == stage {
		for _, pt := range p.parts {
			if pt.last() == p.current && partOf(stage, pt.name) == pt.name {
				hop = pt.name
			}
		}
	}
	p.step(Step{Stage: stage, Hop: hop, Err: err}, host, now)
}

// stage is the name of the stage under way, "" for none.
func (p *progress) stage() string {
	if p.current == nil || p.current.done || p.current.err != nil {
		return ""
	}
	return p.current.name
}

// notice keeps what a server said while a hop is entered.
func (p *progress) notice(hop, s, host string, now time.Time) {
	hop = text.CleanLine(hop)
	if hop == "" {
		hop = host
	}
	pt := p.part(hop)
	if pt == nil {
		p.step(Step{Stage: "authenticate", Hop: hop}, host, now)
		if pt = p.part(hop); pt == nil {
			return
		}
	}
	for _, l := range strings.Split(strings.TrimRight(text.Clean(s), "\n "), "\n") {
		if len(pt.notices) < maxNotices {
			pt.notices = append(pt.notices, l)
		}
	}
}
