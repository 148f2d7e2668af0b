package text

import (
	"strings"
	"testing"
)

func TestReveal(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"plain":            {"echo hi\nls", "echo hi\nls"},
		"escape":           {"a\x1b[2Kb", "a␛[2Kb"},
		"carriage return":  {"rm -rf / #\recho hi", "rm -rf / #␍echo hi"},
		"windows line end": {"a\r\nb", "a\nb"},
		"backspace":        {"ls\b\brm", "ls␈␈rm"},
		"delete and bell":  {"\x7f\a", "␡␇"},
		"8-bit control":    {"\u009b31m", "<U+009B>31m"},
		"invalid bytes":    {"a\x9b\xff", `a\x9b\xff`},
		"override":         {"if\u202e x", "if<U+202E> x"},
		"zero width":       {"pay\u200bpal\u200d", "pay<U+200B>pal<U+200D>"},
		"tag characters":   {"ok\U000e0041", "ok<U+E0041>"},
		"line separator":   {"a\u2028b", "a<U+2028>b"},
		"tabs":             {"\tx", "    x"},
		"family":           {"👨\u200d👩\u200d👧 ❤\ufe0f", "👨\u200d👩\u200d👧 ❤\ufe0f"},
		"persian":          {"می\u200cخواهم", "می\u200cخواهم"},
		"marks":            {"e" + strings.Repeat("\u0301", 9), "e" + strings.Repeat("\u0301", 8) + "<U+0301>"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Reveal(tc.in, 4); got != tc.want {
				t.Errorf("Reveal(%q) = %q, want %q", tc.in, got, tc.want)
			}
		})
	}
	if got := RevealLine("a\nb"); got != "a␊b" {
		t.Errorf("RevealLine = %q", got)
	}
}

func FuzzReveal(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Reveal(s, 4)
		checkClean(t, got)
		if again := Reveal(got, 4); again != got {
			t.Fatalf("Reveal is not idempotent: %q, then %q", got, again)
		}
		if again := Clean(got); again != got {
			t.Fatalf("Clean changes what Reveal made: %q, then %q", got, again)
		}
	})
}
