package main

import (
	"strings"
	"testing"

	"rsc.io/qr"
)

// modules reads drawn lines back: what a camera sees as dark.
func modules(lines []string, colour bool) [][]bool {
	var out [][]bool
	for _, l := range lines {
		l = strings.NewReplacer("\x1b[38;5;16;48;5;231m", "", "\x1b[0m", "").Replace(l)
		var up, down []bool
		for _, r := range l {
			u, d := r == '█' || r == '▀', r == '█' || r == '▄'
			if !colour { // ink is light
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
		for _, colour := range []bool{true, false} {
			got := modules(qrLines(text, 80, 24, colour), colour)
			if len(got) < want.Size+2*qrMargin {
				t.Fatalf("%q: %d rows", text, len(got))
			}
			for y := range want.Size + 2*qrMargin {
				if len(got[y]) != want.Size+2*qrMargin {
					t.Fatalf("%q: row %d has %d modules", text, y, len(got[y]))
				}
				for x := range got[y] {
					if got[y][x] != want.Black(x-qrMargin, y-qrMargin) {
						t.Fatalf("%q, colour %v: module %d,%d is wrong", text, colour, x, y)
					}
				}
			}
		}
	}
}

func TestQRCodeFitsOrIsNotDrawn(t *testing.T) {
	const text = "https://auth.openai.com/codex/device"
	if l := qrLines(text, 80, 20, true); len(l) == 0 || len(l) > 17 {
		t.Errorf("%d lines on a small terminal", len(l))
	}
	if l := qrLines(text, 20, 24, true); l != nil {
		t.Error("drawn where it is too wide")
	}
	if l := qrLines(text, 80, 10, true); l != nil {
		t.Error("drawn where it is too high")
	}
	if l := qrLines(strings.Repeat("x", 5000), 80, 24, true); l != nil {
		t.Error("drawn although it is too long for a code")
	}
}
