package sshconfig

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// maxName bounds a host name or user, in bytes; the DNS allows 253.
const maxName = 1024

// dest is a destination taken apart. user and port are "" and 0 where the
// configuration is to say.
type dest struct {
	user, host string
	port       int
}

// parseDest reads a destination as the ssh command does: HOST, USER@HOST or
// ssh://[USER@]HOST[:PORT].
func parseDest(s string) (dest, error) {
	if rest, ok := cutScheme(s); ok {
		return parseURI(rest)
	}
	d := dest{host: s}
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		d.user, d.host = s[:i], s[i+1:]
		if d.user == "" {
			return dest{}, errors.New("the user before @ is empty")
		}
	}
	return d, d.check()
}

// parseHop reads an entry of ProxyJump, where a port may follow the host and an
// IPv6 address stands in brackets.
func parseHop(s string) (dest, error) {
	rest, _ := cutScheme(s)
	return parseURI(rest)
}

func cutScheme(s string) (string, bool) {
	if len(s) >= 6 && strings.EqualFold(s[:6], "ssh://") {
		return s[6:], true
	}
	return s, false
}

// parseURI reads [USER@]HOST[:PORT].
func parseURI(s string) (dest, error) {
	s = strings.TrimSuffix(s, "/")
	var d dest
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		if d.user = s[:i]; d.user == "" {
			return dest{}, errors.New("the user before @ is empty")
		}
		if u, err := url.PathUnescape(d.user); err == nil {
			d.user = u
		}
		s = s[i+1:]
	}
	d.host = s
	switch {
	case strings.HasPrefix(s, "["):
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return dest{}, errors.New("[ without ]")
		}
		d.host, s = s[1:end], s[end+1:]
		if s == "" {
			return d, d.check()
		}
		if s[0] != ':' {
			return dest{}, fmt.Errorf("%q follows the address", clean(s))
		}
	case strings.Count(s, ":") == 1:
		i := strings.IndexByte(s, ':')
		d.host, s = s[:i], s[i:]
	default:
		return d, d.check()
	}
	port, err := strconv.ParseUint(s[1:], 10, 16)
	if err != nil || port == 0 {
		return dest{}, fmt.Errorf("%q is not a port", clean(s[1:]))
	}
	d.port = int(port)
	return d, d.check()
}

// check refuses what no host or user is called, and what could become an option
// or a command where a name is expected: names reach ProxyCommand, a shell line.
func (d dest) check() error {
	if err := checkHost(d.host); err != nil {
		return err
	}
	if d.user != "" {
		return checkUser(d.user)
	}
	return nil
}

// shellSigns are characters with which a name would be more than a word.
const shellSigns = "'`\"$\\;&<>|(){},"

func checkHost(s string) error {
	if err := checkWord("host name", s); err != nil {
		return err
	}
	if i := strings.IndexAny(s, shellSigns); i >= 0 {
		return fmt.Errorf("the host name holds %q", s[i])
	}
	return nil
}

func checkUser(s string) error {
	if err := checkWord("user name", s); err != nil {
		return err
	}
	// A backslash separates a Windows domain; elsewhere it would quote.
	if i := strings.IndexAny(s, "'`\";&<>|(){}"); i >= 0 {
		return fmt.Errorf("the user name holds %q", s[i])
	}
	if s[len(s)-1] == '\\' {
		return errors.New("the user name ends with a backslash")
	}
	return nil
}

func checkWord(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("the %s is empty", what)
	case len(s) > maxName:
		return fmt.Errorf("the %s has %d characters", what, len(s))
	case s[0] == '-':
		return fmt.Errorf("the %s begins with -", what)
	}
	for _, r := range s {
		if unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar {
			return fmt.Errorf("the %s holds a blank or control character", what)
		}
	}
	return nil
}
