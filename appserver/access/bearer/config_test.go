package bearer

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/config"
)

func TestFromConfig(t *testing.T) {
	c, err := FromConfig(config.AppServerAuth{
		Capability: []config.AuthCapability{
			{Name: "a", File: "/a"},
			{Name: "b", File: "/b", Scope: []string{"all"}},
			{Name: "c", File: "/c", Role: "observer"},
			{Name: "d", File: "/d", Role: "admin", Scope: []string{"project:/srv", "threads:1,2"}},
		},
		JWT: []config.AuthJWT{
			{
				Name: "github", Issuer: "https://token.actions.githubusercontent.com", Audience: []string{"us"}, Skew: "5s", MaxStale: "1h", EndAtExpiry: true, Principal: "{sub}",
				Rules: []config.AuthRule{{Claims: map[string]any{"b": "x", "a": []any{"y", "z"}}, Principal: "{b}"}},
			},
			{Name: "own", KeyFile: "/k", Role: "approver"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, one := range c.Capability {
		got = append(got, one.Name+" "+one.Role.String()+" "+one.Scope.String())
	}
	if want := []string{"a operator exec", "b operator ", "c observer ", "d admin threads:1,2 project:/srv"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	g, own := c.JWT[0], c.JWT[1]
	if g.Codex || g.Skew != 5*time.Second || g.MaxStale != time.Hour || !g.EndAtExpiry || g.NameTemplate != "{sub}" || g.Role != protocol.RoleNone {
		t.Errorf("%+v", g)
	}
	if r := g.Rules[0]; r.Role != protocol.RoleOperator || !r.Scope.Exec || r.NameTemplate != "{b}" || r.Claims[0].Name != "a" || !slices.Equal(r.Claims[0].Patterns, []string{"y", "z"}) || r.Claims[1].Name != "b" {
		t.Errorf("%+v", g.Rules[0])
	}
	if own.Role != protocol.RoleApprover || own.Scope != nil || own.Skew != defaultSkew {
		t.Errorf("%+v", own)
	}
}

func TestFromConfigRefuses(t *testing.T) {
	jwt := func(more func(*config.AuthJWT)) config.AppServerAuth {
		j := config.AuthJWT{Name: "a", Issuer: "https://a.example", Audience: []string{"us"}, AnySubject: true}
		more(&j)
		return config.AppServerAuth{JWT: []config.AuthJWT{j}}
	}
	for want, c := range map[string]config.AppServerAuth{
		"app_server.auth: a: unknown scope":             {Capability: []config.AuthCapability{{Name: "a", File: "/f", Scope: []string{"everything"}}}},
		"app_server.auth: a: unknown role":              {Capability: []config.AuthCapability{{Name: "a", File: "/f", Role: "root"}}},
		"app_server.auth: a: set one of file":           {Capability: []config.AuthCapability{{Name: "a"}}},
		"is no name":                                    {Capability: []config.AuthCapability{{Name: "a b", File: "/f"}}},
		"there are two of that name":                    {Capability: []config.AuthCapability{{Name: "a", SHA256: strings.Repeat("a", 64)}, {Name: "a", SHA256: strings.Repeat("b", 64)}}},
		"failed to read websocket auth secret /nowhere": {Capability: []config.AuthCapability{{Name: "a", File: "/nowhere/f"}}},
		"app_server.auth: ca: ":                         {CA: "/nowhere/ca.pem"},
		"has no rules":                                  jwt(func(j *config.AuthJWT) { j.AnySubject = false }),
		"needs an audience":                             jwt(func(j *config.AuthJWT) { j.Audience = nil }),
		"set one of secret_file":                        jwt(func(j *config.AuthJWT) { j.KeyFile = "/k" }),
		"issuers does not go":                           jwt(func(j *config.AuthJWT) { j.Issuers = []string{"x"} }),
		"not https":                                     jwt(func(j *config.AuthJWT) { j.Issuer = "http://a.example" }),
		"an issuer has no query":                        jwt(func(j *config.AuthJWT) { j.Issuer = "https://a.example?x=y" }),
		"jwks_hosts":                                    jwt(func(j *config.AuthJWT) { j.JWKSHosts = []string{"https://a.example"} }),
		"algorithms: \"HS256\"":                         jwt(func(j *config.AuthJWT) { j.Algorithms = []string{"ES256", "HS256"} }),
		"algorithms: \"none\"":                          jwt(func(j *config.AuthJWT) { j.Algorithms = []string{"none"} }),
		"template of the name":                          jwt(func(j *config.AuthJWT) { j.Principal = "{" }),
	} {
		b, err := FromConfig(c)
		if err == nil {
			_, err = New(b)
		}
		var p *config.Problem
		if !errors.As(err, &p) || !strings.Contains(err.Error(), want) || len(p.Hints) == 0 {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// Flags and the file together: both count.
func TestAnd(t *testing.T) {
	f, err := FromFlags(Flags{Auth: []string{ModeCapability}, TokenFile: flag(write(t, "f", "by flag"))})
	if err != nil {
		t.Fatal(err)
	}
	c, err := FromConfig(config.AppServerAuth{Capability: []config.AuthCapability{{Name: "a", File: write(t, "c", "by file"), Role: "observer"}}})
	if err != nil {
		t.Fatal(err)
	}
	a := open(t, f.And(c).And(Config{Tokens: book{}}))
	for text, want := range map[string]protocol.Role{"by flag": protocol.RoleOperator, "by file": protocol.RoleObserver} {
		if p, err := try(t, a, "Bearer "+text); err != nil || p.Role != want {
			t.Errorf("%s: %+v, %v", text, p, err)
		}
	}
	if a.cfg.Tokens == nil {
		t.Error("access tokens are not accepted")
	}
}
