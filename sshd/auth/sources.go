package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// maxSources bounds the patterns of one from= list.
const maxSources = 64

// sources is a from= list: addresses, CIDR blocks and patterns with * and ?,
// each perhaps with a ! in front. Nil matches everything.
type sources []source

type source struct {
	negated bool
	prefix  netip.Prefix // valid for an address or a block
	pattern string       // otherwise
}

// parseSources reads a list. Host names are refused: the server asks no
// resolver whom it should trust, so such a pattern could only mislead.
func parseSources(list string) (sources, error) {
	var out sources
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		if len(out) == maxSources {
			return nil, fmt.Errorf("more than %d addresses", maxSources)
		}
		s, err := parseSource(item)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, errors.New("no addresses")
	}
	return out, nil
}

func parseSource(item string) (source, error) {
	var s source
	item, s.negated = strings.CutPrefix(item, "!")
	if strings.Contains(item, "/") {
		p, err := netip.ParsePrefix(item)
		if err != nil {
			return s, fmt.Errorf("%q is not an address block", Printable(item, 60))
		}
		if p != p.Masked() {
			return s, fmt.Errorf("%q has bits beyond its mask: did you mean %s?", item, p.Masked())
		}
		s.prefix = p
		return s, nil
	}
	if a, err := netip.ParseAddr(item); err == nil {
		a = a.Unmap().WithZone("")
		s.prefix = netip.PrefixFrom(a, a.BitLen())
		return s, nil
	}
	if item == "" || strings.Trim(item, "0123456789abcdefABCDEF.:*?") != "" {
		return s, fmt.Errorf("%q is a host name, which is never looked up: use addresses", Printable(item, 60))
	}
	s.pattern = strings.ToLower(item)
	return s, nil
}

// allows: one match is enough, one negated match is too much, whatever their
// order. A list of nothing but negations allows nobody.
func (ss sources) allows(a netip.Addr) bool {
	if ss == nil {
		return true
	}
	if !a.IsValid() {
		return false
	}
	a = a.Unmap().WithZone("")
	ok := false
	for _, s := range ss {
		if !s.matches(a) {
			continue
		}
		if s.negated {
			return false
		}
		ok = true
	}
	return ok
}

func (s source) matches(a netip.Addr) bool {
	if s.prefix.IsValid() {
		return s.prefix.Contains(a)
	}
	return wildcard(s.pattern, a.String())
}

// wildcard matches s against a pattern with * and ?, in time proportional to
// the product of their lengths at worst.
func wildcard(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
