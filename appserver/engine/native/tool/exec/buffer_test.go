package exec

import (
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClipKeepsBothEnds(t *testing.T) {
	for name, sizes := range map[string][]int{
		"bytes": {1}, "small": {7}, "as large": {50}, "larger": {170}, "mixed": {3, 99, 1, 400, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var all strings.Builder
			for i := range 3000 {
				all.WriteByte("0123456789"[i%10])
			}
			text, c := all.String(), newClip(100)
			for i, rest := 0, text; rest != ""; i++ {
				n := min(sizes[i%len(sizes)], len(rest))
				c.write([]byte(rest[:n]))
				rest = rest[n:]
			}
			got, cut := c.text()
			if !cut || !strings.HasPrefix(got, text[:50]+"\n[…") || !strings.HasSuffix(got, "]\n"+text[2950:]) || !strings.Contains(got, " 2900 bytes") {
				t.Errorf("%q", got)
			}
			if len(c.head)+cap(c.tail) > 400 {
				t.Errorf("keeps %d bytes", len(c.head)+cap(c.tail))
			}
		})
	}
	c := newClip(100)
	c.write([]byte("short"))
	if got, cut := c.text(); got != "short" || cut {
		t.Errorf("%q %v", got, cut)
	}
}

func TestShorten(t *testing.T) {
	s := strings.Repeat("é", 100)
	got := shorten(s, 51)
	if !utf8.ValidString(got) || strings.Contains(got, "\uFFFD") || !strings.Contains(got, "152 bytes left out") {
		t.Errorf("%q", got)
	}
	if shorten(s, 0) != s || shorten(s, 200) != s {
		t.Error("cut without need")
	}
}

// TestPiecesEndAtCharacters writes text one byte at a time through a pipe.
func TestPiecesEndAtCharacters(t *testing.T) {
	const text = "aé日🎉\xff\xf0z\xe6"
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	pieces := make(chan piece)
	go func() {
		defer close(pieces)
		read(reader{"stdout", r}, pieces)
	}()
	go func() {
		for i := range len(text) {
			_, _ = w.Write([]byte{text[i]}) // read shows what is missing
		}
		_ = w.Close()
	}()
	var all string
	for p := range pieces {
		for s := string(p.data); s != ""; {
			c, n := utf8.DecodeRuneInString(s)
			if c == utf8.RuneError && n == 1 && s[0] != 0xff && s[0] != 0xf0 && s[0] != 0xe6 {
				t.Errorf("piece %q is cut inside a character", p.data)
			}
			s = s[n:]
		}
		all += string(p.data)
	}
	if all != text {
		t.Errorf("%q, want %q", all, text)
	}
}

func FuzzComplete(f *testing.F) {
	f.Add([]byte("aé日🎉"), 3)
	f.Add([]byte("\xff\xf0\x9f"), 2)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		if at < 0 || at > len(b) {
			return
		}
		n := complete(b[:at])
		if n > at || at-n >= utf8.UTFMax {
			t.Fatalf("complete(%q) = %d", b[:at], n)
		}
		if utf8.Valid(b) && !utf8.Valid(b[:n]) {
			t.Errorf("%q cut at %d is %q", b, at, b[:n])
		}
	})
}
