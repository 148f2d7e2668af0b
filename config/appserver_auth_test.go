package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const goodAuth = `
[app_server.auth]
access_tokens = true
ca = "ca.pem"

[[app_server.auth.capability]]
name = "phone"
file = "phone.token"

[[app_server.auth.jwt]]
name = "github"
issuer = "https://token.actions.githubusercontent.com"
audience = ["towline"]
end_at_expiry = true

  [[app_server.auth.jwt.rules]]
  claims = { repository = "octo/app", ref = ["refs/heads/main", "refs/tags/*"], "/a/b" = "c" }
  scope = ["project:/srv/app"]
  principal = "{repository}@{ref}"
`

func TestAppServerAuth(t *testing.T) {
	p := testPaths(t)
	c, err := Parse([]byte(goodAuth), p)
	if err != nil {
		t.Fatal(err)
	}
	a := c.AppServer.Auth
	if !a.AccessTokens || a.CA != filepath.Join(p.Config, "ca.pem") || a.Capability[0].File != filepath.Join(p.Config, "phone.token") {
		t.Errorf("%+v", a)
	}
	r := a.JWT[0].Rules[0]
	if got, err := r.Patterns("ref"); err != nil || !slices.Equal(got, []string{"refs/heads/main", "refs/tags/*"}) {
		t.Errorf("ref: %v, %v", got, err)
	}
	if got, err := r.Patterns("/a/b"); err != nil || !slices.Equal(got, []string{"c"}) {
		t.Errorf("/a/b: %v, %v", got, err)
	}
}

func TestAppServerAuthRefuses(t *testing.T) {
	p := testPaths(t)
	const jwt, issuer = "[[app_server.auth.jwt]]\nname=\"a\"\n", "issuer=\"https://a\"\naudience=[\"b\"]\n"
	for name, tc := range map[string]struct{ text, want string }{
		"a capability of nothing":   {"[[app_server.auth.capability]]\nname=\"a\"", "capability[0]: set one of file and sha256"},
		"a capability of both":      {"[[app_server.auth.capability]]\nname=\"a\"\nfile=\"x\"\nsha256=\"" + strings.Repeat("ab", 32) + "\"", "set one of"},
		"a digest that is none":     {"[[app_server.auth.capability]]\nname=\"a\"\nsha256=\"abc\"", "capability[0].sha256: is no SHA-256"},
		"a name with a space":       {"[[app_server.auth.capability]]\nname=\"a b\"\nfile=\"x\"", "is no name"},
		"two of a name":             {"[[app_server.auth.capability]]\nname=\"a\"\nfile=\"x\"\n[[app_server.auth.capability]]\nname=\"a\"\nfile=\"y\"", "capability[1].name: there are two"},
		"an unknown role":           {"[[app_server.auth.capability]]\nname=\"a\"\nfile=\"x\"\nrole=\"root\"", "capability[0].role: \"root\" is none of observer"},
		"all and more":              {"[[app_server.auth.capability]]\nname=\"a\"\nfile=\"x\"\nscope=[\"all\",\"exec\"]", `"all" stands alone`},
		"a source of nothing":       {jwt, "jwt[0]: set one of secret_file"},
		"a source of two":           {jwt + "secret_file=\"x\"\nkey_file=\"y\"", "jwt[0]: set one of"},
		"an issuer for anybody":     {jwt + "issuer=\"https://a\"\nany_subject=true", "jwt[0].audience: is missing"},
		"an issuer without rules":   {jwt + issuer, "jwt[0].rules: are missing"},
		"rules and a role":          {jwt + issuer + "role=\"admin\"\n[[app_server.auth.jwt.rules]]\nclaims={a=\"b\"}", "role and scope stand in each"},
		"rules and anybody":         {jwt + issuer + "any_subject=true\n[[app_server.auth.jwt.rules]]\nclaims={a=\"b\"}", "does not go with rules"},
		"a rule without claims":     {jwt + issuer + "[[app_server.auth.jwt.rules]]\nrole=\"observer\"", "rules[0]: has no claims"},
		"a claim that is a number":  {jwt + issuer + "[[app_server.auth.jwt.rules]]\nclaims={\"a.b\"=1}", `rules[0].claims."a.b": a text or a list`},
		"issuers beside an issuer":  {jwt + issuer + "any_subject=true\nissuers=[\"x\"]", "does not go with issuer"},
		"a skew of an hour":         {jwt + "secret_file=\"x\"\nskew=\"1h\"", "jwt[0].skew"},
		"a skew that is a number":   {jwt + "secret_file=\"x\"\nskew=\"30\"", "no length of time"},
		"keys that never stay":      {jwt + issuer + "any_subject=true\nmax_stale=\"0s\"", "jwt[0].max_stale"},
		"stale keys of a file":      {jwt + "key_file=\"x\"\nmax_stale=\"1h\"", "are for jwks_url and issuer"},
		"a misspelt key of a table": {jwt + "secret_fil=\"x\"", `did you mean "app_server.auth.jwt.secret_file"`},
		"a misspelt key of a rule":  {jwt + issuer + "[[app_server.auth.jwt.rules]]\nclaim={a=\"b\"}", `did you mean`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(tc.text), p); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestKeysNameTheTablesOfLists(t *testing.T) {
	for _, want := range []string{"app_server.auth.capability.sha256", "app_server.auth.jwt.rules.principal", "app_server.auth.jwt.rules.claims.NAME"} {
		if !slices.Contains(Keys(), want) {
			t.Errorf("%s is not among the keys", want)
		}
	}
}

// What the documents show is what may be written.
func TestDocumentedAuth(t *testing.T) {
	p := testPaths(t)
	blocks := regexp.MustCompile("(?s)```toml\n(.*?)```")
	for name, least := range map[string]int{"configuration.md": 1, "transports.md": 2} {
		raw, err := os.ReadFile(filepath.Join("..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blocks.FindAllSubmatch(raw, -1) {
			if !strings.Contains(string(b[1]), "[app_server.auth") {
				continue
			}
			least--
			if _, err := Parse(b[1], p); err != nil {
				t.Errorf("%s:\n%s\n%v", name, b[1], err)
			}
		}
		if least > 0 {
			t.Errorf("%s shows no credentials", name)
		}
	}
}
