package bearer

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"towline/appserver/protocol"
)

// jws is a signed token in compact form (RFC 7515), taken apart. Nothing in it is
// to be believed before a key has verified signed and sig.
type jws struct {
	signed  string // the first two parts, as sent
	sig     []byte
	payload []byte
	header  header
}

type header struct{ alg, kid string }

// looksSigned reports whether a text has the three parts of a signed token.
func looksSigned(text string) bool { return strings.Count(text, ".") == 2 }

var errEncoding = errors.New("a part of it is not base64url")

// parseJWS takes a token apart. codex reads the header as Codex does; otherwise it
// must be one that holds nothing this package does not understand.
func parseJWS(text string, codex bool) (jws, error) {
	head, rest, ok := strings.Cut(text, ".")
	body, sig, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || strings.Contains(sig, ".") {
		return jws{}, errors.New("it has not three parts")
	}
	var t jws
	rawHead, err := decode(head)
	if err != nil {
		return jws{}, err
	}
	if codex {
		t.header, err = codexHeader(rawHead)
	} else {
		t.header, err = strictHeader(rawHead)
	}
	if err != nil {
		return jws{}, fmt.Errorf("its header: %w", err)
	}
	if t.payload, err = decode(body); err != nil {
		return jws{}, err
	}
	if t.sig, err = decode(sig); err != nil {
		return jws{}, err
	}
	t.signed = text[:len(head)+1+len(body)]
	return t, nil
}

var base64url = base64.RawURLEncoding.Strict()

// decode reads base64url without padding, without white space and without stray
// bits at the end: there is one spelling of a token.
func decode(part string) ([]byte, error) {
	if strings.ContainsAny(part, "\r\n") { // which the decoder would pass over
		return nil, errEncoding
	}
	b, err := base64url.DecodeString(part)
	if err != nil {
		return nil, errEncoding
	}
	return b, nil
}

// headerTypes are what a typ may be: a token to show somebody, of no special kind.
// RFC 8725 section 3.11 is why one for another purpose (a logout token, a proof of
// possession) does not count.
var headerTypes = map[string]bool{"": true, "jwt": true, "at+jwt": true}

func strictHeader(raw []byte) (header, error) {
	m, err := object(raw, true)
	if err != nil {
		return header{}, err
	}
	text := func(name string) (string, error) {
		v, ok := m[name]
		if !ok {
			return "", nil
		}
		var s *string
		if json.Unmarshal(v, &s) != nil || s == nil {
			return "", fmt.Errorf("%s is no text", name)
		}
		return *s, nil
	}
	alg, err := text("alg")
	if err != nil {
		return header{}, err
	}
	kid, err := text("kid")
	if err != nil {
		return header{}, err
	}
	typ, err := text("typ")
	if err != nil {
		return header{}, err
	}
	switch {
	case len(kid) > maxKid:
		return header{}, errors.New("kid is too long")
	case !headerTypes[strings.TrimPrefix(strings.ToLower(typ), "application/")]:
		return header{}, errors.New("typ says that it is for another purpose")
	}
	for _, name := range []string{"crit", "b64", "enc", "zip"} {
		if _, ok := m[name]; ok {
			return header{}, fmt.Errorf("%s asks for what is not known here", name)
		}
	}
	return header{alg: alg, kid: kid}, nil
}

// codexHeader reads what Codex's library reads of a header: the members it knows
// must be of their type and not be repeated, others may be anything.
func codexHeader(raw []byte) (header, error) {
	m, err := known(raw, "typ", "alg", "cty", "jku", "jwk", "kid", "x5u", "x5c", "x5t", "x5t#S256")
	if err != nil {
		return header{}, err
	}
	for _, name := range []string{"typ", "cty", "jku", "kid", "x5u", "x5t", "x5t#S256"} {
		if _, err := optionalText(m, name); err != nil {
			return header{}, err
		}
	}
	if _, ok := audience(m["x5c"]); m["x5c"] != nil && string(m["x5c"]) != "null" && (!ok || m["x5c"][0] == '"') {
		return header{}, errors.New("x5c is no list of texts")
	}
	if v := m["jwk"]; v != nil && string(v) != "null" {
		key, err := known(v, "kty")
		kty, err2 := optionalText(key, "kty")
		if err != nil || err2 != nil || kty == nil {
			return header{}, errors.New("jwk is no key")
		}
	}
	alg, err := optionalText(m, "alg")
	if err != nil || alg == nil {
		return header{}, errors.New("alg is no text")
	}
	return header{alg: *alg}, nil
}

// known reads the named members of an object, none of which may be there twice.
func known(raw []byte, names ...string) (map[string]json.RawMessage, error) {
	if _, err := object(raw, false); err != nil {
		return nil, err
	}
	m := make(map[string]json.RawMessage, len(names))
	for _, n := range names {
		m[n] = nil
	}
	for name, v := range protocol.Members(raw) {
		old, is := m[name]
		switch {
		case is && old != nil:
			return nil, fmt.Errorf("%s is there twice", name)
		case is:
			m[name] = v
		}
	}
	return m, nil
}

// optionalText reads a member that is absent, null or a text.
func optionalText(m map[string]json.RawMessage, name string) (*string, error) {
	v := m[name]
	if v == nil {
		return nil, nil
	}
	var s *string
	if protocol.Strict(v) != nil || json.Unmarshal(v, &s) != nil {
		return nil, fmt.Errorf("%s is no text", name)
	}
	return s, nil
}
