package transcript

import (
	"bytes"
	"encoding/json"
	"strings"
)

// shells are the wrappers engines put around a script. Only these are taken
// off: a wrapper that says anything else is part of what runs.
var shells = []string{"bash", "sh", "zsh", "/bin/bash", "/bin/sh", "/bin/zsh", "/usr/bin/bash", "/usr/bin/sh", "/usr/bin/zsh"}

// Command is the script inside a plain `bash -lc '…'`, anything else unchanged.
func Command(c string) string {
	for _, sh := range shells {
		rest, ok := strings.CutPrefix(c, sh+" ")
		if !ok {
			continue
		}
		for _, flag := range []string{"-lc ", "-c "} {
			if arg, ok := strings.CutPrefix(rest, flag); ok {
				if script, ok := unquote(arg); ok {
					return script
				}
			}
		}
	}
	return c
}

// unquote reads exactly one shell word without expansions; anything that could
// be more than that is refused.
func unquote(s string) (string, bool) {
	var b strings.Builder
	for s != "" {
		switch c := s[0]; {
		case c == '\'':
			end := strings.IndexByte(s[1:], '\'')
			if end < 0 {
				return "", false
			}
			b.WriteString(s[1 : 1+end])
			s = s[end+2:]
		case c == '"':
			i := 1
			for ; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '$' || s[i] == '`' {
					return "", false
				}
				if s[i] == '\\' && i+1 < len(s) && strings.IndexByte("\"\\$`", s[i+1]) >= 0 {
					i++
				}
				b.WriteByte(s[i])
			}
			if i >= len(s) {
				return "", false
			}
			s = s[i+1:]
		case c == '\\' && len(s) > 1:
			b.WriteByte(s[1])
			s = s[2:]
		case strings.IndexByte(" \t\n;&|<>()$`*?[]{}~!#", c) >= 0:
			return "", false
		default:
			b.WriteByte(c)
			s = s[1:]
		}
	}
	return b.String(), true
}

func indentJSON(raw []byte) string {
	var b bytes.Buffer
	if json.Indent(&b, raw, "", "  ") != nil {
		return string(raw)
	}
	return b.String()
}
