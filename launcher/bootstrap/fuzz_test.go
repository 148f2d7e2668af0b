package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"

	"towline/config"
)

// cannedProcess has said its all already.
type cannedProcess struct{ out io.Reader }

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }

func (*cannedProcess) Stdin() io.WriteCloser { return nowhere{} }
func (p *cannedProcess) Stdout() io.Reader   { return p.out }
func (*cannedProcess) Stderr() io.Reader     { return strings.NewReader("\x1b[31merr\x07") }
func (*cannedProcess) Wait() error           { return nil }
func (*cannedProcess) Close() error          { return nil }

// Whatever a remote says, the report is bounded and printable, and failures are
// Problems.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte("motd\n@ hello 0\n@ time 1763800000\n@ os Linux\n@ machine x86_64\n@ begin environment 0\n@ env https_proxy http://a:b@c\n@ path /usr/bin\n" +
		"@ end environment\n@ searched /usr/bin\n@ begin path.1 7\n@ bin path.1.1 codex PATH /usr/bin/codex\n@ version path.1.1 codex-cli 0.169.0\n@ end path.1\n@ sock socket.1 codex /c.sock\n@ bye\n"))
	f.Add([]byte("@ hello\n@ bin a towline running x\n@ bin a.1 towline running /proc/1/exe\n@ version a.1 {\"version\":\"\\u001b[2J\"}\n@ sock a towline /s\n@ sock a towline /s\n@ late a\n@ install.free -9\n@ port x\n@ bye"))
	f.Add([]byte("no newline @ hello 0\n\x1b]0;title\x07@ host \x1b[31mred\n@ bye\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		o := Options{ShellTimeout: time.Minute, Now: func() time.Time { return time.Unix(1763800000, 0) }}
		nonce := random()
		out := bytes.ReplaceAll(raw, []byte("@"), []byte(marker(nonce)))
		rep := Report{Env: map[string]string{}, DiskFree: -1}
		in := newIntake(&rep)
		tk := listen(t.Context(), &cannedProcess{bytes.NewReader(out)}, o.withDefaults(), nonce)
		defer tk.close()
		for {
			a, err := tk.next()
			if err != nil {
				var p *config.Problem
				if !errors.As(err, &p) || p.Stage == "" {
					t.Fatalf("%v is no Problem", err)
				}
				clean(t, err.Error())
				break
			}
			if a.key == "bye" {
				break
			}
			in.take(a)
		}
		in.finish()
		text, err := json.Marshal(rep)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 8<<20 {
			t.Errorf("a report of %d bytes", len(text))
		}
		for _, s := range []string{rep.Hostname, rep.User, rep.Home, rep.Shell, rep.EnvNote} {
			clean(t, s)
		}
		for _, c := range rep.Candidates {
			clean(t, c.Path+c.Version+c.Fault+c.Socket+string(c.Kind))
		}
		ch, err := Choose(rep, o)
		if err == nil {
			clean(t, ch.Why+strings.Join(ch.Others, ""))
		}
	})
}

func clean(t *testing.T, s string) {
	t.Helper()
	for _, r := range s {
		if unicode.IsControl(r) {
			t.Fatalf("%q holds a control character", s)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[31mred\x1b[0m", "\x1b]0;t\x07x", "\x1b", "\x1b[", "a\xffb\u009bc\r\n", "\x1bP1$q\x1b\\x", "é…"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p := printable(s)
		clean(t, p)
		if printable(p) != p {
			t.Errorf("%q changes when printed again", p)
		}
		q := quote(lines(s), len(s)%2 == 0)
		clean(t, q)
		if len(q) > shownBytes+8 {
			t.Errorf("a quotation of %d bytes", len(q))
		}
	})
}

// What a caller puts into a variable arrives as it was, whatever it holds.
func FuzzShellQuote(f *testing.F) {
	for _, s := range []string{"", "a b", "it's", "$(id)`id`", "\\", "a\nb", "!x", "'''", "%s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := shellQuote(s)
		// A shell's reading of single quotes: text between them, and \' outside.
		var got strings.Builder
		inside := false
		for i := 0; i < len(q); i++ {
			switch {
			case q[i] == '\'':
				inside = !inside
			case inside:
				got.WriteByte(q[i])
			case q[i] == '\\' && i+1 < len(q) && q[i+1] == '\'':
				got.WriteByte('\'')
				i++
			default:
				t.Fatalf("%q: byte %d is outside of quotes", q, i)
			}
		}
		if inside || got.String() != s {
			t.Errorf("%q reads back as %q", s, got.String())
		}
	})
}
