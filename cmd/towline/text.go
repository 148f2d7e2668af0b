package main

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// printable makes text from elsewhere fit for a line of a terminal.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s))
}

// pad fills s with blanks up to n columns of plain text.
func pad(s string, n int) string {
	if k := len([]rune(s)); k < n {
		return s + strings.Repeat(" ", n-k)
	}
	return s
}

// seconds is a time worth telling, or nothing.
func seconds(d time.Duration) string {
	if d < 10*time.Millisecond {
		return ""
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}
