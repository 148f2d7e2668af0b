package token

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
	"towline/config/store"
)

func TestWhatIsCreated(t *testing.T) {
	r := newRig(t)
	operator, approver, none := protocol.RoleOperator, protocol.RoleApprover, []string{}
	for name, tc := range map[string]struct {
		p        CreateParams
		scope    []string
		networks []string
		life     time.Duration // 0: for ever
		refused  string        // what the error says
	}{
		"least by default": {p: CreateParams{Name: "a"}, scope: []string{"exec"}, networks: none, life: DefaultLifetime},
		"all that an operator may": {
			p: CreateParams{Name: "b", Role: operator, Scope: []string{"all"}, Lifetime: "12h"}, scope: []string{"all"}, networks: none, life: 12 * time.Hour,
		},
		"an approver has no scope": {p: CreateParams{Name: "c", Role: approver, Lifetime: "2w"}, scope: []string{"all"}, networks: none, life: 14 * 24 * time.Hour},
		"scopes and networks": {
			p:     CreateParams{Name: "d", Scope: []string{"project:/srv/a/", "exec", "threads:t1,t2"}, Networks: []string{"10.0.0.0/8", "::1", "::ffff:1.2.3.4", "10.0.0.0/8"}, Lifetime: Never},
			scope: []string{"exec", "threads:t1,t2", "project:/srv/a"}, networks: []string{"10.0.0.0/8", "::1/128", "1.2.3.4/32"},
		},
		"no name":            {p: CreateParams{}, refused: `"" is no name`},
		"name with a blank":  {p: CreateParams{Name: "a b"}, refused: "is no name"},
		"name with a line":   {p: CreateParams{Name: "a\n"}, refused: "is no name"},
		"name like a flag":   {p: CreateParams{Name: "-a"}, refused: "is no name"},
		"name like a token":  {p: CreateParams{Name: "twl_ci"}, refused: "is no name"},
		"long name":          {p: CreateParams{Name: strings.Repeat("a", 65)}, refused: "is no name"},
		"unknown scope":      {p: CreateParams{Name: "x", Scope: []string{"thred:1"}}, refused: `unknown scope "thred:1"`},
		"all and something":  {p: CreateParams{Name: "x", Scope: []string{"all", "exec"}}, refused: "stands alone"},
		"relative project":   {p: CreateParams{Name: "x", Scope: []string{"project:src"}}, refused: "absolute"},
		"endless scope":      {p: CreateParams{Name: "x", Scope: []string{"project:/" + strings.Repeat("a", 5000)}}, refused: "4096 bytes"},
		"no network":         {p: CreateParams{Name: "x", Networks: []string{"ten"}}, refused: "neither an address nor a network"},
		"network with bits":  {p: CreateParams{Name: "x", Networks: []string{"10.0.0.1/8"}}, refused: "the network is 10.0.0.0/8"},
		"many networks":      {p: CreateParams{Name: "x", Networks: make([]string, 65)}, refused: "64 networks"},
		"no time":            {p: CreateParams{Name: "x", Lifetime: "soon"}, refused: "no span of time"},
		"no time at all":     {p: CreateParams{Name: "x", Lifetime: "0d"}, refused: "no span of time"},
		"time in the past":   {p: CreateParams{Name: "x", Lifetime: "-1d"}, refused: "no span of time"},
		"name that is taken": {p: CreateParams{Name: "taken"}, refused: "a token named taken already"},
	} {
		if name == "name that is taken" {
			r.create(tc.p)
		}
		c, err := r.m.Create(t.Context(), admin, tc.p)
		if tc.refused != "" {
			var p *config.Problem
			if !errors.As(err, &p) || len(p.Hints) == 0 || !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		life := time.Duration(0)
		if !c.ExpiresAt.IsZero() {
			life = c.ExpiresAt.Sub(c.CreatedAt)
		}
		if !reflect.DeepEqual(c.Scope, tc.scope) || !reflect.DeepEqual(c.Networks, tc.networks) || life != tc.life {
			t.Errorf("%s: scope %q networks %q for %s", name, c.Scope, c.Networks, life)
		}
	}
}

// A rule of the policy stops a creation, and a token that was there before it; both
// refusals name the rule and the file.
func TestPolicy(t *testing.T) {
	for name, tc := range map[string]struct {
		policy string
		p      CreateParams
		ok     CreateParams // is allowed; without a name nothing is
		pass   time.Duration
		from   string
		key    string
		status int // of one that was there before; 0: it goes on
	}{
		"none at all": {
			policy: "allow = false", p: CreateParams{Name: "x"}, key: "tokens.allow", status: 403,
		},
		"roles": {
			policy: `allowed_roles = ["observer", "approver"]`, p: CreateParams{Name: "x"}, ok: CreateParams{Name: "y", Role: protocol.RoleObserver},
			key: "tokens.allowed_roles", status: 403,
		},
		"no role": {policy: `allowed_roles = []`, p: CreateParams{Name: "x"}, key: "tokens.allowed_roles", status: 403},
		"creators by user": {
			policy: `creators = ["user:bob", "user:1001", "key:SHA256:abc"]`, p: CreateParams{Name: "x"}, key: "tokens.creators",
		},
		"creators by role": {policy: `creators = ["role:admin"]`, ok: CreateParams{Name: "y"}},
		"creators by name": {policy: `creators = ["user:ana"]`, ok: CreateParams{Name: "y"}},
		"creators by uid":  {policy: `creators = ["user:1000"]`, ok: CreateParams{Name: "y"}},
		"nobody":           {policy: `creators = []`, p: CreateParams{Name: "x"}, key: "tokens.creators"},
		"lifetime": {
			policy: `max_lifetime = "8h"`, p: CreateParams{Name: "x", Lifetime: "9h"}, ok: CreateParams{Name: "y"}, // which shortens the default
			pass: 8 * time.Hour, key: "tokens.max_lifetime", status: 403,
		},
		"for ever": {policy: `max_lifetime = "1000d"`, p: CreateParams{Name: "x", Lifetime: Never}, ok: CreateParams{Name: "y", Lifetime: "1000d"}, key: "tokens.max_lifetime"},
		"rotation": {policy: `rotate_every = "1d"`, ok: CreateParams{Name: "y"}, pass: 24 * time.Hour, key: "tokens.rotate_every", status: 403},
		"scopes":   {policy: `allowed_scopes = ["threads"]`, p: CreateParams{Name: "x"}, ok: CreateParams{Name: "y", Scope: []string{"threads:t"}}, key: "tokens.allowed_scopes", status: 403},
		"scope all": {
			policy: `allowed_scopes = ["exec"]`, p: CreateParams{Name: "x", Role: protocol.RoleObserver}, ok: CreateParams{Name: "y", Scope: []string{"exec", "project:/x"}},
			key: "tokens.allowed_scopes",
		},
		"projects": {
			policy: `allowed_scopes = ["project:/srv"]`, p: CreateParams{Name: "x", Scope: []string{"project:/srv/a", "project:/srvx"}},
			ok: CreateParams{Name: "y", Scope: []string{"project:/srv/a"}}, key: "tokens.allowed_scopes", status: 403,
		},
		"networks": {
			policy: `allowed_networks = ["10.0.0.0/8", "127.0.0.1"]`, p: CreateParams{Name: "x", Networks: []string{"0.0.0.0/0"}},
			ok: CreateParams{Name: "y", Networks: []string{"10.1.0.0/16"}}, from: "192.0.2.1", key: "tokens.allowed_networks", status: 403,
		},
		"broken":       {policy: `allow = `, p: CreateParams{Name: "x"}, key: "nothing it could forbid is done", status: 403},
		"unknown rule": {policy: `max_lifetme = "8h"`, p: CreateParams{Name: "x"}, key: "max_lifetime", status: 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			before := r.create(CreateParams{Name: "before", Lifetime: Never})
			p := r.verify(before.Secret)
			r.policy("[tokens]\n" + tc.policy)
			src := here
			if tc.from != "" {
				src = netip.MustParseAddr(tc.from)
			}
			if tc.p.Name != "" {
				_, err := r.m.Create(t.Context(), admin, tc.p)
				if err == nil || !strings.Contains(err.Error(), tc.key) || !strings.Contains(err.Error(), "/etc/towline/requirements.toml") || len(config.Hints(err)) == 0 {
					t.Errorf("asking for %+v: %v", tc.p, err)
				}
				if code := config.ExitCode(err); code != config.ExitDenied && code != config.ExitConfig {
					t.Errorf("exit status %d", code)
				}
			}
			if tc.ok.Name != "" {
				c, err := r.m.Create(t.Context(), admin, tc.ok)
				if err != nil {
					t.Fatalf("asking for %+v: %v", tc.ok, err)
				}
				if tc.key == "tokens.max_lifetime" && tc.status != 0 && c.ExpiresAt.Sub(c.CreatedAt) != 8*time.Hour {
					t.Errorf("by default it counts until %s", c.ExpiresAt)
				}
			}
			r.pass(tc.pass)
			_, err := r.m.Verify(t.Context(), before.Secret, src)
			var no *access.Refusal
			switch {
			case tc.status == 0 && err != nil:
				t.Errorf("one from before: %v", err)
			case tc.status != 0 && (!errors.As(err, &no) || no.Status != tc.status || !strings.Contains(no.Body, tc.key) || !strings.Contains(no.Why, "/etc/towline/requirements.toml")):
				t.Errorf("one from before: %v (%+v)", err, no)
			}
			if tc.status != 0 && tc.from == "" {
				s, err := r.m.Show(t.Context(), ShowParams{ID: "before"})
				if err != nil || s.State != StateRefused || !strings.Contains(s.Refused, tc.key) {
					t.Errorf("shown as %s %q, %v", s.State, s.Refused, err)
				}
			}
			r.policy("") // what it forbade is allowed again
			if q := r.verify(before.Secret); q.ID != p.ID {
				t.Errorf("%+v", q)
			}
		})
	}
}

func TestNobodyGivesMoreThanTheyHave(t *testing.T) {
	r := newRig(t)
	parent := r.create(CreateParams{Name: "parent", Role: protocol.RoleAdmin, Lifetime: "10d"})
	by := r.verify(parent.Secret)
	c, err := r.m.Create(t.Context(), by, CreateParams{Name: "child"})
	if err != nil || c.ExpiresAt.After(parent.ExpiresAt) || c.CreatedBy.Kind != "token" || c.CreatedBy.ID != parent.ID {
		t.Errorf("%+v, %v", c.Token, err)
	}
	for _, life := range []string{"11d", Never} {
		if _, err := r.m.Create(t.Context(), by, CreateParams{Name: "x", Lifetime: life}); config.ExitCode(err) != config.ExitDenied {
			t.Errorf("a token makes one for %s: %v", life, err)
		}
		if _, err := r.m.Rotate(t.Context(), by, RotateParams{ID: "parent", Lifetime: life}); config.ExitCode(err) != config.ExitDenied {
			t.Errorf("a token has itself count for %s: %v", life, err)
		}
	}
	op := access.Principal{Kind: access.KindKey, ID: "SHA256:x", Name: "op", Role: protocol.RoleOperator}
	narrow := admin
	narrow.Scope = &access.Scope{Exec: true}
	for name, who := range map[string]access.Principal{"an operator": op, "somebody with a scope": narrow} {
		if _, err := r.m.Create(t.Context(), who, CreateParams{Name: "x", Role: protocol.RoleAdmin}); config.ExitCode(err) != config.ExitDenied {
			t.Errorf("%s makes an admin: %v", name, err)
		}
		if _, err := r.m.Rotate(t.Context(), who, RotateParams{ID: "parent"}); config.ExitCode(err) != config.ExitDenied {
			t.Errorf("%s gets a secret of an admin's: %v", name, err)
		}
	}
	if _, err := r.m.Revoke(t.Context(), narrow, "parent"); config.ExitCode(err) != config.ExitDenied {
		t.Errorf("somebody with a scope revokes: %v", err)
	}
	if !r.auditHas("token.denied key:SHA256:x [command=create") || !r.auditHas("[command=rotate name=parent") {
		t.Errorf("recorded %q", r.audited())
	}
	r.verify(parent.Secret)
}

func TestTokensAreFoundAsPeopleNameThem(t *testing.T) {
	r := newRig(t)
	put := func(id, name string, revoked bool) {
		t.Helper()
		at := time.Now().UnixMilli()
		err := r.m.cfg.Store.CreateToken(t.Context(), store.Token{
			ID: id, Name: name, Role: "observer", CreatedAt: at, IssuedAt: at, CreatedBy: json.RawMessage(`{}`),
			Secrets: []store.TokenSecret{{N: 1, Hash: make([]byte, 32), CreatedAt: at}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if revoked {
			if _, err := r.m.Revoke(t.Context(), admin, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("aaaaaaaaa1", "ci", true)
	put("aaaaaaaaa2", "ci", true)
	put("aaaaaaaaa3", "ci", false)
	put("bbbbbbbbb1", "old", true)
	put("ccccccccc1", "bbb", false)
	put("ddddddddd1", "ccccccccc1", false)
	for ref, want := range map[string]string{
		"ci": "aaaaaaaaa3", "aaaaaaaaa1": "aaaaaaaaa1", "aaaaaaaaa": "2 tokens", "old": "bbbbbbbbb1", "bbbb": "bbbbbbbbb1",
		"bbb": "ccccccccc1", "ccccccccc1": "ccccccccc1", "twl_aaaaaaaaa2": "aaaaaaaaa2", "bb": "no token bb", "": "no token", "ghost": "no token ghost",
		newText("aaaaaaaaa1"): "there is no token that",
	} {
		want = strings.Replace(want, "2 tokens", "3 tokens", 1)
		s, err := r.m.Show(t.Context(), ShowParams{ID: ref})
		if got := s.ID; err == nil && got != want || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %s, %v; want %s", ref, got, err, want)
		}
	}
}

func TestRotationKeepsTheTokenAndCanProlongIt(t *testing.T) {
	r := newRig(t)
	c := r.create(CreateParams{Name: "ci", Lifetime: "10d"})
	r.pass(24 * time.Hour)
	next, err := r.m.Rotate(t.Context(), admin, RotateParams{ID: "ci"})
	if err != nil || next.ID != c.ID || !next.ExpiresAt.Equal(c.ExpiresAt) || next.Secret == c.Secret || next.Secrets[0].N != 2 {
		t.Errorf("%+v, %v", next.Token, err)
	}
	next, err = r.m.Rotate(t.Context(), admin, RotateParams{ID: "ci", Overlap: "1h", Lifetime: "10d"})
	if err != nil || next.ExpiresAt.Sub(c.ExpiresAt).Round(time.Minute) != 24*time.Hour {
		t.Errorf("%+v, %v", next.Token, err)
	}
	states := []string{}
	for _, s := range next.Secrets {
		states = append(states, s.State)
	}
	if got := strings.Join(states, " "); got != "current overlap ended" {
		t.Errorf("secrets are %s", got)
	}
	// An old one still in use is worth knowing before its end.
	r.pass(time.Minute)
	if _, err := r.m.Verify(t.Context(), next.Secret[:secretAt]+next.Secret[secretAt:], here); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]RotateParams{
		"no overlap":  {ID: "ci", Overlap: "0s"},
		"too long":    {ID: "ci", Overlap: "31d"},
		"no span":     {ID: "ci", Overlap: "a while"},
		"nobody":      {ID: "nobody"},
		"no lifetime": {ID: "ci", Lifetime: "x"},
	} {
		if _, err := r.m.Rotate(t.Context(), admin, p); len(config.Hints(err)) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.m.Revoke(t.Context(), admin, "ci"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.m.Rotate(t.Context(), admin, RotateParams{ID: "ci"}); err == nil || !strings.Contains(err.Error(), "does not count any more") {
		t.Errorf("one that was revoked: %v", err)
	}
	for range 20 { // a name is free again
		c := r.create(CreateParams{Name: "ci"})
		if _, err := r.m.Revoke(t.Context(), admin, c.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := r.m.Revoke(t.Context(), admin, c.ID); err != nil {
			t.Errorf("again: %v", err)
		}
	}
	n := 0
	for _, e := range r.audited() {
		if strings.HasPrefix(e, "token.revoke") {
			n++
		}
	}
	if n != 21 {
		t.Errorf("%d revocations are recorded", n)
	}
}

func TestWarningsComeBeforeTheEnd(t *testing.T) {
	r := newRig(t)
	c := r.create(CreateParams{Name: "ci", Lifetime: "100d"})
	r.policy("[tokens]\nrotate_every = \"30d\"\n")
	if got := mustList(t, r.m)[0]; len(got.Warnings) != 0 || !got.RotateBy.Equal(got.CreatedAt.Add(30*24*time.Hour)) {
		t.Errorf("at once: %q, %s", got.Warnings, got.RotateBy)
	}
	r.pass(25 * 24 * time.Hour)
	if got := mustList(t, r.m)[0].Warnings; len(got) != 1 || !strings.Contains(got[0], "rotate it before") {
		t.Errorf("before it must be rotated: %q", got)
	}
	stop := r.run(r.m)
	r.verify(c.Secret)
	r.until("the log says that the end of one in use is near", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return strings.Contains(r.logged.String(), "rotate it before") && !strings.Contains(r.logged.String(), c.Secret)
	})
	stop()
	if _, err := r.m.Rotate(t.Context(), admin, RotateParams{ID: "ci", Overlap: "3d"}); err != nil {
		t.Fatal(err)
	}
	r.pass(time.Hour)
	r.verify(c.Secret)
	if got := mustList(t, r.m)[0].Warnings; len(got) != 1 || !strings.Contains(got[0], "its old secret was used") {
		t.Errorf("in the overlap: %q", got)
	}
	r.policy("")
	r.pass(65 * 24 * time.Hour)
	if got := mustList(t, r.m)[0].Warnings; len(got) != 1 || !strings.Contains(got[0], "stops to count in 9d") {
		t.Errorf("before it expires: %q", got)
	}
}

func TestVerdictOnAHash(t *testing.T) {
	r := newRig(t)
	c := r.create(CreateParams{Name: "ci", Networks: []string{"10.0.0.0/8"}})
	other := r.create(CreateParams{Name: "other"})
	hash := func(text string) string { h := Hash(text); return hex.EncodeToString(h[:]) }
	for name, tc := range map[string]struct {
		p    ShowParams
		want bool
		why  string
		bad  bool
	}{
		"right":              {p: ShowParams{ID: c.ID, Hash: hash(c.Secret)}, want: true},
		"right, from there":  {p: ShowParams{ID: c.ID, Hash: hash(c.Secret), Source: "10.1.1.1"}, want: true},
		"right, from beside": {p: ShowParams{ID: c.ID, Hash: hash(c.Secret), Source: "11.1.1.1"}, why: "may not be used from 11.1.1.1"},
		"another's":          {p: ShowParams{ID: c.ID, Hash: hash(other.Secret)}, why: "none of this token's"},
		"no hash":            {p: ShowParams{ID: c.ID, Hash: "00"}, bad: true},
		"no address":         {p: ShowParams{ID: c.ID, Hash: hash(c.Secret), Source: "x"}, bad: true},
	} {
		s, err := r.m.Show(t.Context(), tc.p)
		if tc.bad {
			if config.ExitCode(err) != config.ExitUsage {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || s.Verdict == nil || s.Verdict.Counts != tc.want || !strings.Contains(s.Verdict.Why, tc.why) {
			t.Errorf("%s: %+v, %v", name, s.Verdict, err)
		}
	}
	if got := mustList(t, r.m); got[0].Uses+got[1].Uses != 0 {
		t.Error("asking is a use")
	}
}

func TestMethodsSpeakToPeople(t *testing.T) {
	r := newRig(t)
	r.policy("[tokens]\nmax_lifetime = \"8h\"\n")
	ext := r.m.Extensions()
	got, err := ext[protocol.ExtTokenCreate](t.Context(), admin, json.RawMessage(`{"name":"ci","role":"observer"}`))
	c, ok := got.(Created)
	if err != nil || !ok || !Looks(c.Secret) || c.Role != protocol.RoleObserver {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err = ext[protocol.ExtTokenRotate](t.Context(), admin, json.RawMessage(`{"id":"ci","lifetime":"9h"}`))
	var e *protocol.Error
	if !errors.As(err, &e) {
		t.Fatalf("%T %v", err, err)
	}
	var p *config.Problem
	if err := FromWire(e); !errors.As(err, &p) || p.Exit != config.ExitDenied || p.Stage != "policy" || len(p.Hints) != 1 || !strings.Contains(p.Error(), "tokens.max_lifetime") {
		t.Errorf("%v: %+v", err, p)
	}
	e.Message = "\x1b[2Jowned"
	if err := FromWire(e); strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("%q reaches a terminal", err)
	}
	if _, err := ext[protocol.ExtTokenShow](t.Context(), admin, json.RawMessage(`{"id":7}`)); !errors.As(err, &e) {
		t.Errorf("%v", err)
	}
	other := errors.New("disk")
	if FromWire(other) != other || toWire(other) != other {
		t.Error("an error that is not for people changed")
	}
	if raw, err := json.Marshal(c.Token); err != nil || strings.Contains(string(raw), c.Secret[secretAt:]) {
		t.Errorf("%s, %v", raw, err)
	}
}
