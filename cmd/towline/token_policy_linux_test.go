package main

import (
	"encoding/json"
	"strings"
	"testing"

	"towline/appserver/access/token"
)

// What the owner of a machine decided about tokens holds for the commands, and for
// tokens that were there before.
func TestMandatesAboutTokens(t *testing.T) {
	m := newMandated(t, nil)
	create := func(args ...string) token.Created {
		t.Helper()
		out, err := m.run("", append([]string{m.bin, "token", "create", "--json"}, args...)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var c token.Created
		if err := json.NewDecoder(strings.NewReader(out)).Decode(&c); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return c
	}
	before := create("--name", "before", "--role", "observer", "--expires", "90d")
	m.write(m.etc+"/towline/requirements.toml", `[tokens]
creators = ["role:admin"]
max_lifetime = "8h"
allowed_roles = ["operator"]
allowed_networks = ["10.0.0.0/8"]
allowed_scopes = ["exec"]
`, 0o644)
	for rule, args := range map[string]string{
		"tokens.allowed_roles":    "--role observer",
		"tokens.allowed_scopes":   "--scope all",
		"tokens.allowed_networks": "--from 192.0.2.0/24",
		"tokens.max_lifetime":     "--expires never",
	} {
		m.fails(5, "", append([]string{"token", "create", "--name", "x"}, strings.Fields(args)...), rule, "set by "+oursFile, "hint: see what is allowed here: `towline token policy`")
	}
	c := create("--name", "ci")
	if left := c.ExpiresAt.Sub(c.CreatedAt).Hours(); left != 8 {
		t.Errorf("by default it counts for %v hours", left)
	}
	m.fails(1, c.Secret, []string{"token", "verify", "--source", "192.0.2.1"}, "tokens.allowed_networks", oursFile)
	if out, err := m.run(c.Secret, m.bin, "token", "verify", "--source", "10.1.1.1"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	m.fails(1, before.Secret, []string{"token", "verify"}, "tokens.allowed_roles", oursFile)
	m.fails(5, "", []string{"token", "rotate", "before"}, "tokens.allowed_roles", oursFile)
	if out, err := m.run("", m.bin, "token", "list"); err != nil || !strings.Contains(out, "refused by a policy") || !strings.Contains(out, "! policy: tokens.allowed_roles") {
		t.Errorf("%v\n%s", err, out)
	} else {
		for l := range strings.Lines(out) {
			if len(l) > 81 {
				t.Errorf("wider than a terminal: %s", l)
			}
		}
	}
	if out, err := m.run("", m.bin, "token", "policy"); err != nil || !strings.Contains(out, "tokens.max_lifetime = \"8h\"\n  set by "+oursFile) {
		t.Errorf("%v\n%s", err, out)
	}
	m.write(m.etc+"/towline/requirements.toml", "[tokens]\ncreators = []\n", 0o644)
	m.fails(5, "", []string{"token", "create", "--name", "x"}, "may not make access tokens on this machine, only nobody", oursFile)
	if out, err := m.run(before.Secret, m.bin, "token", "verify"); err != nil {
		t.Errorf("what is allowed again does not count: %v\n%s", err, out)
	}
	if out, err := m.run("", m.bin, "token", "revoke", "before"); err != nil {
		t.Errorf("nobody may end a token: %v\n%s", err, out)
	}
	m.write(m.etc+"/towline/requirements.toml", "[tokens]\nallow = no\n", 0o644)
	m.fails(1, c.Secret, []string{"token", "verify"}, oursFile, "cannot be read")
	m.fails(3, "", []string{"token", "create", "--name", "x"}, oursFile)
	if out, err := m.run("", "/bin/cat", m.path("towline/audit.jsonl")); err != nil || !strings.Contains(out, `"event":"token.denied"`) || strings.Contains(out, c.Secret) {
		t.Errorf("%v\n%s", err, out)
	}
}
