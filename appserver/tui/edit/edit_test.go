package edit

import (
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/text"
)

// press applies keys by name; anything unknown is typed.
func press(b *Buffer, keys ...string) {
	codes := map[string]tea.KeyPressMsg{
		"left": {Code: tea.KeyLeft}, "right": {Code: tea.KeyRight}, "home": {Code: tea.KeyHome}, "end": {Code: tea.KeyEnd},
		"bs": {Code: tea.KeyBackspace}, "del": {Code: tea.KeyDelete},
		"word-left": {Code: tea.KeyLeft, Mod: tea.ModAlt}, "kill-word": {Code: 'w', Mod: tea.ModCtrl},
		"kill-end": {Code: 'k', Mod: tea.ModCtrl}, "kill-start": {Code: 'u', Mod: tea.ModCtrl}, "yank": {Code: 'y', Mod: tea.ModCtrl},
	}
	for _, k := range keys {
		if m, ok := codes[k]; ok {
			b.Key(m)
			continue
		}
		b.Key(tea.KeyPressMsg{Code: tea.KeyExtended, Text: k})
	}
}

func TestEditing(t *testing.T) {
	for name, tc := range map[string]struct {
		keys []string
		want string
	}{
		"type":                            {[]string{"a", "b"}, "ab"},
		"insert in the middle":            {[]string{"ac", "left", "b"}, "abc"},
		"backspace takes a whole family":  {[]string{"x👨‍👩‍👧", "bs"}, "x"},
		"accent joins its letter":         {[]string{"e", "\u0301", "bs"}, ""},
		"delete":                          {[]string{"abc", "home", "del"}, "bc"},
		"word left":                       {[]string{"one two-three", "word-left", "X"}, "one two-Xthree"},
		"kill and yank":                   {[]string{"one two", "kill-word", "home", "yank"}, "twoone "},
		"kill to both ends":               {[]string{"abcd", "left", "left", "kill-end", "kill-start"}, ""},
		"control characters are not text": {[]string{"a\x1b[31mb\x07c"}, "abc"},
		"line ends":                       {[]string{"a\r\nb\rc"}, "a\nb\nc"},
	} {
		t.Run(name, func(t *testing.T) {
			var b Buffer
			press(&b, tc.keys...)
			if got := b.Text(); got != tc.want {
				t.Errorf("after %q the text is %q, want %q", tc.keys, got, tc.want)
			}
		})
	}
}

func TestAtomIsOneCharacterWorthItsText(t *testing.T) {
	var b Buffer
	b.Insert("see ")
	b.InsertAtom("[pasted 3 lines]", "1\n2\n3")
	b.Insert(" ok")
	if got := b.Text(); got != "see 1\n2\n3 ok" {
		t.Errorf("Text = %q", got)
	}
	if got := b.Shown(); got != "see [pasted 3 lines] ok" {
		t.Errorf("Shown = %q", got)
	}
	press(&b, "left", "left", "left", "bs")
	if got := b.Text(); got != "see  ok" {
		t.Errorf("after deleting the atom: %q", got)
	}
}

func TestFullBufferRefuses(t *testing.T) {
	var b Buffer
	if !b.InsertAtom("x", strings.Repeat("a", MaxBytes-1)) {
		t.Fatal("what fits was refused")
	}
	if b.Insert("bb") {
		t.Error("more than fits was taken")
	}
	if !b.Insert("b") {
		t.Error("the last byte was refused")
	}
}

func TestLayoutKeepsTheCursorInside(t *testing.T) {
	var b Buffer
	b.Insert("hello wide 漢字漢字 world\n\nlast")
	for w := 1; w < 40; w++ {
		for b.pos = 0; b.pos <= len(b.cells); b.pos++ {
			lines, x, y := b.Layout(w)
			if y < 0 || y >= len(lines) || x < 0 || x >= max(w, 1) {
				t.Fatalf("width %d, cursor %d: at %d,%d of %d lines", w, b.pos, x, y, len(lines))
			}
			for _, l := range lines {
				if n := text.Width(l); n >= w && w > 3 {
					t.Fatalf("width %d: a line of %d cells: %q", w, n, l)
				}
			}
			if got := strings.Join(lines, ""); got != strings.ReplaceAll(b.Shown(), "\n", "") {
				t.Fatalf("width %d lost text: %q", w, got)
			}
		}
	}
}

func TestVerticalKeepsItsColumn(t *testing.T) {
	var b Buffer
	b.Insert("abcdef\nx\nuvwxyz")
	b.pos = 4
	down := func() bool { return b.Vertical(1, 80) }
	if first, second, third := down(), down(), down(); !first || !second || third {
		t.Fatal("vertical moves do not end at the last line")
	}
	press(&b, "_")
	if got := b.Text(); got != "abcdef\nx\nuvwx_yz" {
		t.Errorf("typed at %q", got)
	}
}

func FuzzEditing(f *testing.F) {
	f.Add("hello\x1b[31m 漢字 👨‍👩‍👧\u0301", 7)
	f.Fuzz(func(t *testing.T, s string, w int) {
		var b Buffer
		b.Insert(s)
		w = max(w%80, 1)
		lines, _, y := b.Layout(w)
		if y >= len(lines) {
			t.Fatalf("cursor on line %d of %d", y, len(lines))
		}
		for b.Vertical(-1, w) {
		}
		for !b.Empty() {
			n := len(b.cells)
			press(&b, "end", "bs", "del")
			if len(b.cells) == n {
				b.pos = len(b.cells)
			}
		}
		if b.bytes != 0 {
			t.Fatalf("an empty buffer counts %d bytes", b.bytes)
		}
	})
}
