package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"slices"
	"strings"
	"testing"

	"towline/appserver/protocol"
)

func bash(t testing.TB) string {
	t.Helper()
	path, err := osexec.LookPath("bash")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("bash is not installed: the shell reader cannot be held against it")
		}
		t.Skip("NOT TESTED: bash is not installed")
	}
	return path
}

// readAs has bash take a list of simple commands apart: with no programs and
// next to no builtins, every command ends up with the handler, which prints the
// words it would have been run with.
func readAs(t testing.TB, bash, line string) [][]string {
	t.Helper()
	script := `set -f; command_not_found_handle() { printf '%s\0' "$@"; printf '\1\0'; }; PATH=/nonexistent; ` +
		`enable -n $(compgen -b | while read b; do case $b in printf|enable|"["|.|:) ;; *) echo "$b";; esac; done)` + "\n"
	cmd := osexec.Command(bash, "--norc", "--noprofile", "-c", script+line)
	cmd.Env = []string{"HOME=/nonexistent"}
	var out bytes.Buffer
	cmd.Stdout = &out
	var exit *osexec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) { // 127 is what the handler's commands end with
		t.Fatal(err)
	}
	var cmds [][]string
	var words []string
	for w := range strings.SplitSeq(strings.TrimSuffix(out.String(), "\x00"), "\x00") {
		if w == "\x01" {
			cmds = append(cmds, words)
			words = nil
			continue
		}
		words = append(words, w)
	}
	return cmds
}

// What a person agrees to by prefix must be what runs: wherever the reader
// claims to understand a line, bash must see the same words.
func TestShellReaderAgreesWithBash(t *testing.T) {
	sh := bash(t)
	for _, line := range []string{
		`a b c`, `a 'b c' "d e"`, `a 'b'"c"d`, `a "x\"y\\z\w"`, `a \; b`, `a '' ""`, `a b; c d`, "a b\nc d", `a -x=1 --y=2`, `a *.go ?x [ab]`,
		`a b 2>&1`, `a b 2>/dev/null`, `a b >/dev/null 2>&1`, `a é 世界`, `a b;`, `; a`, `a "b` + "\n" + `c"`, `a 'b\'`, `a b=c`, `a =b`, `a "*"`, `a b#c`,
		`a "!x" !y`, `a @ % ^ + , . /`, "a\tb", `a b ; ; c`, `a &&b`, `a ||b`, `a b~c`, `a "~"`, `a \~`, `a [ ]`, `a - --`, `a }`, `a x{1,2}`, `a "{1,2}"`,
	} {
		got, ok := plainCommands(line)
		if !ok {
			continue
		}
		agrees(t, sh, line, got)
	}
	for line, want := range map[string]bool{
		`a b`: true, `a | b`: true, `a $x`: false, "a `b`": false, `a > b`: false, `a & b`: false, `(a)`: false, `a {b,c}`: false, `X=1 a`: false,
		`a #b`: false, `a "b`: false, `if a; then b; fi`: false, `a && `: false, `&& a`: false, `a ;; b`: false, ``: false, `a <<E`: false, `~/a`: false,
	} {
		if _, ok := parseShell(line); ok != want {
			t.Errorf("parseShell(%q) = %v", line, ok)
		}
	}
}

func agrees(t testing.TB, sh, line string, got [][]string) {
	t.Helper()
	if strings.ContainsAny(line, "|&") || strings.ContainsRune(line, '\x01') {
		return // pipelines print out of order, lists stop at the first failure
	}
	want := readAs(t, sh, line)
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%q: reader says %q, bash says %q", line, got, want)
	}
}

func FuzzShellReader(f *testing.F) {
	sh := bash(f)
	for _, s := range []string{`a 'b c' "d"`, `a; b\ c`, `a "x\"y"`, "a\nb 2>&1", `a ~ # x`, `a {b,c} *`, `a $'x'`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got, ok := plainCommands(line)
		if !ok || len(line) > 60 || strings.ContainsRune(line, 0) {
			return
		}
		for _, words := range got {
			// Words that bash itself acts upon say nothing about splitting.
			if words[0] == "" || strings.ContainsAny(words[0], "/") || !strings.HasPrefix(words[0], "a") || words[0] == "alias" {
				return
			}
		}
		agrees(t, sh, line, got)
	})
}

func TestQuotingRoundTrips(t *testing.T) {
	sh := bash(t)
	for _, argv := range [][]string{
		{"/bin/bash", "-lc", "ls"},
		{"a", "it's", `"q"`, "$x", "`y`", `\`, "", "a b", "new\nline", "é", "!", "*", "~"},
		{"x", `it's "$HOME" \n`},
	} {
		line := shellJoin(argv)
		out, err := osexec.Command(sh, "--norc", "-c", "set -f; printf '%s\\0' "+line).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, argv) {
			t.Errorf("%q quoted as %s reads as %q", argv, line, got)
		}
	}
	// The forms Codex shows.
	for want, argv := range map[string][]string{
		"/bin/bash -lc ls":                           {"/bin/bash", "-lc", "ls"},
		"/bin/bash -lc 'sleep 30'":                   {"/bin/bash", "-lc", "sleep 30"},
		`/bin/bash -lc "seq 1 2000; printf '\\xff'"`: {"/bin/bash", "-lc", `seq 1 2000; printf '\xff'`},
	} {
		if got := shellJoin(argv); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestActions(t *testing.T) {
	one := func(typ, rest string) string { return `[{"type":"` + typ + `",` + rest + `}]` }
	for line, want := range map[string]string{
		"cat a.txt":              one("read", `"command":"cat a.txt","name":"a.txt","path":"/w/a.txt"`),
		"cat a.txt | head -1":    one("read", `"command":"cat a.txt","name":"a.txt","path":"/w/a.txt"`),
		"sed -n '1,20p' x/y.go":  one("read", `"command":"sed -n '1,20p' x/y.go","name":"y.go","path":"/w/x/y.go"`),
		"head -n 5 /etc/hosts":   one("read", `"command":"head -n 5 /etc/hosts","name":"hosts","path":"/etc/hosts"`),
		"tail -20 log":           one("read", `"command":"tail -20 log","name":"log","path":"/w/log"`),
		"nl -ba a.go":            one("read", `"command":"nl -ba a.go","name":"a.go","path":"/w/a.go"`),
		"cd sub && cat b":        one("read", `"command":"cat b","name":"b","path":"/w/sub/b"`),
		"ls":                     one("listFiles", `"command":"ls"`),
		"ls -la sub":             one("listFiles", `"command":"ls -la sub","path":"sub"`),
		"rg --files src | head":  one("listFiles", `"command":"rg --files src","path":"src"`),
		"find . -type f":         one("listFiles", `"command":"find . -type f","path":"."`),
		"find . -name '*.go'":    one("search", `"command":"find . -name '*.go'","path":".","query":"*.go"`),
		"rg -n foo src":          one("search", `"command":"rg -n foo src","path":"src","query":"foo"`),
		"rg -n -g '*.go' foo":    one("search", `"command":"rg -n -g '*.go' foo","query":"foo"`),
		"grep -rn 'a b' .":       one("search", `"command":"grep -rn 'a b' .","path":".","query":"a b"`),
		"grep -e x -e y f":       one("search", `"command":"grep -e x -e y f","path":"f","query":"y"`),
		"git grep foo":           one("search", `"command":"git grep foo","query":"foo"`),
		"git ls-files | wc -l":   one("listFiles", `"command":"git ls-files"`),
		"cat upd.txt && ls sub":  `[{"type":"read","command":"cat upd.txt","name":"upd.txt","path":"/w/upd.txt"},{"type":"listFiles","command":"ls sub","path":"sub"}]`,
		"make test":              one("unknown", `"command":"make test"`),
		"cat a; make":            one("unknown", `"command":"cat a; make"`),
		"cat a > b":              one("unknown", `"command":"cat a \u003e b"`),
		"cat $X":                 one("unknown", `"command":"cat $X"`),
		"find . -delete":         one("unknown", `"command":"find . -delete"`),
		"find . -exec rm {} +":   one("unknown", `"command":"find . -exec rm {} +"`),
		"fd -x rm":               one("unknown", `"command":"fd -x rm"`),
		"sed -i s/a/b/ x":        one("unknown", `"command":"sed -i s/a/b/ x"`),
		"cat":                    one("unknown", `"command":"cat"`),
		"":                       one("unknown", `"command":""`),
		"cd x":                   one("unknown", `"command":"cd x"`),
		"git status":             one("unknown", `"command":"git status"`),
		"cat a.txt a.txt":        one("unknown", `"command":"cat a.txt a.txt"`),
		"rg 'it'\"'\"'s' x":      one("search", `"command":"rg \"it's\" x","path":"x","query":"it's"`),
		"ls sub 2>/dev/null":     one("listFiles", `"command":"ls sub","path":"sub"`),
		"grep foo a | grep -v b": `[{"type":"search","command":"grep foo a","path":"a","query":"foo"},{"type":"search","command":"grep -v b","query":"b"}]`,
	} {
		if got := compact(actions(line, "/w")); got != want {
			t.Errorf("%q\n got %s\nwant %s", line, got, want)
		}
	}
}

func compact(a []protocol.CommandAction) string {
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(b)
}

func FuzzArguments(f *testing.F) {
	for _, s := range []string{
		`{"cmd":"ls","yield_time_ms":1e300,"max_output_tokens":-1}`, `{"cmd":null}`, `{"session_id":"1","chars":"\u0000"}`, `{"session_id":1.5}`, `[`, `{"cmd":"\ud800"}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		c := call{input: in}
		var a execArgs
		if c.decode(&a) == nil && a.Cmd != nil {
			if d := yieldTime(a.Yield, defaultYield, minYield, maxYield); d < minYield || d > maxYield {
				t.Errorf("yield %v", d)
			}
			if out := shorten(strings.Repeat("é", 30_000), a.MaxTokens); len(out) > maxOutputTokens*bytesPerToken+200 || !json.Valid(mustJSON(out)) {
				t.Errorf("%d bytes", len(out))
			}
			_ = proposal(a, true)
			_ = actions(*a.Cmd, "/w")
		}
		var s stdinArgs
		if c.decode(&s) == nil {
			if id := sessionID(s.SessionID); strings.ContainsFunc(id, func(r rune) bool { return (r < '0' || r > '9') && r != '-' && r != '+' }) {
				t.Errorf("session %q", id)
			}
		}
		_ = patchArgument(in)
		_ = dynamicTools([]json.RawMessage{json.RawMessage(in)})
		v := understand(json.RawMessage(in), nil)
		if v.kind == verdictAllow && !strings.Contains(in, "cc") && !strings.Contains(in, `\u`) {
			t.Errorf("%q allows", in)
		}
	})
}
