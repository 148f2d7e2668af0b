package markdown

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with a file, and writes the file with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run with -update and review the diff):\n%s", file, got)
	}
}

// visible writes escape sequences so that a diff of goldens can be read.
func visible(lines []string) string {
	return strings.ReplaceAll(strings.Join(lines, "\n"), "\x1b", "␛") + "\n"
}

func TestGolden(t *testing.T) {
	src, err := os.ReadFile("testdata/sample.md")
	if err != nil {
		t.Fatal(err)
	}
	themes := []*theme.Theme{theme.Dark(), theme.Light(), theme.ANSI16(), theme.Plain()}
	for _, th := range themes {
		for _, width := range []int{30, 80} {
			name := fmt.Sprintf("%s-%d", th.Name, width)
			t.Run(name, func(t *testing.T) {
				lines := New(th).Render(string(src), width)
				check(t, lines, width)
				golden(t, name, visible(lines))
			})
		}
	}
}

// check holds what every drawing promises.
func check(t *testing.T, lines []string, width int) {
	t.Helper()
	for _, l := range lines {
		if w := text.Width(l); w > width {
			t.Fatalf("line is %d cells wide, want at most %d: %q", w, width, l)
		}
		if strings.Contains(l, "\n") {
			t.Fatalf("a line holds a newline: %q", l)
		}
		if open := openStyle(l); open != "" {
			t.Fatalf("%q runs over the end of line %q", open, l)
		}
	}
}

// openStyle is the style or link that a line leaves on.
func openStyle(line string) string {
	open, link := "", ""
	for i := strings.IndexByte(line, 0x1b); i >= 0; i = strings.IndexByte(line, 0x1b) {
		line = line[i:]
		switch {
		case strings.HasPrefix(line, "\x1b[m"):
			open = ""
		case strings.HasPrefix(line, "\x1b["):
			open = line[:strings.IndexByte(line, 'm')+1]
		case strings.HasPrefix(line, "\x1b]8;;\x07"):
			link = ""
		case strings.HasPrefix(line, "\x1b]8;;http"):
			link = line[:10]
		default:
			return line // nothing else may be written
		}
		line = line[1:]
	}
	return open + link
}

// whole draws a document without splitting it into blocks.
func whole(r *Renderer, src string, width int) []string {
	var guarded []byte
	cleaned := strings.TrimSuffix(text.CleanTabs(src, tab), "\n")
	for l := range strings.SplitSeq(cleaned, "\n") {
		guarded = append(append(guarded, guard(l)...), '\n')
	}
	return r.draw(guarded, parse(guarded), nil, max(width, minWidth))
}

// streamed appends src in pieces of random size and draws now and then.
func streamed(r *Renderer, src string, width int, rnd *rand.Rand) []string {
	s := r.NewStream()
	for src != "" {
		n := min(len(src), 1+rnd.IntN(12))
		s.Append(src[:n])
		src = src[n:]
		if rnd.IntN(3) == 0 {
			w := width
			if rnd.IntN(20) == 0 {
				w += 7
			}
			s.Lines(w)
		}
	}
	return s.Lines(width)
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w || (i < len(got)) != (i < len(want)) {
			t.Fatalf("%s: line %d is %q, want %q", what, i, g, w)
		}
	}
}

var seeds = []string{
	"", "plain", "a\n\nb\n", "# h\ntext\n===\n\nmore", "- a\n\n  b\n- c\n\n1. x\n2. y\n", "```go\nfunc main() {\n\n}\n```\nafter",
	"> q\nlazy\n\n> r\n", "| a | b |\n|--:|:-:|\n| 1 | `x\\|y` |\n\nend", "para\n| a | b |\n|---|---|\n| 1 | 2 |\n", "- ```\n  code\n\n  more\n  ```\n\nend",
	"    code\n\n    code\n\ntext", "<div>\n\ntext\n</div>\n", "<!-- open\n\nstill\n", "***a** b* ~~c~~ [l](http://x \"t\") ![i](u) <http://y> http://z.\n",
	"[a]: http://x\n[a]\n", "* * *\n---\n", "&#27;[31m &amp; \\* \\&lt; &#x202e;", "- [x] done\n- [ ] todo\n", "a  \nb\\\nc", "1) a\n   - b\n\n     c\n",
	"para\n#", "\x1b]0;t\x07x\r\n\ty", "```\nunclosed\n\n# not a heading\n", "世界 **世界**\n\n\n\n\nx", "| a |\n|---|\n\n| b |\n", "-\n\n  x\n", "\\\n\n&\n",
}

func TestStreamEqualsRender(t *testing.T) {
	sample, err := os.ReadFile("testdata/sample.md")
	if err != nil {
		t.Fatal(err)
	}
	r := New(theme.Dark())
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		src := string(sample)
		for range 5 {
			src += "\n\n" + seeds[rnd.IntN(len(seeds))]
		}
		want := New(theme.Dark()).Render(src, 60)
		same(t, "stream", streamed(r, src, 60, rnd), want)
		same(t, "unsplit", whole(r, src, 60), want)
	}
}

func FuzzStream(f *testing.F) {
	for i, s := range seeds {
		f.Add(s, 20+i, uint64(i))
	}
	f.Fuzz(func(t *testing.T, src string, width int, seed uint64) {
		if len(src) > 4096 {
			return
		}
		src = strings.ToValidUTF8(src, "\ufffd") // a character cut at the end is waited for
		width = minWidth + (width&0xffff)%120
		r := New(theme.Dark().WithHyperlinks())
		want := New(theme.Dark().WithHyperlinks()).Render(src, width)
		check(t, want, width)
		same(t, "stream", streamed(r, src, width, rand.New(rand.NewPCG(seed, 3))), want)
		same(t, "unsplit", whole(r, src, width), want)
	})
}

func TestHostileInput(t *testing.T) {
	n := maxSource / 8 // the whole takes eight times as long; a quadratic case would show at once
	rep := func(s string) string { return strings.Repeat(s, n/len(s)) }
	var stairs strings.Builder
	for i := 0; stairs.Len() < n; i++ {
		stairs.WriteString(strings.Repeat(" ", i%2000) + "- a\n")
	}
	for name, src := range map[string]string{
		"quotes on one line": rep("> "), "quotes without spaces": rep(">"), "lists on one line": rep("- "), "numbers on one line": rep("1. "),
		"brackets": rep("["), "closed brackets": rep("[a]("), "images": rep("![a]("), "stars": rep("*a **b "), "one long run": rep("*"), "underscores": rep("_a "),
		"mixed emphasis": rep("*_a"), "backticks": rep("`a``b```c"), "comments": rep("<!-- a"), "tags": rep("<a b"), "instructions": rep("<?"), "cdata": rep("<![CDATA["),
		"addresses": rep("http://a"), "references": rep("&#27;"), "amps": rep("&"), "backslashes": rep("\\"), "tildes": rep("~~a"), "autolinks": rep("<http:"),
		"stairs": stairs.String(), "many quotes": rep("> a\n"), "many lists": rep("- a\n"), "paragraphs": rep("a *b* `c`\n\n"), "headings": rep("# a\n"),
		"wide table": "|" + rep2("a|", 500) + "\n|" + rep2("-|", 500) + "\n" + rep("a\n"), "long table": "|a|b|\n|-|-|\n" + rep("|a|b|\n"),
		"fence": "```go\n" + rep("func f() { /* \" */ }\n"), "long code line": "```c\n" + rep("a(\" "), "delims": rep("a|b\n-|-\n"), "links": rep("[a](b) "), "nested links": rep("[[a](b)"),
		"setext": rep("a\n=\n"), "alternating": rep("> - "), "deep": rep2("> ", 20) + rep2("- ", 20) + "x\n" + rep("y\n"), "html blocks": rep("<div>\n"), "escaped pipes": "|a|\n|-|\n" + rep("|`\\|`|\n"),
		"long word": rep("a"), "spaces": rep(" "), "newlines": rep("\n"), "deep fences": rep("> ```\n"), "emoji": rep("👩\u200d"), "tabs": rep("\t- a\n"),
	} {
		t.Run(name, func(t *testing.T) {
			var parts strings.Builder // the same as many paragraphs, each within the limits of one
			for i := 0; i < len(src) && parts.Len() < n-8192; i += 8000 {
				parts.WriteString(src[i:min(i+8000, len(src))] + "\n\n")
			}
			for form, src := range map[string]string{"one": src, "many": parts.String()} {
				start := time.Now()
				lines := New(theme.Dark()).Render(src, 80)
				d := time.Since(start)
				t.Logf("%s: %v, %d lines", form, d, len(lines))
				if d > 20*time.Second {
					t.Errorf("%s: 128 KB took %v", form, d)
				}
			}
		})
	}
}

func rep2(s string, n int) string { return strings.Repeat(s, n) }

// BenchmarkStream compares drawing after one more word with drawing everything.
func BenchmarkStream(b *testing.B) {
	for name, src := range map[string]string{
		"paragraphs": strings.Repeat("A paragraph with *some* `code` in it, as they come.\n\n", 2000),
		"code block": "```go\n" + strings.Repeat("\tif err := f(x); err != nil { // why\n", 5000),
		"list":       strings.Repeat("- a point with **weight**\n", 1000),
	} {
		b.Run(name+"/one more word", func(b *testing.B) {
			s := New(theme.Dark()).NewStream()
			s.Append(src)
			s.Lines(80)
			for b.Loop() {
				s.Append("word ")
				s.Lines(80)
			}
		})
		b.Run(name+"/all again", func(b *testing.B) {
			r := New(theme.Dark())
			for b.Loop() {
				r.code = codeMemo{}
				r.Render(src, 80)
			}
		})
	}
}

// TestOnlyTheTailIsDrawnAgain: a long answer must not get slower word by word.
func TestOnlyTheTailIsDrawnAgain(t *testing.T) {
	src := strings.Repeat("A paragraph with *some* `code` in it, as they come.\n\n", 3000)
	start := time.Now()
	New(theme.Dark()).Render(src, 80)
	all := time.Since(start)
	s := New(theme.Dark()).NewStream()
	s.Append(src)
	s.Lines(80)
	start = time.Now()
	const words = 20
	for range words {
		s.Append("word ")
		s.Lines(80)
	}
	if one := time.Since(start) / words; one > all/10 {
		t.Errorf("one more word takes %v, everything %v", one, all)
	}
}
