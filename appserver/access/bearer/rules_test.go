package bearer

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

// github and gitlab are shaped like the identity tokens of those two.
func github(more map[string]any) map[string]any {
	m := map[string]any{
		"jti": "6f4762ed-0758-4ccb-808d-ee3af5d723a8", "sub": "repo:octo/app:ref:refs/heads/main", "aud": "towline",
		"ref": "refs/heads/main", "repository": "octo/app", "repository_owner": "octo", "repository_visibility": "private",
		"actor": "monalisa", "workflow": "deploy", "event_name": "push", "ref_type": "branch", "environment": "prod",
		"job_workflow_ref": "octo/app/.github/workflows/deploy.yml@refs/heads/main", "runner_environment": "github-hosted", "run_attempt": "1",
		"iss": "https://token.actions.githubusercontent.com", "nbf": noon.Unix() - 60, "exp": noon.Unix() + 300, "iat": noon.Unix(),
	}
	maps.Copy(m, more)
	return m
}

func gitlab(more map[string]any) map[string]any {
	m := map[string]any{
		"namespace_path": "my-group", "project_path": "my-group/my-project", "user_login": "sample", "pipeline_source": "push",
		"ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true", "environment_protected": "false",
		"sub": "project_path:my-group/my-project:ref_type:branch:ref:main", "aud": "towline", "iss": "https://gitlab.example.com",
		"groups_direct": []string{"my-group/a", "my-group/b"}, "runner_id": 1, "iat": noon.Unix(), "nbf": noon.Unix() - 5, "exp": noon.Unix() + 3600,
	}
	maps.Copy(m, more)
	return m
}

func claim(name string, patterns ...string) Claim { return Claim{Name: name, Patterns: patterns} }

func TestRulesDecide(t *testing.T) {
	k := testKeys()[kindP256]
	exec := &access.Scope{Exec: true, Projects: []string{"/srv/app"}}
	a := open(t, keyFile(t, pemOf(t, k.Public()), func(j *JWT) {
		j.Role = protocol.RoleNone
		j.Audience = []string{"towline"}
		j.NameTemplate = "{sub}"
		j.Rules = []Rule{
			{Claims: []Claim{claim("repository", "octo/app"), claim("ref", "refs/heads/main"), claim("environment", "prod")}, Role: protocol.RoleAdmin, NameTemplate: "deploy of {repository}"},
			{Claims: []Claim{claim("repository", "octo/*"), claim("ref", "refs/heads/**", "refs/tags/v?.*")}, Role: protocol.RoleOperator, Scope: exec, NameTemplate: "{repository}@{ref}"},
			{Claims: []Claim{claim("project_path", "my-group/*"), claim("ref_protected", "true"), claim("groups_direct", "my-group/b"), claim("runner_id", "1")}, Role: protocol.RoleObserver},
			{Claims: []Claim{claim("/kubernetes.io/serviceaccount/name", "ci"), claim("/a~1b", "true")}, Role: protocol.RoleApprover, NameTemplate: "{/kubernetes.io/namespace}"},
		}
	}))
	kube := map[string]any{
		"sub": "system:serviceaccount:builds:ci", "aud": "towline", "exp": noon.Unix() + 60, "a/b": true,
		"kubernetes.io": map[string]any{"namespace": "builds", "serviceaccount": map[string]any{"name": "ci"}},
	}
	for name, tc := range map[string]struct {
		claims map[string]any
		want   string // name, role, scope; or the outcome
	}{
		"the first rule":              {github(nil), "deploy of octo/app admin "},
		"the second":                  {github(map[string]any{"environment": "test"}), "octo/app@refs/heads/main operator exec project:/srv/app"},
		"a claim that is not there":   {github(map[string]any{"environment": nil}), "octo/app@refs/heads/main operator exec project:/srv/app"},
		"a branch with slashes":       {github(map[string]any{"ref": "refs/heads/a/b/c"}), "octo/app@refs/heads/a/b/c operator exec project:/srv/app"},
		"a tag":                       {github(map[string]any{"ref": "refs/tags/v1.2"}), "octo/app@refs/tags/v1.2 operator exec project:/srv/app"},
		"another tag":                 {github(map[string]any{"ref": "refs/tags/v1"}), "403 " + sayNoRule},
		"a pull request":              {github(map[string]any{"ref": "refs/pull/1/merge"}), "403 " + sayNoRule},
		"another owner":               {github(map[string]any{"repository": "evil/app"}), "403 " + sayNoRule},
		"an owner in the name":        {github(map[string]any{"repository": "octo/app/evil"}), "403 " + sayNoRule},
		"other capitals":              {github(map[string]any{"repository": "Octo/app"}), "403 " + sayNoRule},
		"gitlab":                      {gitlab(nil), "project_path:my-group/my-project:ref_type:branch:ref:main observer "},
		"gitlab, not protected":       {gitlab(map[string]any{"ref_protected": "false"}), "403 " + sayNoRule},
		"gitlab, a subgroup":          {gitlab(map[string]any{"project_path": "my-group/sub/evil"}), "403 " + sayNoRule},
		"gitlab, a group not in":      {gitlab(map[string]any{"groups_direct": []string{"my-group/a"}}), "403 " + sayNoRule},
		"gitlab, groups of odd types": {gitlab(map[string]any{"groups_direct": []any{1, nil, map[string]any{}, []any{"my-group/b"}}}), "403 " + sayNoRule},
		"members of members":          {kube, "builds approver "},
		"for somebody else":           {github(map[string]any{"aud": "https://github.com/octo"}), "401 " + sayAudience},
		"a name nobody should print":  {github(map[string]any{"environment": "test", "ref": "refs/heads/\x1b[31mroot\n" + strings.Repeat("x", 300)}), "octo/app@refs/heads/[31mroot xxxxxxxx"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := try(t, a, "Bearer "+sign(t, "ES256", "", k, tc.claims, nil))
			got := outcome(err)
			if err == nil {
				got = fmt.Sprint(p.Name, " ", p.Role, " ", p.Scope)
			}
			if !strings.HasPrefix(got, tc.want) {
				t.Errorf("got %q, want %q (%v)", got, tc.want, err)
			}
			if len([]rune(p.Name)) > maxName || strings.ContainsAny(p.Name, "\x1b\n") {
				t.Errorf("the name is %q", p.Name)
			}
		})
	}
}

// What a token says of its bearer is nobody's business but the rules'.
func TestClaimsAreNotLogged(t *testing.T) {
	k := testKeys()[kindP256]
	var log bytes.Buffer
	var audit records
	cfg := keyFile(t, pemOf(t, k.Public()), func(j *JWT) {
		j.Audience, j.Issuers, j.Rules = []string{"towline"}, []string{"https://token.actions.githubusercontent.com"}, []Rule{{Claims: []Claim{claim("workspace", "w*")}, Role: protocol.RoleOperator}}
	})
	cfg.Audit, cfg.Now = &audit, func() time.Time { return noon }
	cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	const private = "hush-hush"
	for _, more := range []map[string]any{
		{"workspace": private}, {"aud": private}, {"iss": private}, {"workspace": private, "exp": 1}, {"workspace": private, "nbf": private}, {"email": private, private: 1},
	} {
		text := sign(t, "ES256", private, k, github(more), map[string]any{"x": private})
		_, err := try(t, a, "Bearer "+text)
		if err == nil {
			t.Fatalf("%v was let in", more)
		}
		for _, secret := range append(strings.Split(text, "."), private) {
			if all := log.String() + fmt.Sprint(audit.all()) + err.Error(); strings.Contains(all, secret) {
				t.Errorf("%v: %q is in %s", more, secret, all)
			}
		}
	}
	if got := audit.all(); len(got) != 6 || !strings.Contains(got[0], "rule 1 wants another workspace") || !strings.Contains(got[0], "auth.refused ci repo:octo/app:ref:refs/heads/main") {
		t.Errorf("the audit says %q", got)
	}
}

func TestUnusableRules(t *testing.T) {
	k := pemOf(t, testKeys()[kindP256].Public())
	for want, r := range map[string]Rule{
		"no claims":                  {Role: protocol.RoleOperator},
		"has no value":               {Role: protocol.RoleOperator, Claims: []Claim{{Name: "a"}}},
		"name is missing":            {Role: protocol.RoleOperator, Claims: []Claim{claim("", "x")}},
		"a value is empty":           {Role: protocol.RoleOperator, Claims: []Claim{claim("a", "x", "")}},
		"has no role":                {Claims: []Claim{claim("a", "x")}},
		"a { without a claim":        {Role: protocol.RoleOperator, Claims: []Claim{claim("a", "x")}, NameTemplate: "x{a"},
		"a { without a claim and":    {Role: protocol.RoleOperator, Claims: []Claim{claim("a", "x")}, NameTemplate: "{}"},
		"a } without its {":          {Role: protocol.RoleOperator, Claims: []Claim{claim("a", "x")}, NameTemplate: "{a}}"},
		"template of the name is to": {Role: protocol.RoleOperator, Claims: []Claim{claim("a", "x")}, NameTemplate: "a\x1b"},
	} {
		if _, err := New(keyFile(t, k, func(j *JWT) { j.Rules = []Rule{r} })); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", r, err, want)
		}
	}
}

// asRegexp is the same pattern for another matcher.
func asRegexp(p string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`\A(?s:`)
	for i := 0; i < len(p); i++ {
		switch {
		case strings.HasPrefix(p[i:], "**"):
			b.WriteString(".*")
			i++
		case p[i] == '*':
			b.WriteString("[^/:]*")
		case p[i] == '?':
			b.WriteString("[^/:]")
		case p[i] == '\\' && i+1 < len(p):
			i++
			fallthrough
		default:
			size := runeLen(p[i:])
			b.WriteString(regexp.QuoteMeta(p[i : i+size]))
			i += size - 1
		}
	}
	return regexp.MustCompile(b.String() + `)\z`)
}

func TestGlobAgreesWithRegexp(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
	word := func(letters string, most int) string {
		var b strings.Builder
		for range r.IntN(most) {
			b.WriteByte(letters[r.IntN(len(letters))])
		}
		return b.String()
	}
	matched := 0
	for range 8_000 {
		p, s := word(`aab/:**?\`, 10), word("aab/:*", 12)
		want := asRegexp(p).MatchString(s)
		if got := glob(p, s); got != want {
			t.Fatalf("glob(%q, %q) = %v", p, s, got)
		}
		if want {
			matched++
		}
	}
	if matched < 60 {
		t.Errorf("only %d of them match", matched)
	}
	if !glob("a?c", "aéc") || glob("a??c", "aéc") || !glob("*", "") || glob("", "a") {
		t.Error("a character is one character")
	}
	if glob(strings.Repeat("**a", 60)+"b", strings.Repeat("a", 8000)) { // in no time
		t.Error("it matches")
	}
}
