package tui

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"testing"

	tea "charm.land/bubbletea/v2"
	uv "github.com/charmbracelet/ultraviolet"
)

// FuzzInput: whatever a terminal sends, decoding it ends and is told.
func FuzzInput(f *testing.F) {
	f.Add([]byte("a\x1b[A\x1b[200~paste\x1b[201~\x1b[<64;1;1M\x1b]11;rgb:ff/ff/ff\x07"))
	f.Add([]byte("\x1b[27;5;106~\x1bP1+r524742\x1b\\\x1b[?1u\xff\xfe"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := pump(t.Context(), bytes.NewReader(b))
		ended := false
		in.decode("xterm-256color", slog.New(slog.DiscardHandler), func(m tea.Msg) {
			if _, ok := m.(endMsg); ok {
				ended = true
			}
		})
		if !ended {
			t.Fatal("the end of the input was not told")
		}
	})
}

func TestPasteWithoutEndEndsTheSession(t *testing.T) {
	in := pump(t.Context(), io.MultiReader(bytes.NewReader([]byte("\x1b[200~")), endless{}))
	var keys int
	in.decode("xterm", slog.New(slog.DiscardHandler), func(m tea.Msg) {
		if _, ok := m.(uv.KeyPressEvent); ok {
			keys++
		}
	})
	if keys > 0 {
		t.Errorf("%d keys came out of a paste", keys)
	}
}

// endless never stops pasting.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte("x"), len(p))), nil }

func TestOutputEndsItsLines(t *testing.T) {
	var b bytes.Buffer
	o := newOutput(context.Background(), &b)
	o.crlf = true
	if n, err := o.Write([]byte("a\nb")); n != 3 || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
	if b.String() != "a\r\nb" {
		t.Errorf("wrote %q", b.String())
	}
}

func TestBackgroundIsGuessedFromTheEnvironment(t *testing.T) {
	for v, dark := range map[string]bool{"": true, "15;0": true, "0;15": false, "0;default;15": false, "12;7": false, "7;8": true} {
		if got := darkBy([]string{"COLORFGBG=" + v}); got != dark {
			t.Errorf("COLORFGBG=%q: dark is %v", v, got)
		}
	}
	if !darkBy(nil) {
		t.Error("light without a reason")
	}
}
