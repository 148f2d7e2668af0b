package main

import (
	"strings"

	"rsc.io/qr"
)

// qrMargin is the white around a code, in modules. The standard asks for four; two
// are read everywhere and fit a small terminal.
const qrMargin = 2

// qrLines draws text as a QR code of half blocks, two rows of it in a line. It
// gives nothing when the code would not fit into width and height. Colours make it
// dark on light whatever the terminal's are; without them the terminal is taken to
// be dark, as most are.
func qrLines(text string, width, height int, colour bool) []string {
	c, err := qr.Encode(text, qr.L)
	if err != nil {
		return nil
	}
	size := c.Size + 2*qrMargin
	if size > width || (size+1)/2 > height {
		return nil
	}
	dark := func(x, y int) bool { return c.Black(x-qrMargin, y-qrMargin) } // outside of the code: light
	var out []string
	for y := 0; y < size; y += 2 {
		var b strings.Builder
		if colour {
			b.WriteString("\x1b[38;5;16;48;5;231m")
		}
		for x := range size {
			up, down := dark(x, y), dark(x, y+1)
			if y+1 >= size {
				down = false
			}
			if !colour { // drawn in light: what is light is inked
				up, down = !up, !down && y+1 < size
			}
			switch {
			case up && down:
				b.WriteRune('█')
			case up:
				b.WriteRune('▀')
			case down:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		if colour {
			b.WriteString("\x1b[0m")
		}
		out = append(out, b.String())
	}
	return out
}
