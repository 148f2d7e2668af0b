package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
)

// Kind tells the four message shapes apart.
type Kind uint8

// The message shapes. KindInvalid is what [Peek] returns next to an error.
const (
	KindInvalid Kind = iota
	KindRequest
	KindResponse
	KindError
	KindNotification
)

// Envelope is the outside of one message. Its slices point into the message it
// was read from, so they live as long as those bytes are left alone.
type Envelope struct {
	Kind   Kind
	ID     json.RawMessage // as sent: a JSON string or integer; nil for a notification
	Method string
	Params json.RawMessage // nil when absent
	Result json.RawMessage
	Error  json.RawMessage
}

// Errors of [Peek]. Codex drops such messages without an answer, and so do we.
var (
	ErrNotObject = errors.New("message is not a JSON object")
	ErrBadID     = errors.New("message id is neither a string nor a 64-bit integer")
	ErrNoShape   = errors.New("message is neither request, response, error nor notification")
)

// Peek reads the top level of msg and leaves everything inside params, result
// and error unparsed. It validates the whole message as JSON, allocates only
// for the method name, and keeps the last of a repeated member, as Codex does.
func Peek(msg []byte) (Envelope, error) {
	if !json.Valid(msg) {
		return Envelope{}, ErrNotObject
	}
	return scan(msg)
}

// PeekTrusted is [Peek] for bytes that come from our own engine: it skips the
// validation pass, and its result is undefined for anything that is not JSON.
func PeekTrusted(msg []byte) (Envelope, error) { return scan(msg) }

func scan(msg []byte) (Envelope, error) {
	var e Envelope
	s := scanner{b: msg}
	s.space()
	if !s.eat('{') {
		return Envelope{}, ErrNotObject
	}
	for s.space(); !s.eat('}'); s.space() {
		key, ok := s.str()
		if !ok {
			return Envelope{}, ErrNotObject
		}
		s.space()
		if !s.eat(':') {
			return Envelope{}, ErrNotObject
		}
		s.space()
		val, ok := s.value()
		if !ok {
			return Envelope{}, ErrNotObject
		}
		switch string(plain(key)) {
		case "id":
			e.ID = val
		case "method":
			if val[0] != '"' {
				return Envelope{}, ErrNoShape
			}
			e.Method = string(plain(val))
		case "params":
			e.Params = val
		case "result":
			e.Result = val
		case "error":
			e.Error = val
		}
		s.space()
		if !s.eat(',') {
			s.space()
			if !s.eat('}') {
				return Envelope{}, ErrNotObject
			}
			break
		}
	}
	if e.ID != nil && !validID(e.ID) {
		return Envelope{}, ErrBadID
	}
	switch {
	case e.Method != "" && e.ID != nil:
		e.Kind = KindRequest
	case e.Method != "":
		e.Kind = KindNotification
	case e.ID != nil && e.Error != nil && !bytes.Equal(e.Error, null):
		e.Kind = KindError
	case e.ID != nil && e.Result != nil:
		e.Kind = KindResponse
	default:
		return Envelope{}, ErrNoShape
	}
	return e, nil
}

var null = []byte("null")

func validID(id json.RawMessage) bool {
	if len(id) == 0 {
		return false
	}
	if id[0] == '"' {
		return true
	}
	_, err := strconv.ParseInt(string(id), 10, 64)
	return err == nil
}

// Field returns the raw value of one member of a JSON object, or nil when obj
// is no object or has no such member. It is how relays look at a threadId
// without decoding the params around it.
func Field(obj json.RawMessage, name string) json.RawMessage {
	s := scanner{b: obj}
	s.space()
	if !s.eat('{') {
		return nil
	}
	for s.space(); !s.eat('}'); s.space() {
		key, ok := s.str()
		if !ok {
			return nil
		}
		s.space()
		if !s.eat(':') {
			return nil
		}
		s.space()
		val, ok := s.value()
		if !ok {
			return nil
		}
		if string(plain(key)) == name {
			return val
		}
		s.space()
		if !s.eat(',') {
			return nil
		}
	}
	return nil
}

// StringField is [Field] for a string member; "" when absent or of another type.
func StringField(obj json.RawMessage, name string) string {
	v := Field(obj, name)
	if len(v) == 0 || v[0] != '"' {
		return ""
	}
	return string(plain(v))
}

// plain returns the text of a quoted JSON string, decoding escapes only when
// there are any.
func plain(quoted []byte) []byte {
	if len(quoted) < 2 {
		return nil
	}
	in := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return in
	}
	var out string
	if json.Unmarshal(quoted, &out) != nil {
		return nil
	}
	return []byte(out)
}

// scanner walks JSON without building anything. It finds where values end; it
// does not check what is inside them.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) eat(c byte) bool {
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

func (s *scanner) str() ([]byte, bool) {
	start := s.i
	if !s.eat('"') {
		return nil, false
	}
	for s.i < len(s.b) {
		// IndexByte runs at memory speed, which is what long deltas and file
		// contents need.
		q := bytes.IndexByte(s.b[s.i:], '"')
		if q < 0 {
			return nil, false
		}
		end := s.i + q
		n := 0
		for end-1-n >= s.i && s.b[end-1-n] == '\\' {
			n++
		}
		s.i = end + 1
		if n%2 == 0 {
			return s.b[start:s.i], true
		}
	}
	return nil, false
}

func (s *scanner) value() (json.RawMessage, bool) {
	if s.i >= len(s.b) {
		return nil, false
	}
	start := s.i
	switch s.b[s.i] {
	case '"':
		v, ok := s.str()
		return v, ok
	case '{', '[':
		depth := 0
		for s.i < len(s.b) {
			switch s.b[s.i] {
			case '"':
				if _, ok := s.str(); !ok {
					return nil, false
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			s.i++
			if depth == 0 {
				return s.b[start:s.i], true
			}
		}
		return nil, false
	default:
		for s.i < len(s.b) {
			switch s.b[s.i] {
			case ',', '}', ']', ' ', '\t', '\n', '\r':
				return s.b[start:s.i], s.i > start
			}
			s.i++
		}
		return s.b[start:s.i], s.i > start
	}
}
