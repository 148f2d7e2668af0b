package diffview

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

var update = flag.Bool("update", false, "write the golden files")

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

func moved(to string) *string { return &to }

var updates = []protocol.FileUpdate{
	{Path: "/home/ana/src/shop/checkout/pay.go", Kind: protocol.UpdateKind{Type: "update"}, Diff: "@@ -36,6 +36,8 @@ type Service struct {\n" +
		" // Pay charges once.\n func (s *Service) Pay(ctx context.Context, id string) error {\n-\tif s.seen[id] { return nil }\n+\ts.mu.Lock()\n+\tdefer s.mu.Unlock()\n" +
		"+\tif s.seen[id] { return errors.New(\"already paid, and this line is long enough to be wrapped on every terminal\") }\n \treturn s.charge(ctx, id)\n }\n" +
		"@@ -90,3 +92,3 @@\n /* a comment\n-   that ends here */ var old = 1\n+   that ends there */ var old = 2\n\\ No newline at end of file\n"},
	{Path: "/home/ana/src/shop/notes/a very long folder name/which goes on and on/README.md", Kind: protocol.UpdateKind{Type: "add"}, Diff: "# Notes\n\nfirst 世界\nno newline"},
	{Path: "/home/ana/src/shop/old.py", Kind: protocol.UpdateKind{Type: "delete"}, Diff: "def main():\n\treturn 1\n"},
	{Path: "/home/ana/src/shop/a.txt", Kind: protocol.UpdateKind{Type: "update", MovePath: moved("/home/ana/src/shop/b.txt")}, Diff: "@@ -1 +1 @@\n-one\n+two\n\n\nMoved to: /home/ana/src/shop/b.txt"},
	{Path: "/home/ana/src/shop/empty", Kind: protocol.UpdateKind{Type: "add"}},
}

const unified = `diff --git a/pay.go b/pay.go
index 1111111..2222222 100644
--- a/pay.go
+++ b/pay.go
@@ -1,4 +1,4 @@ package checkout
 package checkout
 
-import "sync"
+import "sync/atomic"
 
diff --git a/old.go b/new.go
similarity index 90%
rename from old.go
rename to new.go
--- a/old.go
+++ b/new.go
@@ -10,2 +10,3 @@
 a
+b
 c
diff --git a/run.sh b/run.sh
old mode 100644
new mode 100755
diff --git a/logo.png b/logo.png
new file mode 100644
index 0000000..3333333
Binary files /dev/null and b/logo.png differ
`

func TestGolden(t *testing.T) {
	for _, th := range []*theme.Theme{theme.Dark(), theme.Light(), theme.ANSI16(), theme.Plain()} {
		for _, width := range []int{40, 80} {
			o := Options{Theme: th, Width: width, Cwd: "/home/ana/src/shop"}
			name := fmt.Sprintf("%s-%d", th.Name, width)
			t.Run(name, func(t *testing.T) {
				lines := RenderAll(updates, o)
				lines = append(lines, "", "==== unified", "")
				lines = append(lines, RenderUnified(unified, o)...)
				check(t, lines, width)
				golden(t, name, strings.ReplaceAll(strings.Join(lines, "\n"), "\x1b", "␛")+"\n")
			})
		}
	}
}

// check holds what every drawing promises: its width, and that nothing but
// styles was written.
func check(t *testing.T, lines []string, width int) {
	t.Helper()
	for _, l := range lines {
		if w := text.Width(l); w > width {
			t.Fatalf("line is %d cells wide, want at most %d: %q", w, width, l)
		}
		plain := text.Clean(l)
		for rest := l; ; {
			i := strings.IndexByte(rest, 0x1b)
			if i < 0 {
				break
			}
			end := strings.IndexByte(rest[i:], 'm')
			if end < 0 || strings.Trim(rest[i+1:i+end], "[0123456789;:") != "" {
				t.Fatalf("something else than a style in %q", l)
			}
			rest = rest[i+end:]
		}
		if strings.ContainsAny(plain, "\n\r\t") {
			t.Fatalf("control characters in %q", l)
		}
	}
}

func TestCounts(t *testing.T) {
	for i, want := range []string{"+4 −2", "+4 −0", "+0 −2", "+1 −1", "+0 −0"} {
		if got := Count(updates[i]).String(); got != want {
			t.Errorf("Count(%s) = %s, want %s", updates[i].Path, got, want)
		}
	}
	if n, c := CountUnified(unified); n != 4 || c != (Counts{2, 1}) {
		t.Errorf("CountUnified = %d files, %v", n, c)
	}
	if n, c := CountUnified("no diff at all"); n != 0 || c != (Counts{}) {
		t.Errorf("CountUnified of prose = %d files, %v", n, c)
	}
}

func TestFold(t *testing.T) {
	u := protocol.FileUpdate{Path: "x", Kind: protocol.UpdateKind{Type: "add"}, Diff: strings.Repeat("line\n", 220)}
	lines := Render(u, Options{Width: 60, MaxLines: 8, FoldHint: "ctrl+o"})
	if len(lines) != 10 {
		t.Fatalf("%d lines, want a heading, 8 lines and the fold", len(lines))
	}
	if got := text.Clean(lines[9]); got != "  … 212 more lines (ctrl+o)" {
		t.Errorf("fold = %q", got)
	}
	if lines := Render(u, Options{Width: 60, MaxLines: 220, NoHeader: true}); len(lines) != 220 {
		t.Errorf("%d lines when all fit, want 220", len(lines))
	}
}

// TestNothingIsHidden: people approve what they see, so what would not be seen on
// a terminal must be shown.
func TestNothingIsHidden(t *testing.T) {
	u := protocol.FileUpdate{
		Path: "/x/a\x1b]0;t\x07.sh", Kind: protocol.UpdateKind{Type: "add"},
		Diff: "rm -rf / # \r\x1b[2K+echo hello\nif admin\u202e {\u2066 // check\nzero\u200bwidth\n\x9b31m\n",
	}
	got := text.Clean(strings.Join(Render(u, Options{Width: 80}), "\n"))
	for _, want := range []string{"rm -rf / # ␍␛[2K+echo hello", "<U+202E>", "<U+2066>", "zero<U+200B>width", `\x9b31m`, "a␛]0;t␇.sh"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not shown in:\n%s", want, got)
		}
	}
}

func TestUnparsedIsShown(t *testing.T) {
	got := RenderUnified("@@ nonsense\n+added\n-removed\n", Options{Width: 40})
	if s := text.Clean(strings.Join(got, "|")); s != "@@ nonsense|+added|-removed" {
		t.Errorf("got %q", s)
	}
	if got := RenderUnified("", Options{Width: 40}); len(got) != 0 {
		t.Errorf("an empty diff drew %q", got)
	}
}

func TestHugeDiffIsLinear(t *testing.T) {
	u := protocol.FileUpdate{
		Path: "x.go", Kind: protocol.UpdateKind{Type: "update"},
		Diff: "@@ -1 +1 @@\n" + strings.Repeat("-func f(a int) { /*\n", 40_000) + strings.Repeat("+func f(b int) { \"\n", 40_000),
	}
	start := time.Now()
	lines := Render(u, Options{Theme: theme.Dark(), Width: 80})
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
	if len(lines) > maxLines+3 {
		t.Errorf("%d lines drawn, want a bound", len(lines))
	}
}

func FuzzRender(f *testing.F) {
	for _, u := range updates {
		f.Add(u.Path, u.Kind.Type, u.Diff, 60, 0)
	}
	f.Add("a.go", "unified", unified, 40, 5)
	f.Add("x", "update", "@@\n@@ -99999999999999999999 +0 @@\n+\x1b[31m\u202e\n\\ x\n", 20, 3)
	f.Fuzz(func(t *testing.T, path, kind, diff string, width, fold int) {
		o := Options{Theme: theme.Dark(), Width: minWidth + (width&0xffff)%150, MaxLines: fold & 0xff, Cwd: "/a"}
		u := protocol.FileUpdate{Path: path, Kind: protocol.UpdateKind{Type: kind}, Diff: diff}
		lines := Render(u, o)
		if kind == "unified" {
			lines = RenderUnified(diff, o)
		}
		check(t, lines, o.Width)
		Count(u)
		CountUnified(diff)
	})
}
