package sshconfig

import (
	"slices"
	"testing"
)

// What each line means was asked of OpenSSH 9.2.
func TestParseLine(t *testing.T) {
	for text, want := range map[string][]string{
		`HostName a`:                     {"hostname", "a"},
		"\t HostName\ta\t":               {"hostname", "a"},
		`HostName=a`:                     {"hostname", "a"},
		`HostName = a`:                   {"hostname", "a"},
		`HostName==a`:                    {"hostname", "=a"},
		`HostName= =a`:                   {"hostname", "=a"},
		`"HostName" a`:                   {"hostname", "a"},
		`HostName "a=b"`:                 {"hostname", "a=b"},
		`HostName a"b"c`:                 {"hostname", "abc"},
		`HostName 'a b'`:                 {"hostname", "a b"},
		`HostName a\ b`:                  {"hostname", "a b"},
		`User a\\b`:                      {"user", `a\b`},
		`User a\b`:                       {"user", `a\b`},
		`User "a\"b"`:                    {"user", `a"b`},
		`HostName a#b`:                   {"hostname", "a#b"},
		`HostName a #b`:                  {"hostname", "a"},
		`HostName "a #b"`:                {"hostname", "a #b"},
		`Host a	b  c`:                    {"host", "a", "b", "c"},
		"Host a\r":                       {"host", "a"},
		"HostName a\f":                   {"hostname", "a"},
		`ProxyCommand  nc -x "a b" # %h`: {"proxycommand", `nc -x "a b" # %h`},
		`ProxyCommand=nc`:                {"proxycommand", "nc"},
		`RemoteCommand "unclosed`:        {"remotecommand", `"unclosed`},
		`Match host=x user "a b,c" #z`:   {"match", "host", "x", "user", "a b,c"},
		`Match =host x`:                  {"match", "host", "x"},
		`User ""`:                        {"user", ""},
	} {
		l, err := parseLine(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := append([]string{l.key}, l.args...); !slices.Equal(got, want) {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	for _, text := range []string{"", "   ", "\r", "# x", "   #x", "\t"} {
		if l, err := parseLine(text); l != nil || err != nil {
			t.Errorf("%q says %v, %v; want nothing", text, l, err)
		}
	}
	for _, text := range []string{
		"HostName", "HostName=", "HostName =", `HostName "a`, "User a'b", `"HostName a`, "Host #x", `Match host "x`, "ProxyCommand",
	} {
		if l, err := parseLine(text); err == nil {
			t.Errorf("%q was accepted: %+v", text, l)
		}
	}
}

func TestMatchPattern(t *testing.T) {
	for _, tc := range []struct {
		name, pattern string
		want          bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"A", "a", false},
		{"abc", "*", true},
		{"", "*", true},
		{"abc", "a*c", true},
		{"abc", "a?c", true},
		{"ac", "a?c", false},
		{"a", "a?", false},
		{"web.example.com", "*.example.com", true},
		{"example.com", "*.example.com", false},
		{"aab", "*a*b", true},
		{"aXbXc", "a*b*d", false},
		{"abab", "*ab", true},
		{"a[b", "a[b", true},
		{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", "*a*a*a*a*a*a*a*a*a*a*a*a*c", false}, // in no time
	} {
		if got := matchPattern(tc.name, tc.pattern); got != tc.want {
			t.Errorf("%q against %q is %v", tc.name, tc.pattern, got)
		}
	}
	if matchAny("a", []string{"*", "!a"}) || !matchAny("b", []string{"*", "!a"}) || matchAny("b", []string{"!a"}) {
		t.Error("a negated pattern takes away, and gives nothing")
	}
}
