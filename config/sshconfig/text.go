package sshconfig

import (
	"strings"
	"unicode"
)

// maxText bounds a piece of somebody else's text in an error or warning.
const maxText = 300

// clean makes text from a file or program fit for a terminal: one line, nothing
// that moves the cursor or reorders what is read, bounded.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r == unicode.ReplacementChar, unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == '\u2028', r == '\u2029':
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if r := []rune(s); len(r) > maxText {
		s = string(r[:maxText]) + "…"
	}
	return s
}
