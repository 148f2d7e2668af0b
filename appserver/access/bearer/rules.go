package bearer

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"towline/config"
)

// Limits on rules and on what they make of a token.
const (
	maxPattern  = 512
	maxTemplate = 256
	maxName     = 120 // runes of a principal's name
	maxNamePart = 64  // runes of one claim in it
	maxSubject  = 256 // bytes
)

// decide finds the first rule that holds. Otherwise it says which claim was in the
// way of each: names, never values.
func decide(rules []Rule, c *claims) (*Rule, string) {
	var why []string
	for i := range rules {
		if missing := rules[i].wants(c); missing == "" {
			return &rules[i], ""
		} else if len(why) < 8 {
			why = append(why, fmt.Sprintf("%s wants another %s", rules[i].label(i), missing))
		}
	}
	return nil, strings.Join(why, ", ")
}

func (r *Rule) label(i int) string {
	if r.Name != "" {
		return r.Name
	}
	return fmt.Sprintf("rule %d", i+1)
}

// wants is the first claim that is not as the rule wants it; empty when all are.
func (r *Rule) wants(c *claims) string {
	for _, want := range r.Claims {
		if !want.holds(c) {
			return want.Name
		}
	}
	return ""
}

func (w Claim) holds(c *claims) bool {
	for _, have := range c.texts(w.Name) {
		for _, p := range w.Patterns {
			if glob(p, have) {
				return true
			}
		}
	}
	return false
}

// glob matches the whole of s. "*" is any text without "/" and ":", because those
// part what issuers put together ("repo:OWNER/NAME:ref:refs/heads/main"), and a
// star that crossed them would let the owner of one part write the next. "**" is
// any text, "?" one character that "*" could be, and "\" makes the next one plain.
func glob(p, s string) bool {
	// Where to go on when what follows a star does not match: one place for "*"
	// and one for "**" are enough, since a later star makes earlier ones of its
	// kind needless, and a "**" makes all of them needless.
	type place struct{ p, s int }
	var one, many *place
	i, j := 0, 0
	for {
		matched := false
		switch {
		case i == len(p):
			matched = false
			if j == len(s) {
				return true
			}
		case strings.HasPrefix(p[i:], "**"):
			i += 2
			one, many = nil, &place{i, j}
			continue
		case p[i] == '*':
			i++
			one = &place{i, j}
			continue
		case j == len(s):
		case p[i] == '?':
			size := runeLen(s[j:])
			if matched = s[j] != '/' && s[j] != ':'; matched {
				i, j = i+1, j+size
			}
		default:
			at := i
			if p[at] == '\\' && at+1 < len(p) {
				at++
			}
			if matched = p[at] == s[j]; matched {
				i, j = at+1, j+1
			}
		}
		if matched {
			continue
		}
		if one != nil && one.s < len(s) && s[one.s] != '/' && s[one.s] != ':' {
			one.s++
			i, j = one.p, one.s
			continue
		}
		if many != nil && many.s < len(s) {
			many.s++
			one = nil
			i, j = many.p, many.s
			continue
		}
		return false
	}
}

// runeLen is how many bytes the first character of s has.
func runeLen(s string) int {
	for i := range s {
		if i > 0 {
			return i
		}
	}
	return len(s)
}

// expand fills a template: "{repository}@{ref}". A claim that is not there, or is
// no text, is a dash.
func expand(template string, c *claims) string {
	var b strings.Builder
	for rest := template; rest != ""; {
		before, after, open := strings.Cut(rest, "{")
		b.WriteString(before)
		if !open {
			break
		}
		name, tail, _ := strings.Cut(after, "}")
		value := "-"
		if v := c.texts(name); len(v) == 1 {
			value = cut(config.OneLine(v[0]), maxNamePart)
		}
		b.WriteString(value)
		rest = tail
	}
	return cut(config.OneLine(b.String()), maxName)
}

func cut(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// validate refuses a rule that says nothing or could not have been meant.
func (r *Rule) validate() error {
	if len(r.Claims) == 0 {
		return errors.New("has no claims, and would admit anybody the issuer has a word for")
	}
	for _, w := range r.Claims {
		if w.Name == "" || len(w.Name) > maxKid {
			return errors.New("a claim's name is missing or too long")
		}
		if len(w.Patterns) == 0 {
			return fmt.Errorf("claim %s has no value", config.OneLine(w.Name))
		}
		for _, p := range w.Patterns {
			if p == "" || len(p) > maxPattern {
				return fmt.Errorf("claim %s: a value is empty or longer than %d bytes", config.OneLine(w.Name), maxPattern)
			}
		}
	}
	return checkTemplate(r.NameTemplate)
}

func checkTemplate(t string) error {
	if len(t) > maxTemplate || strings.ContainsFunc(t, unicode.IsControl) {
		return errors.New("the template of the name is too long, or holds control characters")
	}
	for rest := t; ; {
		before, after, open := strings.Cut(rest, "{")
		if strings.Contains(before, "}") {
			return errors.New("the template of the name has a } without its {")
		}
		if !open {
			return nil
		}
		name, tail, closed := strings.Cut(after, "}")
		if !closed || name == "" || strings.Contains(name, "{") {
			return errors.New("the template of the name has a { without a claim and its }")
		}
		rest = tail
	}
}
