package sshconfig

import (
	"crypto/sha1" //nolint:gosec // %C is defined as SHA-1; nothing is protected by it
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// tokens are what the % sequences of ssh_config stand for.
type tokens struct {
	home, localUser, localHost string
	name, host, user, port     string // as asked for, HostName, remote user, port
	keyAlias, jump             string // HostKeyAlias; host of the last ProxyJump hop
}

func tokensFor(o Options, t Target) tokens {
	local, _ := os.Hostname() // %l is empty where the kernel has no name
	k := tokens{
		home: o.Home, localUser: o.User, localHost: local, name: t.Alias, host: t.HostName,
		user: t.User, port: strconv.Itoa(t.Port), keyAlias: t.HostKeyAlias,
	}
	if n := len(t.ProxyJump); n > 0 {
		if d, err := parseHop(t.ProxyJump[n-1]); err == nil {
			k.jump = d.host
		}
	}
	return k
}

// value is what one token stands for.
func (k tokens) value(c byte) (string, bool) {
	switch c {
	case '%':
		return "%", true
	case 'C':
		// Before 9.6 ssh left the jump host out; without one it is the same.
		sum := sha1.Sum([]byte(k.localHost + k.host + k.port + k.user + k.jump)) //nolint:gosec // see the import
		return hex.EncodeToString(sum[:]), true
	case 'd':
		return k.home, true
	case 'h':
		return k.host, true
	case 'i':
		return userID(), true
	case 'j':
		return k.jump, true
	case 'k':
		return or(k.keyAlias, k.name), true
	case 'L':
		short, _, _ := strings.Cut(k.localHost, ".")
		return short, true
	case 'l':
		return k.localHost, true
	case 'n':
		return k.name, true
	case 'p':
		return k.port, true
	case 'r':
		return k.user, true
	case 'T':
		return "NONE", true // our channel has no tunnel
	case 'u':
		return k.localUser, true
	}
	return "", false
}

// maxExpanded bounds what tokens may blow a value up to, in bytes.
const maxExpanded = 64 << 10

// expand replaces the tokens of s in one pass: what they bring in is not looked
// at again. only limits which are known; "" is all of them.
func (k tokens) expand(s, only string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			return "", errors.New("a lone % at the end")
		}
		v, ok := k.value(s[i])
		if !ok || only != "" && strings.IndexByte(only, s[i]) < 0 {
			return "", fmt.Errorf("unknown token %%%s", clean(string(rune(s[i]))))
		}
		b.WriteString(v)
		if b.Len() > maxExpanded {
			return "", errors.New("the expanded value is too long")
		}
	}
	return b.String(), nil
}

// errUnset is a ${VARIABLE} that is not there. ssh then leaves the option out.
type errUnset string

func (e errUnset) Error() string { return "the variable ${" + clean(string(e)) + "} is not set" }

// expandEnv replaces ${VARIABLES}.
func expandEnv(s string, getenv func(string) string) (string, error) {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), nil
		}
		end := strings.IndexByte(s[i:], '}')
		if end < 0 {
			return "", errors.New("${ without }")
		}
		name := s[i+2 : i+end]
		v := getenv(name)
		if v == "" {
			return "", errUnset(name)
		}
		b.WriteString(s[:i])
		b.WriteString(v)
		if b.Len() > maxExpanded {
			return "", errors.New("the expanded value is too long")
		}
		s = s[i+end+1:]
	}
}

// path expands everything a file name may hold: ~, ${VARIABLES} and tokens. As
// in ssh, a variable's value is not searched for tokens.
func (k tokens) path(s string, o Options) (string, error) {
	s, err := expandHome(s, o.Home)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for {
		// Up to the next variable, tokens; the variable's value as it is.
		i := strings.Index(s, "${")
		text, rest := s, ""
		if i >= 0 {
			text, rest = s[:i], s[i:]
		}
		part, err := k.expand(text, "")
		if err != nil {
			return "", err
		}
		b.WriteString(part)
		if rest == "" {
			return b.String(), nil
		}
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			return "", errors.New("${ without }")
		}
		v, err := expandEnv(rest[:end+1], o.Getenv)
		if err != nil {
			return "", err
		}
		b.WriteString(v)
		s = rest[end+1:]
	}
}
