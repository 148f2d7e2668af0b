// Package markdown draws Markdown as styled terminal lines.
//
// A [Renderer] draws a whole document; a [Stream] draws one that is still being
// written, rendering finished blocks once and only the last block again. Both
// give the same lines for the same text. Input is cleaned of control sequences
// first; lines come back styled, at most width cells wide, each complete in
// itself (no style runs over a line's end).
//
// What is not drawn as in a browser: addresses of links are always visible,
// images are their alternative text, HTML is shown as text, link reference
// definitions stay where they were written.
package markdown

import "towline/appserver/tui/theme"

// Renderer turns Markdown into lines. It may be used by one goroutine at a time.
type Renderer struct {
	th *theme.Theme
}

// New makes a renderer for a theme.
func New(th *theme.Theme) *Renderer { return &Renderer{th: th} }

// Render draws src. Widths under 8 are treated as 8.
func (r *Renderer) Render(src string, width int) []string { return nil }

// Stream draws a document that grows.
type Stream struct{ r *Renderer }

// NewStream begins an empty document.
func (r *Renderer) NewStream() *Stream { return &Stream{r: r} }

// Append adds what was written next; it may be cut anywhere.
func (s *Stream) Append(delta string) {}

// Lines draws everything appended so far. The slice must not be changed and is
// valid until the next call.
func (s *Stream) Lines(width int) []string { return nil }

// Source is everything appended so far, as it came.
func (s *Stream) Source() string { return "" }
