package theme

import (
	"image/color"
	"math"
	"reflect"
	"strings"
	"testing"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/colorprofile"
)

func all() []*Theme { return []*Theme{Dark(), Light(), ANSI16(), ANSI16Light(), Plain()} }

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
			case "ansi16", "ansi16-light":
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
	}{{true, 0, "plain"}, {true, 16, "ansi16"}, {false, 16, "ansi16-light"}, {true, 256, "dark"}, {false, 1 << 24, "light"}} {
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

// TestContrast: everything can be read on the backgrounds people have, also when
// the terminal shows 256 colours only. The numbers are those of WCAG 2: 4.5 for
// text; lines between the parts may be fainter.
func TestContrast(t *testing.T) {
	rgb := func(r, g, b uint8) color.Color { return color.RGBA{r, g, b, 255} }
	for _, tc := range []struct {
		th     *Theme
		on     map[string]color.Color
		border float64
	}{
		{Light(), map[string]color.Color{"white": color.White, "paper": rgb(0xfd, 0xf6, 0xe3), "grey": rgb(0xf0, 0xf0, 0xf0)}, 3},
		{Dark(), map[string]color.Color{"black": color.Black, "charcoal": rgb(0x1e, 0x1e, 0x1e), "slate": rgb(0x28, 0x2c, 0x34), "petrol": rgb(0, 0x2b, 0x36)}, 2.2},
	} {
		for name, st := range styles(tc.th) {
			fg := st.GetForeground()
			if _, none := fg.(lipgloss.NoColor); none || fg == nil {
				continue // the terminal's own
			}
			for shown, c := range map[string]color.Color{"true": fg, "256": colorprofile.ANSI256.Convert(fg)} {
				for where, bg := range tc.on {
					least := 4.5
					switch name {
					case "Border":
						least = tc.border
					case "Selection":
						bg = st.GetBackground()
						if shown == "256" {
							bg = colorprofile.ANSI256.Convert(bg)
						}
					}
					if got := contrast(c, bg); got < least {
						t.Errorf("%s on %s: %s has a contrast of %.1f in %s colours, under %.1f", tc.th.Name, where, name, got, shown, least)
					}
				}
			}
		}
	}
}

// contrast is the ratio of two colours' luminance.
func contrast(a, b color.Color) float64 {
	lum := func(c color.Color) float64 {
		part := func(v uint32) float64 {
			x := float64(v) / 0xffff
			if x <= 0.04045 {
				return x / 12.92
			}
			return math.Pow((x+0.055)/1.055, 2.4)
		}
		r, g, b, _ := c.RGBA()
		return 0.2126*part(r) + 0.7152*part(g) + 0.0722*part(b)
	}
	x, y := lum(a), lum(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}
