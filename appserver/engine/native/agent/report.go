package agent

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of what one output may cost the model's window.
const (
	maxOutputTokens = 10_000
	bytesPerToken   = 4 // the estimate Codex uses
)

// tokensOf estimates the tokens of something.
func tokensOf[T ~string | ~[]byte](s T) int64 {
	return int64((len(s) + bytesPerToken - 1) / bytesPerToken)
}

// report is a command's output in the words Codex models know: a running one
// has a session, an ended one an exit code.
func report(took time.Duration, exit *int, session, output string, maxTokens float64) string {
	var id [3]byte
	_, _ = rand.Read(id[:]) // never fails; the chunk id only tells two outputs apart
	var b strings.Builder
	fmt.Fprintf(&b, "Chunk ID: %s\nWall time: %.4f seconds\n", hex.EncodeToString(id[:]), took.Seconds())
	if exit != nil {
		fmt.Fprintf(&b, "Process exited with code %d\n", *exit)
	} else {
		fmt.Fprintf(&b, "Process running with session ID %s\n", session)
	}
	fmt.Fprintf(&b, "Original token count: %d\nOutput:\n%s", tokensOf(output), shorten(output, maxTokens))
	return b.String()
}

// shorten cuts the middle out of an output that is too long for the model and
// says so.
func shorten(s string, maxTokens float64) string {
	limit := int64(maxOutputTokens)
	if maxTokens > 0 && maxTokens < maxOutputTokens {
		limit = int64(maxTokens)
	}
	total := tokensOf(s)
	if total <= limit {
		return s
	}
	lines := strings.Count(s, "\n")
	if !strings.HasSuffix(s, "\n") {
		lines++
	}
	half := int(limit * bytesPerToken / 2)
	head, tail := cut(s, half), s[len(s)-half:]
	for len(tail) > 0 && !utf8.RuneStart(tail[0]) {
		tail = tail[1:]
	}
	return fmt.Sprintf("Warning: truncated output (original token count: %d)\nTotal output lines: %d\n\n%s…%d tokens truncated…%s",
		total, lines, head, total-limit, tail)
}

// cut returns at most n bytes of s, whole characters only.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
