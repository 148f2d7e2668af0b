package text

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"plain":                      {"hello\nworld", "hello\nworld"},
		"empty":                      {"", ""},
		"colour":                     {"\x1b[31;1mred\x1b[0m!", "red!"},
		"colon parameters":           {"\x1b[38:2::1:2:3mx", "x"},
		"private mode":               {"\x1b[?1049h\x1b[?25lx", "x"},
		"window title, BEL":          {"a\x1b]0;owned\x07b", "ab"},
		"window title, ST":           {"a\x1b]0;owned\x1b\\b", "ab"},
		"hyperlink":                  {"\x1b]8;;http://evil\x1b\\text\x1b]8;;\x1b\\", "text"},
		"clipboard":                  {"\x1b]52;c;ZXZpbA==\x07x", "x"},
		"device control":             {"\x1bP+q544e\x1b\\x", "x"},
		"application command":        {"\x1b_Gf=100;AAAA\x1b\\x", "x"},
		"privacy and start of str":   {"\x1b^p\x1b\\\x1bXs\x1b\\x", "x"},
		"screen title":               {"\x1bktitle\x1b\\x", "x"},
		"unterminated title":         {"a\x1b]0;owned", "a"},
		"unterminated ends at line":  {"a\x1b]0;owned\nnext", "a\nnext"},
		"unterminated CSI":           {"a\x1b[12;", "a"},
		"CSI cut by a line":          {"a\x1b[12\nb", "a\nb"},
		"CSI broken by a letter":     {"\x1b[12é", "é"},
		"charset":                    {"\x1b(0lqk\x1b(B", "lqk"},
		"reset":                      {"\x1bcx", "x"},
		"escape escape":              {"\x1b\x1b[31mx", "x"},
		"lone escape at the end":     {"x\x1b", "x"},
		"escape in a string":         {"\x1b]0;a\x1b[31mx", "x"},
		"8-bit CSI as a rune":        {"a\u009b31mb", "ab"},
		"8-bit OSC as a rune":        {"a\u009d0;t\u009cb", "ab"},
		"raw 8-bit CSI":              {"a\x9b31mb", "a\ufffd31mb"},
		"other C1":                   {"a\u0085\u008db", "ab"},
		"C0 and DEL":                 {"a\x00\x01\x07\x0b\x0c\x7fb", "ab"},
		"invalid UTF-8":              {"a\xffb\xe2\x82", "a\ufffdb\ufffd\ufffd"},
		"overlong":                   {"\xc0\x9b31m", "\ufffd\ufffd31m"},
		"noncharacter":               {"\ufdd0\uffff", "\ufffd\ufffd"},
		"progress bar":               {"10%\r50%\r100%\ndone", "100%\ndone"},
		"progress still running":     {"10%\r50%\r", "50%"},
		"windows line ends":          {"a\r\nb\r\r\n", "a\nb\n"},
		"spinner with CSI G":         {"|\x1b[1G/\x1b[G-", "-"},
		"column seven stays":         {"abc\x1b[7Gd", "abcd"},
		"erase and redraw":           {"old\r\x1b[Knew", "new"},
		"backspace":                  {"|\b/\b-", "-"},
		"backspace over a character": {"é\be", "e"},
		"overstrike":                 {"N\bNA\bA", "NA"},
		"backspace at the start":     {"\n\b\bx", "\nx"},
		"tabs":                       {"a\tb\n\tc", "a       b\n        c"},
		"tab after wide":             {"世\tx", "世      x"},
		"bidi override":              {"user\u202etxt.exe", "usertxt.exe"},
		"bidi isolates and marks":    {"\u2066a\u2069\u200e\u200f\u061cb", "ab"},
		"zero width":                 {"pay\u200bpal\u2060\ufeff\u00ad", "paypal"},
		"fillers":                    {"a\u3164\u115f\u1160\uffa0b", "ab"},
		"tag smuggling":              {"ok\U000e0049\U000e0067n", "okn"},
		"selector smuggling":         {"ok\ufe00\U000e0100", "ok"},
		"line separator":             {"a\u2028b", "a\nb"},
		"family":                     {"👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"},
		"skin and joiner":            {"👩🏽\u200d💻", "👩🏽\u200d💻"},
		"heart on fire":              {"❤\ufe0f\u200d🔥", "❤\ufe0f\u200d🔥"},
		"keycap":                     {"1\ufe0f\u20e3", "1\ufe0f\u20e3"},
		"joiner between letters":     {"pay\u200dpal\u200c", "paypal"},
		"joiner at the end":          {"👨\u200d", "👨"},
		"persian":                    {"می\u200cخواهم", "می\u200cخواهم"},
		"conjunct":                   {"क्\u200dष", "क्\u200dष"},
		"arabic number sign":         {"\u0600\u0661", "\u0600\u0661"},
		"stacked marks":              {"a" + strings.Repeat("\u0301", 100) + "b", "a" + strings.Repeat("\u0301", 8) + "b"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Clean(tc.in); got != tc.want {
				t.Errorf("Clean(%q) = %q, want %q", tc.in, got, tc.want)
			}
		})
	}
}

func TestCleanLine(t *testing.T) {
	if got, want := CleanLine("fix\nthe \x1b[1mtest\x1b[0m\r\n\n"), "fix the test"; got != want {
		t.Errorf("CleanLine = %q, want %q", got, want)
	}
}

// checkClean fails when s could act on a terminal.
func checkClean(t *testing.T, s string) {
	t.Helper()
	if !utf8.ValidString(s) {
		t.Fatalf("invalid UTF-8 in %q", s)
	}
	for _, r := range s {
		if r < 0x20 && r != '\n' || r >= 0x7f && r < 0xa0 {
			t.Fatalf("control %U in %q", r, s)
		}
		if r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200b || r == 0xfeff {
			t.Fatalf("deceiving %U in %q", r, s)
		}
	}
}

var seeds = []string{
	"", "plain\ntext", "\x1b[31mred\x1b[0m", "\x1b]0;x\x07y", "a\x1b]8;;u\x1b\\t", "\x9b1m\u009b1mz", "1\r2\r\n3\b4", "a\tb\u0301\tc",
	"👨\u200d👩\u200d👧 \u200d\u200c", "می\u200cخ", "\xe2\x82", "\u061c\u0600\u202e", "❤\ufe0f\u200d\ufe0f🔥", "\x1bP\x1b\x1b\\\x18",
	"ا\u200d" + strings.Repeat("\u0610", 20) + "ب", "\u2028\x1b]x\u2029y",
}

func FuzzClean(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		checkClean(t, got)
		if again := Clean(got); again != got {
			t.Fatalf("Clean is not idempotent: %q, then %q", got, again)
		}
		if line := CleanLine(s); strings.Contains(line, "\n") {
			t.Fatalf("CleanLine kept a newline: %q", line)
		}
	})
}

// FuzzStream holds a Stream fed in pieces against Clean of the whole.
func FuzzStream(f *testing.F) {
	for i, s := range seeds {
		f.Add(s, uint64(i))
	}
	f.Fuzz(func(t *testing.T, s string, seed uint64) {
		want := strings.Split(Clean(s), "\n")
		rnd := rand.New(rand.NewPCG(seed, 1))
		st := Stream{MaxLines: 1 << 20, MaxLineBytes: 1 << 20}
		for rest := s; rest != ""; {
			n := 1 + rnd.IntN(min(len(rest), 7))
			st.Append(rest[:n])
			rest = rest[n:]
			if rnd.IntN(3) == 0 {
				checkClean(t, strings.Join(st.Lines(), "\n"))
			}
		}
		st.Close()
		got := st.Lines()
		if len(want) > 0 && want[len(want)-1] == "" {
			want = want[:len(want)-1]
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") || st.Dropped() != 0 {
			t.Fatalf("stream of %q\n got %q\nwant %q", s, got, want)
		}
	})
}

func TestStreamBounds(t *testing.T) {
	st := Stream{MaxLines: 10, MaxLineBytes: 20}
	for range 1000 {
		st.Append("line\n")
	}
	st.Append("last " + strings.Repeat("é", 1000) + "\x1b[31m")
	if n := len(st.Lines()); n != 11 {
		t.Errorf("%d lines kept, want the last 10 and the unfinished one", n)
	}
	if st.Dropped() != 990 {
		t.Errorf("Dropped = %d, want 990", st.Dropped())
	}
	if last := st.Lines()[10]; last != "last ééééééé" {
		t.Errorf("long line = %q", last)
	}
	st.Append("\r50%")
	if last := st.Lines()[10]; last != "50%" {
		t.Errorf("after the carriage return %q, want the line started again", last)
	}
}

// TestCleanIsLinear guards against quadratic behaviour on hostile input: a
// megabyte takes well under a second, and would take minutes.
func TestCleanIsLinear(t *testing.T) {
	for name, unit := range map[string]string{
		"open strings": "\x1b]", "csi": "\x1b[1;", "tabs": "\t", "joiners": "👩\u200d", "marks": "\u0301", "returns": "a\r", "backspaces": "a\b",
		"wrapped": "a\u0301 ",
	} {
		start := time.Now()
		Wrap(Clean(strings.Repeat(unit, 1<<20/len(unit))), 80)
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s: a megabyte took %v", name, d)
		}
	}
}

func TestWrap(t *testing.T) {
	for name, tc := range map[string]struct {
		in    string
		width int
		want  string
	}{
		"fits":               {"one two", 7, "one two"},
		"at a space":         {"one two three", 7, "one two|three"},
		"space at the edge":  {"one two  three", 7, "one two|three"},
		"long word":          {"abcdefghij", 4, "abcd|efgh|ij"},
		"long word after":    {"ab cdefghij", 4, "ab|cdef|ghij"},
		"keeps newlines":     {"a\n\nb", 4, "a||b"},
		"keeps indent":       {"  code x", 6, "  code|x"},
		"indent, long word":  {"  abcdefgh", 6, "  abcd|efgh"},
		"only spaces":        {"        ", 4, ""},
		"wide":               {"世界世界", 5, "世界|世界"},
		"wider than allowed": {"世", 1, "世"},
		"family":             {"a 👨\u200d👩\u200d👧 b", 4, "a 👨\u200d👩\u200d👧|b"},
		"zero width asked":   {"ab", 0, "a|b"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(Wrap(tc.in, tc.width), "|"); got != tc.want {
				t.Errorf("Wrap(%q, %d) = %q, want %q", tc.in, tc.width, got, tc.want)
			}
		})
	}
}

func FuzzWrap(f *testing.F) {
	for _, s := range seeds {
		f.Add(s, 5)
	}
	f.Add("the quick brown fox 世界 jumps", 9)
	f.Fuzz(func(t *testing.T, s string, width int) {
		width = 2 + (width&0x7fffffff)%100
		s = Clean(s)
		lines := Wrap(s, width)
		for _, l := range lines {
			if Width(l) > width {
				t.Fatalf("line %q is %d cells wide, want at most %d", l, Width(l), width)
			}
		}
		squeeze := strings.NewReplacer(" ", "", "\n", "")
		if got, want := squeeze.Replace(strings.Join(lines, "")), squeeze.Replace(s); got != want {
			t.Fatalf("text changed: %q, want %q", got, want)
		}
	})
}

func TestMeasures(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{Truncate("hello world", 6, "…"), "hello…"},
		{Truncate("\x1b[31mhello\x1b[m", 3, ""), "\x1b[31mhel\x1b[m"},
		{Truncate("x", 0, "…"), ""},
		{Fit("ab", 4), "ab  "},
		{Fit("世界世", 4), "世… "},
		{Between("left", "right", 12), "left   right"},
		{Between("a long left side", "right", 12), "a lon… right"},
		{Between("a long left side", "a long right side", 12), "a l… a long…"},
		{strings.Join(WrapStyled("\x1b[31mred red\x1b[m", 4), "|"), "\x1b[31mred\x1b[m|\x1b[31mred\x1b[m"},
		{strings.Join(Indent([]string{"a", "b"}, "> "), "|"), "> a|> b"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
}
