package sshconfig

import (
	"errors"
	"strings"
)

// A configuration line is a keyword, then blanks and at most one "=", then
// arguments. Arguments are separated by blanks; quotes of either kind and
// backslashes hold them together; a "#" that begins one ends the line. The
// commands (ProxyCommand and its like) are the exception: all of the rest is one
// argument, quotes, comment and all.

const blanks = " \t\r\f\v"

// line is one configuration line that says something.
type line struct {
	file string
	no   int
	key  string   // lower case
	args []string // at least one
	rest string   // what follows the keyword, as written
}

// wholeLine are the keywords whose argument is the rest of the line.
var wholeLine = map[string]bool{
	"proxycommand": true, "localcommand": true, "remotecommand": true, "knownhostscommand": true,
}

var (
	errNoArgument = errors.New("nothing follows the keyword")
	errQuotes     = errors.New("a quote is not closed")
)

// parseLine reads one line; a nil line with no error is blank or a comment.
func parseLine(text string) (*line, error) {
	text = strings.Trim(text, blanks+"\n")
	if text == "" || text[0] == '#' {
		return nil, nil //nolint:nilnil // nothing there is no fault
	}
	key, rest, err := cutWord(text)
	if err != nil {
		return nil, err
	}
	l := &line{key: strings.ToLower(key), rest: strings.TrimLeft(rest, blanks)}
	if l.rest == "" {
		return l, errNoArgument
	}
	switch {
	case wholeLine[l.key]:
		l.args = []string{l.rest}
		return l, nil
	case l.key == "match":
		l.args, err = matchWords(l.rest)
	default:
		l.args, err = words(l.rest)
	}
	if err == nil && len(l.args) == 0 {
		err = errNoArgument
	}
	return l, err
}

// cutWord takes the first word: up to a blank or "=", or what a double quote
// encloses. One "=" with blanks around it belongs to the separator.
func cutWord(s string) (word, rest string, err error) {
	if s[0] == '"' {
		end := strings.IndexByte(s[1:], '"')
		if end < 0 {
			return "", "", errQuotes
		}
		word, rest = s[1:1+end], s[2+end:]
	} else {
		end := strings.IndexAny(s, blanks+"=")
		if end < 0 {
			return s, "", nil
		}
		word, rest = s[:end], s[end:]
	}
	rest = strings.TrimLeft(rest, blanks)
	if after, ok := strings.CutPrefix(rest, "="); ok {
		rest = strings.TrimLeft(after, blanks)
	}
	return word, rest, nil
}

// words splits arguments the way a shell without expansions would.
func words(s string) ([]string, error) {
	var out []string
	for {
		s = strings.TrimLeft(s, blanks)
		if s == "" || s[0] == '#' {
			return out, nil
		}
		var b strings.Builder
		var quote byte
		i := 0
	word:
		for ; i < len(s); i++ {
			c := s[i]
			switch {
			case c == '\\' && i+1 < len(s) && escapes(s[i+1], quote):
				i++
				b.WriteByte(s[i])
			case quote == 0 && strings.IndexByte(blanks, c) >= 0:
				break word
			case quote == 0 && (c == '"' || c == '\''):
				quote = c
			case quote != 0 && c == quote:
				quote = 0
			default:
				b.WriteByte(c)
			}
		}
		if quote != 0 {
			return nil, errQuotes
		}
		out = append(out, b.String())
		s = s[i:]
	}
}

// escapes says whether a backslash before c vanishes.
func escapes(c, quote byte) bool {
	return c == '\\' || c == '"' || c == '\'' || c == ' ' && quote == 0
}

// matchWords splits a Match line: there, "=" may stand between a criterion and
// its argument, and only double quotes count.
func matchWords(s string) ([]string, error) {
	var out []string
	s = strings.TrimPrefix(s, "=")
	for {
		s = strings.TrimLeft(s, blanks)
		if s == "" || s[0] == '#' {
			return out, nil
		}
		word, rest, err := cutWord(s)
		if err != nil {
			return nil, err
		}
		out, s = append(out, word), rest
	}
}

// criterion is one condition of a Match line.
type criterion struct {
	not  bool
	name string // lower case
	arg  string // "" for all, canonical and final
}

var errCriteria = errors.New("a Match condition lacks its argument")

// criteria pairs the words of a Match line up.
func criteria(args []string) ([]criterion, error) {
	var out []criterion
	for i := 0; i < len(args); i++ {
		name, not := strings.CutPrefix(strings.ToLower(args[i]), "!")
		c := criterion{not: not, name: name}
		switch name {
		case "all", "canonical", "final":
		default:
			if i++; i == len(args) {
				return nil, errCriteria
			}
			c.arg = args[i]
		}
		out = append(out, c)
	}
	return out, nil
}
