package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// members is a JSON object with its order and with the members we know nothing
// of, so that what a newer Codex wrote survives being written back by us.
type members []member

type member struct {
	name  string
	value json.RawMessage
}

// errShape is all that is said about JSON that is not what it should be: the
// decoder's own words quote the text, which may be a secret.
var errShape = errors.New("not the JSON it should be")

// parseMembers reads one object and nothing after it. A name that comes twice is
// refused: which of the two counts differs between readers.
func parseMembers(b []byte) (members, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errShape
	}
	var out members
	for d.More() {
		t, err := d.Token()
		name, isName := t.(string)
		if err != nil || !isName || out.has(name) {
			return nil, errShape
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errShape
		}
		out = append(out, member{name, bytes.Clone(value)})
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, errShape
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errShape
	}
	return out, nil
}

func (m members) has(name string) bool { return m.find(name) >= 0 }

func (m members) find(name string) int {
	return slices.IndexFunc(m, func(e member) bool { return e.name == name })
}

// raw is a member's value; nil when it is missing or null.
func (m members) raw(name string) json.RawMessage {
	i := m.find(name)
	if i < 0 || string(bytes.TrimSpace(m[i].value)) == "null" {
		return nil
	}
	return m[i].value
}

// text is a string member; "" when it is missing or null.
func (m members) text(name string) (string, error) {
	raw := m.raw(name)
	if raw == nil {
		return "", nil
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", fmt.Errorf("%s: %w", name, errShape)
	}
	return s, nil
}

// object is an object member; nil when it is missing or null.
func (m members) object(name string) (members, error) {
	raw := m.raw(name)
	if raw == nil {
		return nil, nil
	}
	o, err := parseMembers(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return o, nil
}

// with is m with one member set in its place, or at the end. m stays as it is.
func (m members) with(name string, value json.RawMessage) members {
	out := slices.Clone(m)
	if i := out.find(name); i >= 0 {
		out[i].value = value
		return out
	}
	return append(out, member{name, value})
}

// without is m less one member.
func (m members) without(name string) members {
	return slices.DeleteFunc(slices.Clone(m), func(e member) bool { return e.name == name })
}

// bytes is the object on one line, as compact as it gets.
func (m members) bytes() []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(quote(e.name))
		b.WriteByte(':')
		if json.Compact(&b, e.value) != nil {
			panic("secret: a member that is not JSON: " + e.name) // ours, or parsed before
		}
	}
	b.WriteByte('}')
	return b.Bytes()
}

// quote is s as JSON, without the escapes for HTML that Codex does not make.
func quote(s string) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes, and a buffer always takes it
	return bytes.TrimRight(b.Bytes(), "\n")
}
