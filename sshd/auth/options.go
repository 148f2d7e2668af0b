package auth

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"towline/appserver/protocol"
)

// roleVariable is how a line says what its key may do. OpenSSH ignores it
// (PermitUserEnvironment is off by default), so one file can serve both.
const roleVariable = "TOWLINE_ROLE"

// limits is when and from where a line holds.
type limits struct {
	from    sources
	expires time.Time // zero: never
}

// option is one item in front of a key: a bare word, or name="value".
type option struct {
	name   string // lower case
	value  string
	quoted bool // it had a value
}

// splitOptions takes the options off the front of a line. They end at the first
// blank outside quotes. Inside quotes `\"` is a quote and nothing else is special.
func splitOptions(line string) (opts []option, rest string, err error) {
	i := 0
	for {
		start := i
		for i < len(line) && isNameByte(line[i]) {
			i++
		}
		if i == start {
			return nil, "", errors.New("an option's name is missing")
		}
		o := option{name: strings.ToLower(line[start:i])}
		if i < len(line) && line[i] == '=' {
			if o.value, i, err = unquote(line, i+1); err != nil {
				return nil, "", fmt.Errorf("option %s: %w", o.name, err)
			}
			o.quoted = true
		}
		opts = append(opts, o)
		switch {
		case i == len(line):
			return opts, "", nil
		case line[i] == ',':
			i++
		case line[i] == ' ', line[i] == '\t':
			return opts, strings.TrimLeft(line[i:], " \t"), nil
		default:
			return nil, "", fmt.Errorf("option %s is followed by %q", o.name, line[i])
		}
	}
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '@'
}

// unquote reads a quoted value that starts at i and returns where it ends.
func unquote(s string, i int) (value string, next int, err error) {
	if i >= len(s) || s[i] != '"' {
		return "", 0, errors.New("the value is not in double quotes")
	}
	var b strings.Builder
	for i++; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), i + 1, nil
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
		}
		b.WriteByte(s[i])
	}
	return "", 0, errors.New("the closing quote is missing")
}

// nothing is what options do that speak about things this server never allows.
// They are known, so they do not cost the key.
var nothing = map[string]bool{
	"agent-forwarding": true, "no-agent-forwarding": true,
	"x11-forwarding": true, "no-x11-forwarding": true,
	"user-rc": true, "no-user-rc": true,
}

// nothingValued is the same for options with a value.
var nothingValued = map[string]bool{"permitlisten": true, "tunnel": true}

// refused options promise something this server cannot keep. Ignoring one would
// let in more than the owner wrote, so the line is not used.
var refused = map[string]string{
	"cert-authority":  "certificates are not accepted",
	"principals":      "certificates are not accepted",
	"verify-required": "the server cannot see whether a PIN was asked for",
}

// applyOptions works from left to right, as OpenSSH does: "restrict,pty" gives a
// terminal, "pty,restrict" does not.
func (e *entry) applyOptions(opts []option) error {
	seen := map[string]bool{}
	once := func(name string) error {
		if seen[name] {
			return fmt.Errorf("%s is given twice", name)
		}
		seen[name] = true
		return nil
	}
	for _, o := range opts {
		if why, bad := refused[o.name]; bad {
			return fmt.Errorf("option %s: %s", o.name, why)
		}
		valued := nothingValued[o.name]
		var err error
		switch o.name {
		case "restrict":
			e.Terminal, e.NoForward = false, true
		case "no-pty":
			e.Terminal = false
		case "no-port-forwarding":
			e.NoForward = true
		case "port-forwarding":
			e.NoForward = false
		case "pty":
			e.Terminal = true
		case "no-touch-required":
			e.NoTouch = true
		case "from":
			valued = true
			if err = once(o.name); err == nil {
				e.from, err = parseSources(o.value)
			}
		case "expiry-time":
			valued = true
			err = e.expire(o.value)
		case "permitopen":
			if valued = true; o.quoted {
				err = e.permitOpen(o.value)
			}
		case "command":
			valued = true
			err = once(o.name)
			e.Forced, e.Command = true, o.value
		case "environment":
			valued = true
			err = e.environment(o.value, once)
		default:
			if !valued && !nothing[o.name] {
				return fmt.Errorf("unknown option %q", o.name)
			}
		}
		if valued != o.quoted {
			if valued {
				return fmt.Errorf("option %s needs a value: %s=\"…\"", o.name, o.name)
			}
			return fmt.Errorf("option %s takes no value", o.name)
		}
		if err != nil {
			return fmt.Errorf("option %s: %w", o.name, err)
		}
	}
	return nil
}

func (e *entry) environment(kv string, once func(string) error) error {
	name, value, ok := strings.Cut(kv, "=")
	if !ok || name == "" {
		return errors.New("expected NAME=value")
	}
	if name != roleVariable {
		return nil // a session here has no environment of the key's to put it in
	}
	if err := once(name); err != nil {
		return err
	}
	role, err := protocol.ParseRole(value)
	if err != nil {
		return err
	}
	e.Role = role
	return nil
}

// permitOpen adds HOST:PORT, where * is every port. As in OpenSSH the name must
// be what the client asks for, letter by letter.
func (e *entry) permitOpen(value string) error {
	for item := range strings.SplitSeq(value, ",") {
		host, port, err := net.SplitHostPort(item)
		if err == nil && port != "*" {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil || host == "" {
			return fmt.Errorf("%q is not HOST:PORT", Printable(item, 60))
		}
		e.Opens += "," + net.JoinHostPort(host, port)
	}
	return nil
}

// expire reads YYYYMMDD[HHMM[SS]][Z], local time without the Z. Of several the
// earliest counts.
func (e *entry) expire(s string) error {
	loc := time.Local
	digits, utc := strings.CutSuffix(s, "Z")
	if utc {
		loc = time.UTC
	}
	layout, ok := map[int]string{8: "20060102", 12: "200601021504", 14: "20060102150405"}[len(digits)]
	if !ok {
		return fmt.Errorf("%q is not YYYYMMDD[HHMM[SS]][Z]", Printable(s, 40))
	}
	t, err := time.ParseInLocation(layout, digits, loc)
	if err != nil {
		return fmt.Errorf("%q is not YYYYMMDD[HHMM[SS]][Z]", Printable(s, 40))
	}
	if e.expires.IsZero() || t.Before(e.expires) {
		e.expires = t
	}
	return nil
}
