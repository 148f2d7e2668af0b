package syntax

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

var kindNames = [Kinds]string{"", "comment", "keyword", "type", "func", "string", "number", "", "tag", "key"}

// spell writes tokens as kind(text), plain ones as they are.
func spell(l *Language, src string) string {
	var b strings.Builder
	var st State
	for i, line := range strings.Split(src, "\n") {
		if i > 0 {
			b.WriteByte('\n')
		}
		var tokens []Token
		tokens, st = l.Line(st, line)
		for _, t := range tokens {
			if n := kindNames[t.Kind]; n != "" {
				fmt.Fprintf(&b, "%s(%s)", n, t.Text)
			} else {
				b.WriteString(t.Text)
			}
		}
	}
	return b.String()
}

func TestLine(t *testing.T) {
	for name, tc := range map[string]struct{ lang, src, want string }{
		"go":              {"go", `func f(s string) { return 0x1F + "a\"b" } // x`, `keyword(func) func(f)(s type(string)) { keyword(return) number(0x1F) + string("a\"b") } comment(// x)`},
		"go raw string":   {"go", "a := `x\n// y` + z", "a := string(`x)\nstring(// y`) + z"},
		"block comment":   {"c", "int a; /* b\n\" c */ 'd'", "type(int) a; comment(/* b)\ncomment(\" c */) string('d')"},
		"open string":     {"go", "x = \"open\ny", "x = string(\"open)\ny"},
		"python":          {"py", "def f(): # c\n  '''doc\n  end''' + X", "keyword(def) func(f)(): comment(# c)\n  string('''doc)\nstring(  end''') + type(X)"},
		"shell":           {"bash", `if [ $x = "a" ]; then echo it's; fi # z`, `keyword(if) [ key($x) = string("a") ]; keyword(then) echo it's; keyword(fi) comment(# z)`},
		"json":            {"json", `{"a": "b", "c": true, "d": -1.5e-3}`, `{key("a"): string("b"), key("c"): keyword(true), key("d"): -number(1.5e-3)}`},
		"yaml":            {"yaml", "- name: x # y\n  a.b: \"q\"", "- key(name): x comment(# y)\n  key(a.b): string(\"q\")"},
		"toml":            {"toml", "a-b = 1\n[t]", "key(a-b) = number(1)\n[t]"},
		"sql":             {"sql", "SELECT a FROM t -- c", "keyword(SELECT) a keyword(FROM) t comment(-- c)"},
		"html":            {"html", `<a href="x">it's</a> <!-- c -->`, `tag(<a) key(href)=string("x")tag(>)it'stag(</a>) comment(<!-- c -->)`},
		"rust lifetime":   {"rust", "fn f<'a>(x: &'a str) {}", "keyword(fn) f<'a>(x: &'a type(str)) {}"},
		"fragment in url": {"sh", "curl http://x/#a", "curl http://x/#a"},
	} {
		t.Run(name, func(t *testing.T) {
			l := Named(tc.lang)
			if l == nil {
				t.Fatalf("%s is unknown", tc.lang)
			}
			if got := spell(l, tc.src); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestFinding(t *testing.T) {
	for file, want := range map[string]string{
		"a/b.go": "go", "X.PY": "python", "Makefile": "makefile", "Dockerfile": "dockerfile", "go.mod": "go", "CMakeLists.txt": "makefile",
		"x.unknown": "", "noext": "", "": "", ".bashrc": "bash", "a.tsx": "javascript",
	} {
		got := ""
		if l := ForFile(file); l != nil {
			got = l.Name
		}
		if got != want {
			t.Errorf("ForFile(%q) = %q, want %q", file, got, want)
		}
	}
	for info, want := range map[string]string{"go": "go", "Go title=x": "go", "{.python}": "python", "rust,ignore": "rust", "": "", "klingon": ""} {
		got := ""
		if l := Named(info); l != nil {
			got = l.Name
		}
		if got != want {
			t.Errorf("Named(%q) = %q, want %q", info, got, want)
		}
	}
}

func TestDraw(t *testing.T) {
	p := NewPainter(theme.Dark())
	tokens, _ := Named("go").Line(0, "return nil // done")
	got := p.Draw(tokens)
	if text.Clean(got) != "return nil // done" || !strings.Contains(got, "\x1b[") {
		t.Errorf("Draw = %q", got)
	}
	if got := NewPainter(theme.Plain()).Draw(tokens[:1]); got != "return" {
		t.Errorf("without colours Draw = %q", got)
	}
}

func TestLongLinesAreLinear(t *testing.T) {
	for _, unit := range []string{"a", "a ", "\"", "/*", "x\" ", "a:", " ", "-", "#", "<a ", "1", "'''", "\\", "世"} {
		line := strings.Repeat(unit, 1<<20/len(unit))
		for name, l := range table() {
			if name != l.Name {
				continue
			}
			start := time.Now()
			l.Line(0, line[:1<<15])
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("%s: 32 KB of %q took %v", name, unit, d)
			}
		}
	}
}

// FuzzLine: tokens are the line, whatever it is and whatever came before.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"func f() { /* x", "x */ \"a\\", "'''", "<a b='c'>", "$x ${y} # z", "a: b", "\xff\x00", "世界 := 1e-5"} {
		f.Add(s, uint8(0), uint8(0))
	}
	var langs []*Language
	for i := range defs {
		langs = append(langs, Named(strings.Fields(defs[i].names)[0]))
	}
	f.Fuzz(func(t *testing.T, line string, lang, st uint8) {
		l := langs[int(lang)%len(langs)]
		tokens, next := l.Line(State(st), line)
		var b strings.Builder
		for _, tok := range tokens {
			b.WriteString(tok.Text)
		}
		if b.String() != line {
			t.Fatalf("%s: tokens are %q, want the line %q", l.Name, b.String(), line)
		}
		if int(next) > len(l.spans) && next != State(st) {
			t.Fatalf("%s: state %d after %q", l.Name, next, line)
		}
	})
}
