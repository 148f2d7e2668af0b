package bearer

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"towline/appserver/access"
)

// claims are what a token says, once its signature was found right. The registered
// ones (RFC 7519 section 4.1) are read ahead, times in whole seconds of Unix time.
type claims struct {
	exp      int64
	nbf      int64
	hasNbf   bool
	iss, sub *string
	aud      []string
	all      map[string]json.RawMessage
}

// maxTime keeps arithmetic with a skew far from an overflow; it is in the year 36812.
const maxTime = 1 << 40

// strictClaims reads them by RFC 7519. A time may have a fraction there.
func strictClaims(raw []byte) (claims, error) {
	var c claims
	var err error
	if c.all, err = object(raw, true); err != nil {
		return c, err
	}
	v, ok := c.all["exp"]
	if !ok {
		return c, errors.New("it never expires (it has no exp)")
	}
	if c.exp, ok = numericDate(v, math.Floor); !ok {
		return c, errors.New("its exp is no time")
	}
	if v, c.hasNbf = c.all["nbf"]; c.hasNbf {
		if c.nbf, ok = numericDate(v, math.Ceil); !ok {
			return c, errors.New("its nbf is no time")
		}
	}
	if v, has := c.all["iat"]; has {
		if _, ok := numericDate(v, math.Floor); !ok {
			return c, errors.New("its iat is no time")
		}
	}
	for name, at := range map[string]**string{"iss": &c.iss, "sub": &c.sub} {
		v, has := c.all[name]
		if has && (json.Unmarshal(v, at) != nil || *at == nil) {
			return c, fmt.Errorf("its %s is no text", name)
		}
	}
	if v, has := c.all["aud"]; has {
		if c.aud, ok = audience(v); !ok {
			return c, errors.New("its aud is neither a text nor a list of texts")
		}
	}
	return c, nil
}

// codexClaims reads them as Codex does: exp and nbf are integers, null is absent,
// and what is not read may be anything.
func codexClaims(raw []byte) (claims, error) {
	var c claims
	m, err := known(raw, "exp", "nbf", "iss", "aud", "sub")
	if err != nil {
		return c, err
	}
	var ok bool
	if c.exp, ok = integer(m["exp"]); !ok {
		return c, errors.New("its exp is missing or no whole number")
	}
	if v := m["nbf"]; v != nil && string(v) != "null" {
		if c.nbf, c.hasNbf = integer(v); !c.hasNbf {
			return c, errors.New("its nbf is no whole number")
		}
	}
	if c.iss, err = optionalText(m, "iss"); err != nil {
		return c, err
	}
	if v := m["aud"]; v != nil && string(v) != "null" {
		if c.aud, ok = audience(v); !ok {
			return c, errors.New("its aud is neither a text nor a list of texts")
		}
	}
	// Codex does not look at who it is. It is good to know, and no reason to refuse.
	c.sub, _ = optionalText(m, "sub")
	c.all, err = object(raw, false)
	return c, err
}

func integer(raw json.RawMessage) (int64, bool) {
	s := string(raw)
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && s[0] != '+' && s != "-0"
}

func numericDate(raw json.RawMessage, round func(float64) float64) (int64, bool) {
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || raw[0] == '"' || math.IsNaN(f) || math.Abs(f) > maxTime {
		return 0, false
	}
	return int64(round(f)), true
}

func audience(raw json.RawMessage) ([]string, bool) {
	var one *string
	if json.Unmarshal(raw, &one) == nil && one != nil {
		return []string{*one}, true
	}
	var several []*string
	if json.Unmarshal(raw, &several) != nil || several == nil {
		return nil, false
	}
	out := make([]string, 0, len(several))
	for _, s := range several {
		if s == nil {
			return nil, false
		}
		out = append(out, *s)
	}
	return out, true
}

// inTime says what is wrong with a token's times at now, which may be off by skew.
// Both ends are inclusive, as in Codex.
func (c *claims) inTime(now, skew int64) *access.Refusal {
	if now > plus(c.exp, skew) {
		return refuse(sayExpired, fmt.Sprintf("it expired %d seconds ago, and %d are forgiven", now-c.exp, skew))
	}
	if c.hasNbf && now < plus(c.nbf, -skew) {
		return refuse(sayNotYet, fmt.Sprintf("it is valid in %d seconds, and %d are forgiven", c.nbf-now, skew))
	}
	return nil
}

// plus does not overflow.
func plus(a, b int64) int64 {
	switch s := a + b; {
	case b > 0 && s < a:
		return math.MaxInt64
	case b < 0 && s > a:
		return math.MinInt64
	default:
		return s
	}
}

// isFor compares with what is configured; nothing configured is anything.
func (c *claims) isFor(issuers, audiences []string) *access.Refusal {
	if len(issuers) > 0 && (c.iss == nil || !slices.Contains(issuers, *c.iss)) {
		return refuse(sayIssuer, "it was made by another issuer")
	}
	if len(audiences) > 0 && !slices.ContainsFunc(c.aud, func(a string) bool { return slices.Contains(audiences, a) }) {
		return refuse(sayAudience, "it was made for another audience")
	}
	return nil
}

// texts are the values a claim has: one, or those of a list. A number or a boolean
// is what it looks like in JSON. Name is a member, or a JSON pointer.
func (c *claims) texts(name string) []string {
	at := c.all
	if strings.HasPrefix(name, "/") {
		parts := strings.Split(name[1:], "/")
		for _, p := range parts[:len(parts)-1] {
			next, err := object(at[unescape.Replace(p)], false)
			if err != nil {
				return nil
			}
			at = next
		}
		name = unescape.Replace(parts[len(parts)-1])
	}
	raw, ok := at[name]
	if !ok {
		return nil
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		list = []json.RawMessage{raw}
	}
	out := make([]string, 0, len(list))
	for _, v := range list {
		var s string
		switch v[0] {
		case '{', '[', 'n':
			continue
		case '"':
			if json.Unmarshal(v, &s) != nil {
				continue
			}
		default:
			s = string(v)
		}
		out = append(out, s)
	}
	return out
}

// unescape reads a part of a JSON pointer.
var unescape = strings.NewReplacer("~1", "/", "~0", "~")
