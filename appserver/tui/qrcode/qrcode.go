// Package qrcode draws QR codes for terminals: half blocks, two rows of modules in
// a line.
package qrcode

import (
	"strings"

	"rsc.io/qr"
)

// margin is the light border around a code, in modules. The standard asks for
// four; two are read everywhere and fit a small terminal.
const margin = 2

// Ink is how a code is drawn.
type Ink int

// The ways to draw. Without colours the terminal's own have to serve: what is
// light is drawn on a dark one, what is dark on a light one.
const (
	OnDark  Ink = iota // the terminal is dark
	OnLight            // the terminal is light
	Colours            // dark on light by escape sequences, whatever the terminal is
)

// Lines draws text. It gives nothing when the code would not fit into width
// columns and height lines; bounds below 1 count as none.
func Lines(text string, ink Ink, width, height int) []string {
	c, err := qr.Encode(text, qr.L)
	if err != nil {
		return nil
	}
	size := c.Size + 2*margin
	if width > 0 && size > width || height > 0 && (size+1)/2 > height {
		return nil
	}
	inked := func(x, y int) bool {
		if y >= size { // below the last row of an odd number
			return false
		}
		return c.Black(x-margin, y-margin) != (ink == OnDark)
	}
	before, after := "", ""
	if ink == Colours {
		before, after = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
	}
	var out []string
	for y := 0; y < size; y += 2 {
		var b strings.Builder
		b.WriteString(before)
		for x := range size {
			b.WriteRune(halves[inked(x, y)][inked(x, y+1)])
		}
		b.WriteString(after)
		out = append(out, b.String())
	}
	return out
}

// halves are the cells of two modules, by whether the upper and the lower are inked.
var halves = map[bool]map[bool]rune{
	true:  {true: '█', false: '▀'},
	false: {true: '▄', false: ' '},
}
