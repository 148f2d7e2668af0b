// Package theme holds the colours and attributes every part of the terminal UI
// draws with: one accent colour, one warning colour, and attributes (bold,
// faint, underline, reverse) that carry the meaning where colours are missing.
//
// Pick one at start and hand the pointer to everything that draws:
//
//	th := theme.For(dark, colours)            // or Dark, Light, ANSI16, Plain
//	line := th.Accent.Render("●") + " " + th.Bold.Render("working")
//	body := markdown.New(th).Render(src, width)
//	diff := diffview.Render(update, diffview.Options{Theme: th, Width: width})
//
// Styles are values: they may be copied and extended (th.Dim.Italic(true)). A
// Theme is never changed after it was made, so it may be shared by goroutines.
// True colours are written as they are; Bubble Tea reduces them to what the
// terminal can show. ANSI16 exists for terminals whose sixteen colours the
// person chose: it names those colours instead of being reduced to them.
package theme

import (
	"image/color"

	"charm.land/lipgloss/v2"
)

// Theme is a set of styles. State must never be shown by a style alone: pair it
// with a glyph or a word.
type Theme struct {
	Name       string // "dark", "light", "ansi16" or "plain"
	Dark       bool   // made for a dark background
	Colour     bool   // false: attributes only
	Hyperlinks bool   // links may be written as OSC 8; off by default, see WithHyperlinks

	Text   lipgloss.Style // ordinary text; carries nothing, for completeness
	Dim    lipgloss.Style // secondary facts: cwd, times, line numbers
	Bold   lipgloss.Style
	Italic lipgloss.Style
	Strike lipgloss.Style

	Accent lipgloss.Style // the one accent: what is live, focused or ours
	Warn   lipgloss.Style // the one warning: waits for the person, failed, dangerous
	Ok     lipgloss.Style // finished well

	Header    lipgloss.Style // headings in text, title of a pane
	Border    lipgloss.Style // rules, frames, quote bars
	User      lipgloss.Style // what the person typed
	Selection lipgloss.Style // the chosen row of a list
	Status    lipgloss.Style // header and footer lines
	Code      lipgloss.Style // code spans
	Link      lipgloss.Style

	Added       lipgloss.Style // a line of a diff, with its +
	Removed     lipgloss.Style // a line of a diff, with its −
	AddedMark   lipgloss.Style // the changed words inside an added line
	RemovedMark lipgloss.Style // the changed words inside a removed line
	Hunk        lipgloss.Style // the gap between two hunks

	Syntax Syntax
}

// Syntax colours source code. An unset style leaves text as it is.
type Syntax struct {
	Comment, Keyword, Type, Function, Name, String, Number, Operator, Tag, Attribute lipgloss.Style
}

// palette is what differs between the coloured themes.
type palette struct {
	dim, accent, warn, ok, border, code, link color.Color
	selFg, selBg                              color.Color
	added, removed                            color.Color
	comment, keyword, typ, fn, str, num, tag  color.Color
}

// Dark is for dark backgrounds and true colour. Its greys, and Light's, are ones
// that 256 colours have too: what is nearest to others is tinted.
func Dark() *Theme {
	t := build(palette{
		dim: lipgloss.Color("#949494"), accent: lipgloss.Color("#6cb6ff"), warn: lipgloss.Color("#f0a04b"),
		ok: lipgloss.Color("#7ec699"), border: lipgloss.Color("#626262"), code: lipgloss.Color("#a5d6ff"),
		link: lipgloss.Color("#6cb6ff"), selFg: lipgloss.Color("#ffffff"), selBg: lipgloss.Color("#2d4a6b"),
		added: lipgloss.Color("#7ee787"), removed: lipgloss.Color("#ff9a8f"),
		comment: lipgloss.Color("#949494"), keyword: lipgloss.Color("#d2a8ff"), typ: lipgloss.Color("#ffcf8f"),
		fn: lipgloss.Color("#8fc7ff"), str: lipgloss.Color("#a5d6ff"), num: lipgloss.Color("#f2b48a"),
		tag: lipgloss.Color("#7ee787"),
	})
	t.Name, t.Dark = "dark", true
	return t
}

// Light is for light backgrounds and true colour.
func Light() *Theme {
	t := build(palette{
		dim: lipgloss.Color("#626262"), accent: lipgloss.Color("#0757ae"), warn: lipgloss.Color("#9a4600"),
		ok: lipgloss.Color("#116329"), border: lipgloss.Color("#8a8a8a"), code: lipgloss.Color("#0a3069"),
		link: lipgloss.Color("#0757ae"), selFg: lipgloss.Color("#0b1f33"), selBg: lipgloss.Color("#cfe3fb"),
		added: lipgloss.Color("#116329"), removed: lipgloss.Color("#a40e26"),
		comment: lipgloss.Color("#626262"), keyword: lipgloss.Color("#7a2fb8"), typ: lipgloss.Color("#8a4600"),
		fn: lipgloss.Color("#0757ae"), str: lipgloss.Color("#0a3069"), num: lipgloss.Color("#9a3412"),
		tag: lipgloss.Color("#116329"),
	})
	t.Name = "light"
	return t
}

// ANSI16 uses only the sixteen colours the terminal's owner chose, and of those
// the ones that can be read on a dark background.
func ANSI16() *Theme {
	t := build(palette{
		dim: lipgloss.BrightBlack, accent: lipgloss.Cyan, warn: lipgloss.Yellow,
		ok: lipgloss.Green, border: lipgloss.BrightBlack, code: lipgloss.Cyan,
		link: lipgloss.Cyan, selFg: lipgloss.NoColor{}, selBg: lipgloss.NoColor{},
		added: lipgloss.Green, removed: lipgloss.Red,
		comment: lipgloss.BrightBlack, keyword: lipgloss.Magenta, typ: lipgloss.Yellow,
		fn: lipgloss.Blue, str: lipgloss.Green, num: lipgloss.Yellow, tag: lipgloss.Blue,
	})
	t.Selection = lipgloss.NewStyle().Reverse(true)
	t.Name, t.Dark = "ansi16", true
	return t
}

// ANSI16Light is ANSI16 where the background is known to be light: the yellow,
// green and cyan of most owners cannot be read on it.
func ANSI16Light() *Theme {
	t := build(palette{
		dim: lipgloss.BrightBlack, accent: lipgloss.Blue, warn: lipgloss.Red,
		ok: lipgloss.Blue, border: lipgloss.BrightBlack, code: lipgloss.Magenta,
		link: lipgloss.Blue, selFg: lipgloss.NoColor{}, selBg: lipgloss.NoColor{},
		added: lipgloss.Blue, removed: lipgloss.Red,
		comment: lipgloss.BrightBlack, keyword: lipgloss.Magenta, typ: lipgloss.Red,
		fn: lipgloss.Blue, str: lipgloss.Magenta, num: lipgloss.Red, tag: lipgloss.Blue,
	})
	t.Selection = lipgloss.NewStyle().Reverse(true)
	t.Name = "ansi16-light"
	return t
}

// Plain has no colours (NO_COLOR, monochrome terminals): bold, faint, underline
// and reverse only.
func Plain() *Theme {
	st := lipgloss.NewStyle
	return &Theme{
		Name: "plain",
		Dim:  st().Faint(true), Bold: st().Bold(true), Italic: st().Italic(true), Strike: st().Strikethrough(true),
		Accent: st().Bold(true), Warn: st().Bold(true), Header: st().Bold(true), User: st().Bold(true),
		Border: st().Faint(true), Selection: st().Reverse(true), Status: st().Faint(true),
		Link: st().Underline(true), Hunk: st().Faint(true),
		AddedMark: st().Underline(true), RemovedMark: st().Underline(true),
		Syntax: Syntax{Comment: st().Faint(true)},
	}
}

// For picks a theme: colours is the number the terminal can show (0 or 1, 16,
// 256, more), dark whether its background is.
func For(dark bool, colours int) *Theme {
	switch {
	case colours < 8:
		return Plain()
	case colours < 256 && !dark:
		return ANSI16Light()
	case colours < 256:
		return ANSI16()
	case dark:
		return Dark()
	}
	return Light()
}

// WithHyperlinks is the same theme with OSC 8 links allowed. Only for terminals
// known to understand them: others may print the address twice or not at all.
func (t *Theme) WithHyperlinks() *Theme {
	c := *t
	c.Hyperlinks = true
	return &c
}

func build(p palette) *Theme {
	st := lipgloss.NewStyle
	fg := func(c color.Color) lipgloss.Style { return st().Foreground(c) }
	return &Theme{
		Colour: true,
		Dim:    fg(p.dim), Bold: st().Bold(true), Italic: st().Italic(true), Strike: st().Strikethrough(true),
		Accent: fg(p.accent), Warn: fg(p.warn).Bold(true), Ok: fg(p.ok),
		Header: fg(p.accent).Bold(true), Border: fg(p.border), User: fg(p.accent).Bold(true),
		Selection: fg(p.selFg).Background(p.selBg).Bold(true), Status: fg(p.dim),
		Code: fg(p.code), Link: fg(p.link).Underline(true),
		Added: fg(p.added), Removed: fg(p.removed),
		AddedMark: fg(p.added).Bold(true).Underline(true), RemovedMark: fg(p.removed).Bold(true).Underline(true),
		Hunk: fg(p.dim),
		Syntax: Syntax{
			Comment: fg(p.comment).Italic(true), Keyword: fg(p.keyword), Type: fg(p.typ), Function: fg(p.fn),
			String: fg(p.str), Number: fg(p.num), Tag: fg(p.tag), Attribute: fg(p.typ),
		},
	}
}
