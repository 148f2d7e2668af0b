// Package diffview draws changes to files: Codex's own diff forms (package
// protocol's FileUpdate) and git-style unified diffs.
//
// Every changed line carries its line number and a + or −, so nothing depends on
// colour. Nothing of a change is hidden: control and invisible characters are
// shown as what they are (see text.Reveal), for people approve what they see
// here. Lines come back styled and at most Options.Width cells wide.
package diffview

import (
	"fmt"
	"strings"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// Options says how to draw.
type Options struct {
	Theme *theme.Theme // nil: theme.Plain()
	Width int          // cells; under 20 is treated as 20
	// MaxLines folds what is longer: that many drawn lines of each file, then
	// "… 212 more lines". 0 shows everything (up to a bound of 20,000 lines).
	MaxLines int
	FoldHint string // shown after "more lines", such as "ctrl+o"
	Cwd      string // paths below it are shown relative to it
	NoHeader bool   // leave out the "● Edit path +6 −2" line
}

const (
	minWidth = 20
	maxLines = 20_000 // of one file; nobody reads more on a terminal
	tab      = 4

	maxNumber = 9_999_999 // line numbers beyond it are not shown: no file has them
)

func (o Options) withDefaults() Options {
	if o.Theme == nil {
		o.Theme = theme.Plain()
	}
	o.Width = max(o.Width, minWidth)
	if o.MaxLines <= 0 || o.MaxLines > maxLines {
		o.MaxLines = maxLines
	}
	return o
}

// Counts is how many lines a change adds and removes.
type Counts struct{ Added, Removed int }

// String is "+6 −2".
func (c Counts) String() string { return fmt.Sprintf("+%d −%d", c.Added, c.Removed) }

// Count counts one update.
func Count(u protocol.FileUpdate) Counts {
	f := parseUpdate(u)
	return f.counts()
}

// CountUnified counts a git-style diff: its files and lines.
func CountUnified(diff string) (files int, c Counts) {
	fs, err := parseUnified(diff)
	if err != nil {
		return 0, Counts{}
	}
	for _, f := range fs {
		n := f.counts()
		c.Added += n.Added
		c.Removed += n.Removed
	}
	return len(fs), c
}

// Render draws one file of a patch.
func Render(u protocol.FileUpdate, o Options) []string {
	f := parseUpdate(u)
	return newPen(o.withDefaults()).file(f)
}

// RenderAll draws all files of a patch, an empty line between them.
func RenderAll(us []protocol.FileUpdate, o Options) []string {
	p := newPen(o.withDefaults())
	var out []string
	for i, u := range us {
		if i > 0 {
			out = append(out, "")
		}
		out = append(out, p.file(parseUpdate(u))...)
	}
	return out
}

// RenderUnified draws a git-style diff of any number of files. What cannot be
// parsed as one is drawn as it is.
func RenderUnified(diff string, o Options) []string {
	p := newPen(o.withDefaults())
	files, err := parseUnified(diff)
	if err != nil || len(files) == 0 {
		return p.unparsed(diff)
	}
	var out []string
	for i, f := range files {
		if i > 0 {
			out = append(out, "")
		}
		out = append(out, p.file(f)...)
	}
	return out
}

// unparsed draws text that is no diff we understand, folded like one.
func (p *pen) unparsed(diff string) []string {
	if strings.TrimSpace(diff) == "" {
		return nil
	}
	var out []string
	lines := strings.Split(strings.TrimRight(diff, "\n"), "\n")
	for i, l := range lines {
		l = text.Reveal(l, tab)
		ink := theme.Ink{}
		switch {
		case strings.HasPrefix(l, "+"):
			ink = p.sides[added].ink
		case strings.HasPrefix(l, "-"):
			ink = p.sides[removed].ink
		}
		for _, r := range text.ChopRanges(l, p.o.Width) {
			out = append(out, ink.Draw(l[r.Start:r.End]))
		}
		if left := len(lines) - i - 1; left > 0 && len(out) >= p.o.MaxLines {
			return append(out, p.fold(left))
		}
	}
	return out
}
