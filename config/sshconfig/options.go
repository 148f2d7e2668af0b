package sshconfig

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxOptions bounds the lines of `ssh -G`; about 90 are usual, and long lists of
// identities or forwards add a line each.
const maxOptions = 10_000

// parseOptions reads the output of `ssh -G`: a lower-case name, a blank, and the
// value to the end of the line, quotes gone. A name that came several times
// keeps its values in order. Names nobody here knows are kept as well: newer
// versions have more.
func parseOptions(out []byte) (map[string][]string, error) {
	options := map[string][]string{}
	n := 0
	for len(out) > 0 {
		raw, rest, _ := bytes.Cut(out, []byte{'\n'})
		out = rest
		raw = bytes.TrimRight(raw, "\r")
		if len(raw) == 0 {
			continue
		}
		if n++; n > maxOptions {
			return nil, fmt.Errorf("more than %d lines", maxOptions)
		}
		if !utf8.Valid(raw) || bytes.IndexByte(raw, 0) >= 0 {
			return nil, errors.New("it is not text")
		}
		key, value, _ := strings.Cut(string(raw), " ")
		key = strings.ToLower(key)
		options[key] = append(options[key], strings.TrimSpace(value))
	}
	for _, must := range []string{"hostname", "port", "user"} {
		if len(options[must]) == 0 || options[must][0] == "" {
			return nil, errors.New("no " + must)
		}
	}
	return options, nil
}

// yes reads a flag in any of ssh's spellings; what is neither is what
// unspecified says.
func yes(v string, unspecified bool) bool {
	switch strings.ToLower(v) {
	case "yes", "true", "on", "1", "unbound", "host-bound":
		return true
	case "no", "false", "off", "0":
		return false
	}
	return unspecified
}

// list splits a comma-separated value; none is nil.
func list(v string) []string {
	if v == "" || strings.EqualFold(v, "none") {
		return nil
	}
	var out []string
	for _, s := range strings.Split(v, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// splitPaths separates file names `ssh -G` printed on one line. It prints no
// quotes, so a blank may be part of a name (C:\Users\Jane Doe/.ssh/known_hosts):
// a word that does not begin as an absolute name does belongs to the one before.
func (p places) splitPaths(v string) []string {
	var out []string
	for _, w := range strings.Split(v, " ") {
		if rest, ok := strings.CutPrefix(w, "__PROGRAMDATA__"); ok { // so Windows' ssh writes it
			w = strings.TrimSuffix(p.systemDir, `\ssh`) + rest
		}
		if len(out) == 0 || p.abs(w) || strings.HasPrefix(w, "~") || strings.HasPrefix(w, "${") || strings.HasPrefix(w, "%") || w == "none" {
			out = append(out, w)
			continue
		}
		out[len(out)-1] += " " + w
	}
	return notNone(out)
}

// notNone drops empty names and the word none.
func notNone(names []string) []string {
	var out []string
	for _, n := range names {
		if n = strings.TrimSpace(n); n != "" && !strings.EqualFold(n, "none") {
			out = append(out, n)
		}
	}
	return out
}

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}
