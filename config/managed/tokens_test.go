package managed

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

const day = 24 * time.Hour

func TestTokenRulesAreReadWhole(t *testing.T) {
	p := load(t, map[string]string{ours: `
allow_remote_control = false
[tokens]
allow = true
creators = ["role:admin", "user:ana"]
max_lifetime = "12w"
rotate_every = "30d"
allowed_roles = ["observer", "operator"]
allowed_networks = ["10.0.0.0/8", "::1"]
allowed_scopes = ["exec", "project:/srv"]
`})
	want := []string{
		`allow_remote_control = false`, `tokens.allow = true`, `tokens.creators = ["role:admin", "user:ana"]`,
		`tokens.allowed_roles = ["observer", "operator"]`, `tokens.allowed_networks = ["10.0.0.0/8", "::1"]`,
		`tokens.allowed_scopes = ["exec", "project:/srv"]`, `tokens.max_lifetime = "12w"`, `tokens.rotate_every = "30d"`,
	}
	got := []string{}
	for _, l := range p.Lines() {
		if l.From != ours {
			t.Errorf("%s is said to be from %s", l.Key, l.From)
		}
		got = append(got, l.Key+" = "+l.Value)
	}
	if !slices.Equal(got, want) {
		t.Errorf("shown as\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if p.TokenLifetime() != 84*day || p.TokenRotation() != 30*day || len(p.TokenLines()) != 7 {
		t.Errorf("%s, %s", p.TokenLifetime(), p.TokenRotation())
	}
	for name, text := range map[string]string{
		"role":           `allowed_roles = ["root"]`,
		"scope":          `allowed_scopes = ["everything"]`,
		"relative scope": `allowed_scopes = ["project:srv"]`,
		"network":        `allowed_networks = ["10.0.0.0/33"]`,
		"loose network":  `allowed_networks = ["10.0.0.1/8"]`,
		"span":           `max_lifetime = "a month"`,
		"number":         `rotate_every = 30`,
		"creator":        `creators = ["ana"]`,
		"creator's role": `creators = ["role:root"]`,
		"key":            `maximum_lifetime = "1d"`,
	} {
		p, err := Load(Options{Root: machine(t, map[string]string{ours: "[tokens]\n" + text})})
		refused(t, err, ours)
		for what, err := range map[string]error{
			"tokens": p.CheckTokens(), "creator": p.CheckTokenCreator(TokenCreator{}), "token": p.CheckToken(TokenFacts{Role: "observer"}),
			"networks": p.CheckTokenNetworks(nil), "source": p.CheckTokenSource(netip.IPv6Loopback()), "lifetime": p.CheckTokenLifetime(1),
		} {
			if err == nil {
				t.Errorf("with a broken %s, %s is allowed", name, what)
			}
		}
	}
}

// Where several files have rules all of them count: no list can widen another.
func TestTheStrictestTokenRulesWin(t *testing.T) {
	var p Policy
	list := func(words ...string) *[]string { return &words }
	yes, no := true, false
	add := func(path string, tab tokenTable) {
		t.Helper()
		if err := p.addTokens(path, tab); err != nil {
			t.Fatal(err)
		}
	}
	add("/a", tokenTable{
		Allow: &yes, Roles: list("observer", "approver"), Networks: list("10.0.0.0/8"), Scopes: list("all"),
		MaxLifetime: "10d", RotateEvery: "1d", Creators: list("role:admin"),
	})
	add("/none", tokenTable{})
	add("/b", tokenTable{
		Roles: list("approver", "operator"), Networks: list("10.1.0.0/16", "192.168.0.0/16"), Scopes: list("exec"),
		MaxLifetime: "20d", RotateEvery: "12h", Creators: list("user:ana", "key:SHA256:k"),
	})
	if p.TokenLifetime() != 10*day || p.TokenRotation() != day/2 || p.CheckTokens() != nil {
		t.Errorf("%s, %s, %v", p.TokenLifetime(), p.TokenRotation(), p.CheckTokens())
	}
	for role, from := range map[string]string{"observer": "/b", "approver": "", "operator": "/a"} {
		check(t, role, p.CheckToken(TokenFacts{Role: role, Exec: true}), from, "tokens.allowed_roles")
	}
	check(t, "all", p.CheckToken(TokenFacts{Role: "approver", All: true}), "/b", "tokens.allowed_scopes")
	for src, from := range map[string]string{"10.1.2.3": "", "10.2.0.1": "/b", "192.168.0.1": "/a", "::1": "/a"} {
		check(t, src, p.CheckTokenSource(netip.MustParseAddr(src)), from, "tokens.allowed_networks")
	}
	for n, from := range map[string]string{"10.1.2.0/24": "", "10.1.0.0/16": "", "10.0.0.0/8": "/b", "0.0.0.0/0": "/a", "::/0": "/a"} {
		check(t, n, p.CheckTokenNetworks([]netip.Prefix{netip.MustParsePrefix(n)}), from, "tokens.allowed_networks")
	}
	for d, from := range map[time.Duration]string{10 * day: "", 11 * day: "/a", 30 * day: "/a", 0: "/a"} {
		check(t, d.String(), p.CheckTokenLifetime(d), from, "tokens.max_lifetime")
	}
	for name, tc := range map[string]struct {
		c    TokenCreator
		from string
	}{
		"ana":            {TokenCreator{Kind: "local", ID: "uid:7", Name: "ana", Role: "admin"}, ""},
		"her key":        {TokenCreator{Kind: "key", ID: "SHA256:k", Name: "x", Role: "admin"}, ""},
		"a key's name":   {TokenCreator{Kind: "key", ID: "SHA256:z", Name: "ana", Role: "admin"}, "/b"},
		"a token's name": {TokenCreator{Kind: "token", ID: "uid:7", Name: "ana", Role: "admin"}, "/b"},
		"no admin":       {TokenCreator{Kind: "local", ID: "uid:7", Name: "ana", Role: "operator"}, "/a"},
	} {
		check(t, name, p.CheckTokenCreator(tc.c), tc.from, "tokens.creators")
	}
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		issued, secret time.Duration // ago
		until          time.Duration // from now
		from, key      string
	}{
		"new":                {0, 0, day / 2, "", ""},
		"near its end":       {10*day - time.Hour, 0, time.Hour, "", ""},
		"too old":            {10 * day, 0, 0, "/a", "tokens.max_lifetime"},
		"secret too old":     {day, day / 2, 0, "/b", "tokens.rotate_every"},
		"secret near an end": {day, day/2 - 1, 1, "", ""},
	} {
		until, err := p.TokenUntil(at.Add(-tc.issued), at.Add(-tc.secret), at)
		check(t, name, err, tc.from, tc.key)
		if tc.from == "" && until.Sub(at) != tc.until {
			t.Errorf("%s: for %s more, want %s", name, until.Sub(at), tc.until)
		}
	}
	add("/c", tokenTable{Allow: &no})
	check(t, "any", p.CheckTokens(), "/c", "tokens.allow")
	if until, err := (Policy{}).TokenUntil(at, at, at); !until.IsZero() || err != nil {
		t.Errorf("without rules until %s, %v", until, err)
	}
}

// check holds err to be nil when from is "", else a refusal that names both.
func check(t *testing.T, what string, err error, from, key string) {
	t.Helper()
	if from == "" {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		return
	}
	if err == nil {
		t.Errorf("%s is allowed", what)
		return
	}
	refused(t, err, "(set by "+from+")", key+":")
}

func TestScopesWithinRules(t *testing.T) {
	exec, threads, all := TokenFacts{Exec: true}, TokenFacts{Threads: true}, TokenFacts{All: true}
	in := func(dirs ...string) TokenFacts { return TokenFacts{Projects: dirs} }
	for _, tc := range []struct {
		words string
		f     TokenFacts
		want  bool
	}{
		{"all", all, true},
		{"all", exec, true},
		{"all", in("/x"), true},
		{"exec", all, false},
		{"exec", exec, true},
		{"exec", TokenFacts{Exec: true, Projects: []string{"/x"}}, true}, // less than exec
		{"exec", in("/x"), false},
		{"threads", threads, true},
		{"threads", exec, false},
		{"threads", TokenFacts{Threads: true, Projects: []string{"/x"}}, false}, // reaches more
		{"threads project", TokenFacts{Threads: true, Projects: []string{"/x"}}, true},
		{"project", in("/x", "/y"), true},
		{"project", all, false},
		{"project:/srv", in("/srv"), true},
		{"project:/srv", in("/srv/a/b"), true},
		{"project:/srv", in("/srvx"), false},
		{"project:/srv", in("/"), false},
		{"project:/srv", in("/srv/a", "/x"), false},
		{"project:/srv project:/x", in("/srv/a", "/x"), true},
		{"project:/srv", exec, false},
		{"", exec, false},
	} {
		if got := tc.f.within(strings.Fields(tc.words)); got != tc.want {
			t.Errorf("%+v within %q: %v", tc.f, tc.words, got)
		}
	}
}

func TestNetworks(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "192.0.2.1": "192.0.2.1/32", "::1": "::1/128", "2001:db8::/32": "2001:db8::/32", "::ffff:192.0.2.1": "192.0.2.1/32",
		"0.0.0.0/0": "0.0.0.0/0",
		"":          "", "10": "", "10.0.0.1/8": "", "10.0.0.0/33": "", "::ffff:10.0.0.0/104": "", "fe80::1%eth0": "", "example.com": "",
	} {
		n, err := ParseNetwork(text)
		if (err == nil) != (want != "") || err == nil && n.String() != want {
			t.Errorf("%q: %s, %v; want %q", text, n, err, want)
		}
	}
}
