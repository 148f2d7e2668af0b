package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math"
	"strconv"
	"unicode/utf8"
)

// maxDepth is how deep a client's message may nest. Codex's decoder stops at 128
// and drops the message; what a gate records and an engine drops is a lie.
const maxDepth = 100

// fewMembers is how many members of one object are compared one by one.
const fewMembers = 16

// Strict reports why two decoders could take msg, which must be valid JSON, for
// different things. A relay that decides by what it reads and passes the bytes
// on must refuse such a message: of {"decision":"decline","decision":"accept"}
// one reads the first and one the last; Codex's own decoder takes a request with
// a repeated "params" that also holds a "result" for an answer. Text that is no
// Unicode and numbers beyond a double are accepted by some and not by others.
func Strict(msg []byte) error {
	if !utf8.Valid(msg) {
		return errors.New("the message is not valid UTF-8")
	}
	w := strictWalk{scanner: scanner{b: msg}}
	return w.value(0)
}

type strictWalk struct {
	scanner
	names [][]byte // members of the objects around, innermost last
}

func (w *strictWalk) value(depth int) error {
	w.space()
	if w.i >= len(w.b) {
		return ErrNotObject
	}
	if depth > maxDepth {
		return fmt.Errorf("the message nests deeper than %d levels", maxDepth)
	}
	switch w.b[w.i] {
	case '{':
		return w.object(depth)
	case '[':
		for w.i++; ; {
			if w.space(); w.eat(']') {
				return nil
			}
			if err := w.value(depth + 1); err != nil {
				return err
			}
			w.space()
			w.eat(',')
		}
	case '"':
		_, err := w.text()
		return err
	}
	v, ok := w.scanner.value()
	if !ok {
		return ErrNotObject
	}
	if c := v[0]; c == '-' || c >= '0' && c <= '9' {
		if f, err := strconv.ParseFloat(string(v), 64); err != nil || math.IsInf(f, 0) {
			return errors.New("the message holds a number that is out of range")
		}
	}
	return nil
}

// text reads a string and returns what it says.
func (w *strictWalk) text() ([]byte, error) {
	s, ok := w.str()
	if !ok {
		return nil, ErrNotObject
	}
	if bytes.Contains(s, []byte(`\u`)) && !pairedSurrogates(s) {
		return nil, errors.New("the message holds half a character")
	}
	return plain(s), nil
}

func (w *strictWalk) object(depth int) error {
	first := len(w.names)
	defer func() { w.names = w.names[:first] }()
	var many map[string]bool // once there are many
	for w.i++; ; {
		if w.space(); w.eat('}') {
			return nil
		}
		name, err := w.text()
		if err != nil {
			return err
		}
		repeated := many[string(name)]
		if many == nil {
			for _, n := range w.names[first:] {
				repeated = repeated || bytes.Equal(n, name)
			}
			if w.names = append(w.names, name); len(w.names)-first > fewMembers {
				many = make(map[string]bool)
				for _, n := range w.names[first:] {
					many[string(n)] = true
				}
			}
		} else {
			many[string(name)] = true
		}
		if repeated {
			return fmt.Errorf("the message repeats the member %.40q", name)
		}
		w.space()
		if !w.eat(':') {
			return ErrNotObject
		}
		if err := w.value(depth + 1); err != nil {
			return err
		}
		w.space()
		w.eat(',')
	}
}

// pairedSurrogates reports whether every \uD800 to \uDFFF in a quoted string is
// part of a pair.
func pairedSurrogates(s []byte) bool {
	high := false
	for i := 0; i < len(s); i++ {
		unit := uint64(0)
		if s[i] == '\\' && i+1 < len(s) {
			i++
			if s[i] == 'u' && i+4 < len(s) {
				unit, _ = strconv.ParseUint(string(s[i+1:i+5]), 16, 16) // valid JSON holds four digits
				i += 4
			}
		}
		low := unit >= 0xDC00 && unit <= 0xDFFF
		if high != low {
			return false
		}
		high = unit >= 0xD800 && unit < 0xDC00
	}
	return !high
}

// Members yields the members of a JSON object in order, their names decoded.
func Members(obj []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		s := scanner{b: obj}
		s.space()
		if !s.eat('{') {
			return
		}
		for s.space(); !s.eat('}'); s.space() {
			key, ok := s.str()
			if !ok {
				return
			}
			s.space()
			if !s.eat(':') {
				return
			}
			s.space()
			val, ok := s.value()
			if !ok || !yield(string(plain(key)), val) {
				return
			}
			s.space()
			s.eat(',')
		}
	}
}
