package session

import (
	"encoding/binary"
)

// Bounds on what a client may say its terminal is. Beyond them a UI would
// allocate screens that nobody has.
const (
	maxCells    = 1000
	defaultCols = 80
	defaultRows = 24
)

// Size is a terminal's size in cells, each from 1 to 1000.
type Size struct{ Cols, Rows int }

// clamp replaces dimensions that are zero, which RFC 4254 section 6.2 says to
// ignore, by those of was, and bounds the rest.
func (s Size) clamp(was Size) Size {
	fit := func(n, was int) int {
		if n <= 0 {
			n = was
		}
		return min(n, maxCells)
	}
	return Size{fit(s.Cols, was.Cols), fit(s.Rows, was.Rows)}
}

// parseWindowChange reads the payload of window-change: columns, rows, and the
// same in pixels, uint32 each (RFC 4254 section 6.7).
func parseWindowChange(b []byte) (Size, bool) {
	if len(b) < 16 {
		return Size{}, false
	}
	return Size{dimension(b), dimension(b[4:])}, true
}

// dimension bounds before it converts, so that 32-bit platforms see no negative.
func dimension(b []byte) int { return int(min(binary.BigEndian.Uint32(b), maxCells)) }

// latest is a one-slot mailbox: put never blocks, the newest value wins. One
// goroutine puts, one takes.
type latest[T any] struct{ ch chan T } // capacity 1

func newLatest[T any]() latest[T] { return latest[T]{make(chan T, 1)} }

func (l latest[T]) put(v T) {
	select {
	case <-l.ch:
	default:
	}
	l.ch <- v
}
