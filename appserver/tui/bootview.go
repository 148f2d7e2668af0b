package tui

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
	"towline/config"
)

// spinner is one turn of what moves while something is under way.
var spinner = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// seconds writes how long a step took.
func seconds(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d:%02d min", int(d.Minutes()), int(d.Seconds())%60)
}

func joinLines(lines []string) string { return strings.Join(lines, "\n") }

// drawBoot draws the connect screen: the host, the steps, then what is asked or
// what went wrong, then the keys.
func (m *model) drawBoot(w, h int) (lines []string, x, y int) {
	b, th := m.boot, m.th
	x = -1
	lines = m.bootHead(w)
	var foot []string
	if h > 2 {
		foot = []string{th.Dim.Render(text.Truncate(" "+m.bootKeys(), w, "…"))}
	}
	body := m.stepLines(w)
	room := max(h-len(lines)-len(foot), 1)
	var under []string
	uy := 0
	q := b.asking()
	switch {
	case q != nil:
		if q.since.IsZero() {
			q.since = m.now()
		}
		under, x, uy = q.render(th, w, room, m.now())
	case b.phase == bootFailed:
		under = m.failureLines(w)
	}
	// An empty line on both sides of the steps, and the last of them in sight,
	// where there is room for that.
	air := 0
	if len(under)+2 < room {
		lines = append(lines, "")
		room--
		if len(under) > 0 && len(body) > 0 {
			under = append([]string{""}, under...)
			uy++
			air = 1
		}
	}
	if q != nil {
		keep := max(room-len(under), 0)
		b.room = keep
		body = b.window(body, len(body)-keep, keep)
		y = len(lines) + len(body) + uy
		lines = append(append(lines, body...), under...)
	} else {
		auto := len(body) + len(under) - room
		if len(under) > room {
			auto = len(body) + air // what went wrong comes first
		}
		b.room = room
		lines = append(lines, b.window(append(body, under...), auto, room)...)
	}
	return append(fill(lines, h-len(foot)), foot...), x, y
}

// window is the room lines that are in sight: from line auto on, or as far from
// it as was scrolled.
func (b *boot) window(lines []string, auto, room int) []string {
	last := max(len(lines)-room, 0)
	auto = max(0, min(auto, last))
	from := max(0, min(auto-b.scroll, last))
	b.scroll = auto - from
	return lines[from:min(from+room, len(lines))]
}

func (m *model) bootHead(w int) []string {
	state := ""
	switch b := m.boot; {
	case b.asking() != nil:
		state = m.th.Warn.Render("▲ waiting for you")
	case b.phase == bootFailed && m.conn.was:
		state = m.th.Warn.Render("✘ not updated")
	case b.phase == bootFailed:
		state = m.th.Warn.Render("✘ not connected")
	case !m.conn.was && b.phase == bootRunning:
		state = m.th.Dim.Render("○ connecting")
	case b.phase == bootRunning:
		state = m.th.Dim.Render("○ updating")
	case b.phase == bootLanding:
		state = m.th.Dim.Render("○ opening")
	default:
		state = m.th.Dim.Render("○ connecting again")
	}
	return []string{text.Between(" "+m.th.Bold.Render(m.host()), state+" ", w)}
}

// bootKeys is the line of keys.
func (m *model) bootKeys() string {
	b := m.boot
	if b.copied {
		return "copied, if this terminal allows it"
	}
	more := "d details"
	if b.details {
		more = "d fewer details"
	}
	switch {
	case b.asking() != nil && b.asking().typed:
		return ""
	case b.asking() != nil:
		return more + "   c copy"
	case b.phase == bootFailed && m.conn.was:
		return "r try again   " + more + "   c copy   esc back"
	case b.phase == bootFailed:
		return "r try again   " + more + "   c copy   q leave"
	case m.conn.was && b.phase == bootRunning:
		return more + "   c copy   esc back"
	}
	return more + "   c copy   esc stop"
}

// stepLines is every part of the connection, one line each unless details are
// wanted, and those that are still to come.
func (m *model) stepLines(w int) []string {
	b, th, now := m.boot, m.th, m.now()
	names := []string{}
	for _, p := range b.log.parts {
		names = append(names, p.name)
	}
	rest := m.upcoming()
	col := 0
	for _, n := range append(names, rest...) {
		col = max(col, text.Width(n))
	}
	col = max(min(col, w/3), min(11, w/3)) + 2
	var out []string
	for _, p := range b.log.parts {
		out = append(out, m.partLine(p, col, w, now))
		if p == b.log.parts[len(b.log.parts)-1] {
			out = append(out, m.uploadLine(col, w)...)
		}
		if b.details {
			out = append(out, detailLines(th, p, w, now)...)
		}
		if !p.done() || b.details {
			out = append(out, noticeLines(th, p, w, b.details)...)
		}
	}
	for _, n := range rest {
		out = append(out, " "+th.Dim.Render(text.Truncate("○ "+n, w-1, "…")))
	}
	return out
}

// upcoming is what will follow, as far as that is known.
func (m *model) upcoming() (rest []string) {
	b := m.boot
	if b.phase != bootRunning || m.conn.was || b.log.over || b.log.part(partReady) != nil {
		return nil
	}
	host := m.host()
	for _, n := range []string{host, partShell, partServer} {
		if b.log.part(n) != nil {
			rest = nil // what comes before something that began is over, or never comes
			continue
		}
		rest = append(rest, n)
	}
	return rest
}

// partLine is one part on one line.
func (m *model) partLine(p *part, col, w int, now time.Time) string {
	th := m.th
	glyph, words, took := "✔", p.summary(), seconds(p.elapsed(now))
	ink := th.Ok
	st := p.last()
	switch {
	case st.err != nil:
		glyph, ink, words = "✘", th.Warn, st.name
		if e := explain(st.err); e.cause != "" {
			words += ": " + e.cause
		}
	case !st.done && (!st.paused.IsZero() || m.boot.asking() != nil):
		glyph, ink = "▲", th.Warn
	case !st.done && m.boot.phase == bootFailed:
		glyph, ink, took = "■", th.Dim, ""
	case !st.done:
		glyph, ink = spinner[int(now.UnixMilli()/int64(spin.Milliseconds()))%len(spinner)], th.Accent
		took = seconds(p.elapsed(now)) + " so far"
	}
	if w < 50 && strings.HasSuffix(took, " so far") {
		took = strings.TrimSuffix(took, " so far")
	}
	if w < 30 { // which, and how it is
		return text.Between(" "+ink.Render(glyph)+" "+p.name, th.Dim.Render(took)+" ", w)
	}
	left := " " + ink.Render(glyph) + " " + text.Fit(p.name, col) + words
	return text.Between(left, th.Dim.Render(took)+" ", w)
}

// detailLines is every stage of a part with all it said.
func detailLines(th *theme.Theme, p *part, w int, now time.Time) (out []string) {
	for _, st := range p.stages {
		words := st.text
		if st.err != nil {
			words = "failed"
		}
		left := "     " + text.Fit(st.name, 14) + words
		out = append(out, text.Between(th.Dim.Render(text.Truncate(left, max(w-11, 4), "…")), th.Dim.Render(seconds(st.elapsed(now)))+" ", w))
		for _, d := range st.details {
			for _, l := range text.Wrap(d, max(w-8, 8)) {
				out = append(out, "       "+th.Dim.Render(l))
			}
		}
	}
	return out
}

// noticeLines is what a server or a key said; its end when it is long.
func noticeLines(th *theme.Theme, p *part, w int, all bool) (out []string) {
	const short = 4
	for _, n := range p.notices {
		for _, l := range text.Wrap(n, max(w-6, 8)) {
			out = append(out, "   "+th.Border.Render("│")+" "+l)
		}
	}
	if !all && len(out) > short {
		n := len(out) - short + 1
		more := text.Truncate(fmt.Sprintf(" … %d lines before (d details)", n), max(w-5, 1), "…")
		out = append([]string{"   " + th.Border.Render("│") + th.Dim.Render(more)}, out[n:]...)
	}
	return out
}

// uploadLine is how much of an upload is done.
func (m *model) uploadLine(col, w int) []string {
	c := m.link.person
	if c == nil {
		return nil
	}
	done, total := c.sent.Load(), c.size.Load()
	if total <= 0 {
		return nil
	}
	done = max(0, min(done, total))
	pct := int(done * 100 / total)
	words := fmt.Sprintf(" %3d %%  %s of %s ", pct, megabytes(done), megabytes(total))
	lead := strings.Repeat(" ", col+3)
	if w < 50 {
		lead = "   "
	}
	bar := max(min(w-text.Width(lead)-text.Width(words)-1, 40), 4)
	full := bar * pct / 100
	return []string{text.Truncate(lead+m.th.Accent.Render(strings.Repeat("━", full))+m.th.Border.Render(strings.Repeat("─", bar-full))+words, w, "…")}
}

// failure is an error taken apart for a person.
type failure struct {
	stage, cause string
	said         []string // more lines of the cause: the other side's own words
	hints        []string
}

// saidBounds is how much of the other side's words is shown.
const saidBounds = 40

func explain(err error) (f failure) {
	var p *config.Problem
	if errors.As(err, &p) {
		f.stage = text.CleanLine(p.Stage)
		for _, h := range config.Hints(err) {
			f.hints = append(f.hints, text.CleanLine(h))
		}
		err = p.Err
		// A Problem around a Problem: its stage is said already.
		for inner := (*config.Problem)(nil); errors.As(err, &inner) && err == error(inner); {
			err = inner.Err
		}
	}
	if err == nil {
		return f
	}
	lines := strings.Split(strings.TrimSpace(text.Clean(err.Error())), "\n")
	f.cause = lines[0]
	for _, l := range lines[1:] {
		if strings.TrimSpace(l) != "" && len(f.said) < saidBounds {
			f.said = append(f.said, strings.TrimRight(l, " "))
		}
	}
	return f
}

// failureLines is what went wrong in full, what the other side said, and what to
// type next. Commands are never cut.
func (m *model) failureLines(w int) (out []string) {
	th := m.th
	f := explain(m.boot.log.err)
	label := func(name string, lines []string) {
		for i, l := range lines {
			lead := strings.Repeat(" ", 10)
			if i == 0 {
				lead = " " + th.Dim.Render(text.Fit(name, 9))
			}
			if w < 50 {
				lead = " "
			}
			out = append(out, lead+l)
		}
	}
	in := w - 11
	if w < 50 {
		in = w - 2
	}
	in = max(in, 6)
	stage := f.stage
	if stage == "" {
		stage = m.boot.log.failedStage()
	}
	label("stage", []string{th.Warn.Render(text.Truncate(stage, in, "…"))})
	label("cause", text.Wrap(f.cause, in))
	if n := len(f.said); n > 0 {
		var said []string
		for _, s := range f.said {
			said = append(said, text.Wrap(s, in)...)
		}
		const short = 6
		if !m.boot.details && len(said) > short {
			said = append(said[:short-1:short-1], fmt.Sprintf("… %d more lines (d details)", len(said)-short+1))
		}
		label("it said", said)
	}
	var next []string
	for _, h := range f.hints {
		next = append(next, hintLines(th, h, in)...)
	}
	label("next", next)
	return out
}

// failedStage is the stage that went wrong.
func (p *progress) failedStage() string {
	for _, pt := range p.parts {
		if st := pt.failed(); st != nil {
			return st.name
		}
	}
	return ""
}

// hintLines is one hint. Where it is a command, with or without what it does,
// that stands by itself to be copied, and the rest after it.
func hintLines(th *theme.Theme, hint string, w int) (out []string) {
	before, rest, ok := strings.Cut(hint, "`")
	cmd, after, closed := strings.Cut(rest, "`")
	before, after = strings.TrimSpace(before), strings.TrimSpace(after)
	about, named := strings.CutSuffix(before, ":")
	if bare := before == "" || before == "run" || before == "use"; bare {
		about, named = strings.TrimLeft(after, ": "), true
	} else if after != "" {
		named = false
	}
	if !ok || !closed || !named || strings.Contains(after, "`") {
		return text.Wrap(hint, w)
	}
	for _, l := range text.Wrap(cmd, w) {
		out = append(out, th.Accent.Render(l))
	}
	if about == "" {
		return out
	}
	if len(out) == 1 && text.Width(cmd)+3+text.Width(about) <= w {
		return []string{out[0] + "   " + th.Dim.Render(about)}
	}
	for _, l := range text.Wrap(about, max(w-2, 4)) {
		out = append(out, "  "+th.Dim.Render(l))
	}
	return out
}
