// Package diffview draws changes to files: Codex's own diff forms (package
// protocol's FileUpdate) and git-style unified diffs.
//
// Every changed line carries its line number and a + or −, so nothing depends on
// colour. Input is cleaned of control sequences first; lines come back styled and
// at most Options.Width cells wide.
package diffview

import (
	"towline/appserver/protocol"
	"towline/appserver/tui/theme"
)

// Options says how to draw.
type Options struct {
	Theme *theme.Theme // nil: theme.Plain()
	Width int          // cells; under 20 is treated as 20
	// MaxLines folds what is longer: the first lines, then "… 212 more lines".
	// 0 shows everything. It counts drawn lines of one file, without its heading.
	MaxLines int
	FoldHint string // shown after "more lines", such as "ctrl+o"
	Cwd      string // paths below it are shown relative to it
	NoHeader bool   // leave out the "● Edit path +6 −2" line
}

// Counts is how many lines a change adds and removes.
type Counts struct{ Added, Removed int }

// String is "+6 −2".
func (c Counts) String() string { return "" }

// Count counts one update.
func Count(u protocol.FileUpdate) Counts { return Counts{} }

// CountUnified counts a git-style diff: its files and lines.
func CountUnified(diff string) (files int, c Counts) { return 0, Counts{} }

// Render draws one file of a patch.
func Render(u protocol.FileUpdate, o Options) []string { return nil }

// RenderAll draws all files of a patch, an empty line between them.
func RenderAll(us []protocol.FileUpdate, o Options) []string { return nil }

// RenderUnified draws a git-style diff of any number of files. What cannot be
// parsed as one is drawn as it is.
func RenderUnified(diff string, o Options) []string { return nil }
