package theme

import (
	"reflect"
	"strings"
	"testing"

	"charm.land/lipgloss/v2"
)

func all() []*Theme { return []*Theme{Dark(), Light(), ANSI16(), Plain()} }

// TestColours: a theme writes only colours its terminal has.
func TestColours(t *testing.T) {
	for _, th := range all() {
		for name, st := range styles(th) {
			s := st.Render("x")
			var bad bool
			switch th.Name {
			case "plain": // attributes have one digit
				for p := range strings.SplitSeq(strings.TrimSuffix(strings.TrimPrefix(strings.SplitN(s, "x", 2)[0], "\x1b["), "m"), ";") {
					bad = bad || len(p) > 1
				}
			case "ansi16":
				bad = strings.Contains(s, "38;") || strings.Contains(s, "48;")
			}
			if bad {
				t.Errorf("%s: %s writes %q", th.Name, name, s)
			}
		}
	}
}

// styles are all styles of a theme by name.
func styles(th *Theme) map[string]lipgloss.Style {
	out := make(map[string]lipgloss.Style)
	for _, v := range []reflect.Value{reflect.ValueOf(*th), reflect.ValueOf(th.Syntax)} {
		for i := range v.NumField() {
			if st, ok := v.Field(i).Interface().(lipgloss.Style); ok {
				out[v.Type().Field(i).Name] = st
			}
		}
	}
	return out
}

func TestFor(t *testing.T) {
	for _, tc := range []struct {
		dark    bool
		colours int
		want    string
	}{{true, 0, "plain"}, {true, 16, "ansi16"}, {false, 16, "ansi16"}, {true, 256, "dark"}, {false, 1 << 24, "light"}} {
		if got := For(tc.dark, tc.colours).Name; got != tc.want {
			t.Errorf("For(%v, %d) = %s, want %s", tc.dark, tc.colours, got, tc.want)
		}
	}
	plain := Plain()
	if th := plain.WithHyperlinks(); !th.Hyperlinks || plain.Hyperlinks {
		t.Error("WithHyperlinks must change a copy only")
	}
}

// TestInk: an ink writes what its style would.
func TestInk(t *testing.T) {
	for _, th := range all() {
		for name, st := range styles(th) {
			if got, want := InkOf(st).Draw("x"), st.Render("x"); got != want {
				t.Errorf("%s %s: ink draws %q, style %q", th.Name, name, got, want)
			}
		}
	}
	if got := InkOf(Dark().Accent).Draw(""); got != "" {
		t.Errorf("empty text draws %q", got)
	}
	if got := InkOf(lipgloss.NewStyle().Padding(2).Width(30)).Draw("x"); got != "x" {
		t.Errorf("layout leaks into an ink: %q", got)
	}
	if got, want := (Ink{}).Linked("http://a").Draw("x"), "\x1b]8;;http://a\x07x\x1b]8;;\x07"; got != want {
		t.Errorf("link draws %q, want %q", got, want)
	}
}

func TestDrawSpans(t *testing.T) {
	b, i := InkOf(lipgloss.NewStyle().Bold(true)), InkOf(lipgloss.NewStyle().Italic(true))
	spans := []Span{{3, b}, {5, b}, {7, i}}
	for _, tc := range []struct {
		start, end int
		want       string
	}{
		{0, 9, "\x1b[1mabcde\x1b[m\x1b[3mfg\x1b[mhi"}, {0, 4, "\x1b[1mabcd\x1b[m"}, {4, 6, "\x1b[1me\x1b[m\x1b[3mf\x1b[m"}, {7, 9, "hi"}, {2, 2, ""},
	} {
		var sb strings.Builder
		DrawSpans(&sb, "abcdefghi", spans, tc.start, tc.end)
		if sb.String() != tc.want {
			t.Errorf("DrawSpans(%d, %d) = %q, want %q", tc.start, tc.end, sb.String(), tc.want)
		}
	}
}
