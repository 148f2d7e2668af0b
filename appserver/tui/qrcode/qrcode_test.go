package qrcode

import (
	"strings"
	"testing"

	"rsc.io/qr"
)

// modules reads drawn lines back: what a camera sees as dark.
func modules(lines []string, ink Ink) [][]bool {
	var out [][]bool
	for _, l := range lines {
		l = strings.NewReplacer("\x1b[38;5;16;48;5;231m", "", "\x1b[0m", "").Replace(l)
		var up, down []bool
		for _, r := range l {
			u, d := r == '█' || r == '▀', r == '█' || r == '▄'
			if ink == OnDark { // ink is light
				u, d = !u, !d
			}
			up, down = append(up, u), append(down, d)
		}
		out = append(out, up, down)
	}
	return out
}

func TestQRCodeIsDrawnWhole(t *testing.T) {
	for _, text := range []string{"https://auth.openai.com/codex/device", "https://login.example.com/device?user_code=ABCD-EFGHI", "x"} {
		want, err := qr.Encode(text, qr.L)
		if err != nil {
			t.Fatal(err)
		}
		for _, ink := range []Ink{OnDark, OnLight, Colours} {
			got := modules(Lines(text, ink, 80, 24), ink)
			if len(got) < want.Size+2*margin {
				t.Fatalf("%q: %d rows", text, len(got))
			}
			for y := range want.Size + 2*margin {
				if len(got[y]) != want.Size+2*margin {
					t.Fatalf("%q: row %d has %d modules", text, y, len(got[y]))
				}
				for x := range got[y] {
					if got[y][x] != want.Black(x-margin, y-margin) {
						t.Fatalf("%q, ink %v: module %d,%d is wrong", text, ink, x, y)
					}
				}
			}
		}
	}
}

func TestQRCodeFitsOrIsNotDrawn(t *testing.T) {
	const text = "https://auth.openai.com/codex/device"
	if l := Lines(text, Colours, 80, 20); len(l) == 0 || len(l) > 17 {
		t.Errorf("%d lines on a small terminal", len(l))
	}
	if l := Lines(text, Colours, 20, 24); l != nil {
		t.Error("drawn where it is too wide")
	}
	if l := Lines(text, Colours, 80, 10); l != nil {
		t.Error("drawn where it is too high")
	}
	if l := Lines(strings.Repeat("x", 5000), Colours, 80, 24); l != nil {
		t.Error("drawn although it is too long for a code")
	}
}
