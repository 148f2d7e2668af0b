package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestStoreSettingStandsAtTopOrUnderAuth(t *testing.T) {
	p := testPaths(t)
	for name, tc := range map[string]struct{ text, want, wantErr string }{
		"nowhere":      {"", "file", ""},
		"top":          {`cli_auth_credentials_store = "keyring"`, "keyring", ""},
		"under auth":   {"[auth]\ncli_auth_credentials_store = \"auto\"", "auto", ""},
		"dotted":       {`auth.cli_auth_credentials_store = "ephemeral"`, "ephemeral", ""},
		"twice, equal": {"cli_auth_credentials_store = \"encrypted\"\n[auth]\ncli_auth_credentials_store = \"encrypted\"", "encrypted", ""},
		"twice": {
			"project = \"/\"\ncli_auth_credentials_store = \"file\"\n\n[engine]\nkind = \"auto\"\n[auth]\nkind = \"openai\"\n\"cli_auth_credentials_store\" = \"keyring\"\n", "",
			`line 2: cli_auth_credentials_store is "file", and line 8, under [auth], says "keyring"`,
		},
		"inline":  {"cli_auth_credentials_store = \"file\"\nauth = { cli_auth_credentials_store = \"keyring\" }", "", `line 2, under [auth], says "keyring"`},
		"unknown": {`cli_auth_credentials_store = "vault"`, "", `cli_auth_credentials_store: "vault" is none of file, keyring, auto, ephemeral, encrypted`},
		"mistyped": {
			"[auth]\ncli_auth_credential_store = \"file\"", "",
			`line 2: unknown key "auth.cli_auth_credential_store", did you mean "auth.cli_auth_credentials_store"?`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse([]byte(tc.text), p)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Errorf("got %v, want %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.CredentialStore(p, CodexSettings{}); got.Value != tc.want {
				t.Errorf("store %q, want %q", got.Value, tc.want)
			}
		})
	}
}

func TestAuthSettings(t *testing.T) {
	p := testPaths(t)
	c, err := Parse([]byte("[auth]\nissuer = \"https://id.example.org/realm\"\nclient_id = \"shop\"\nkind = \"oidc\"\nkeyring_timeout = \"1.5s\"\n"), p)
	if err != nil {
		t.Fatal(err)
	}
	if c.Auth.Issuer != "https://id.example.org/realm" || c.Auth.ClientID != "shop" || c.Auth.Kind != IssuerOIDC || c.Auth.Timeout() != 1500*time.Millisecond {
		t.Errorf("%+v", c.Auth)
	}
	for text, want := range map[string]string{
		`issuer = "http://id.example.org"`:       "plain http is for this machine only",
		`issuer = "https://a:b@id.example.org"`:  "only scheme, host and path belong there",
		`issuer = "https://id.example.org/?x=1"`: "only scheme, host and path belong there",
		`issuer = "id.example.org"`:              "is not an https URL",
		`kind = "oauth"`:                         `"oauth" is none of openai, oidc`,
		`kind = "oidc"`:                          "oidc needs auth.issuer and auth.client_id",
		`keyring_timeout = "soon"`:               `"soon" is no time`,
		`keyring_timeout = "1h"`:                 "is not between 100ms and 1m",
		`keyring_timeout = "5ns"`:                "is not between 100ms and 1m",
		`keyring_timeout = 3`:                    "line 2",
	} {
		if _, err := Parse([]byte("[auth]\n"+text+"\n"), p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := Parse([]byte("[auth]\nissuer = \"http://127.0.0.1:8080\"\n"), p); err != nil {
		t.Errorf("an issuer on this machine: %v", err)
	}
}

func TestWhoDecidesAboutTheStore(t *testing.T) {
	p := testPaths(t)
	codex := CodexSettings{Store: Setting{Value: "keyring", From: "/home/a/.codex/config.toml"}}
	for name, tc := range map[string]struct {
		ours  string
		codex CodexSettings
		want  Setting
	}{
		"nobody":         {"", CodexSettings{}, Setting{"file", "the default"}},
		"Codex":          {"", codex, codex.Store},
		"Towline's wins": {`cli_auth_credentials_store = "auto"`, codex, Setting{"auto", p.ConfigFile()}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse([]byte(tc.ours), p)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.CredentialStore(p, tc.codex); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestCodexHome(t *testing.T) {
	env := func(kv ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(kv); i += 2 {
				if kv[i] == name {
					return kv[i+1]
				}
			}
			return ""
		}
	}
	c := Config{}
	if got := c.CodexHome(env("HOME", "/home/a")); got != filepath.FromSlash("/home/a/.codex") {
		t.Errorf("default %q", got)
	}
	if got := c.CodexHome(env("HOME", "/home/a", "CODEX_HOME", "/srv/c")); got != "/srv/c" {
		t.Errorf("CODEX_HOME %q", got)
	}
	c.Engine.Codex.Home = "/opt/c"
	if got := c.CodexHome(env("HOME", "/home/a", "CODEX_HOME", "/srv/c")); got != "/opt/c" {
		t.Errorf("configured %q", got)
	}
	if got := (Config{}).CodexHome(env()); got != "" {
		t.Errorf("without a home %q", got)
	}
}

// write puts a file below dir.
func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCodexSettingsAreReadTolerantly(t *testing.T) {
	home, root := t.TempDir(), t.TempDir()
	if s, err := LoadCodex(home, root); err != nil || s.Store != (Setting{}) {
		t.Errorf("absent files: %+v, %v", s, err)
	}
	write(t, root, "etc/codex/config.toml", "cli_auth_credentials_store = \"keyring\"\nforced_login_method = \"api\"\n")
	write(t, home, "config.toml", `
model = "gpt-5.5"
forced_login_method = "chatgpt"
forced_chatgpt_workspace_id = ["w1", " w2 "]
chatgpt_base_url = "https://chatgpt.example.org/backend-api"
what_is_this = [1, 2]
[profiles.work]
cli_auth_credentials_store = "ephemeral"
forced_login_method = "api"
`)
	s, err := LoadCodex(home, root)
	if err != nil {
		t.Fatal(err)
	}
	user, system := filepath.Join(home, "config.toml"), filepath.Join(root, "etc/codex/config.toml")
	if s.Store != (Setting{"keyring", system}) || s.ForcedLogin != (Setting{"chatgpt", user}) ||
		s.ForcedWorkspace.From != user || strings.Join(s.ForcedWorkspaces, "|") != "w1|w2" ||
		s.ChatGPTBaseURL != (Setting{"https://chatgpt.example.org/backend-api", user}) {
		t.Errorf("%+v", s)
	}
	// Only Towline knows the second place; where both speak Codex's own counts.
	write(t, home, "config.toml", "[auth]\ncli_auth_credentials_store = \"auto\"\n")
	if s, err = LoadCodex(home, root); err != nil || s.Store.Value != "auto" || s.OwnStore != "keyring" {
		t.Errorf("under [auth]: %+v, %v", s, err)
	}
	write(t, home, "config.toml", "cli_auth_credentials_store = \"file\"\nforced_chatgpt_workspace_id = \"\"\n[auth]\ncli_auth_credentials_store = \"auto\"\n")
	if s, err = LoadCodex(home, root); err != nil || s.Store.Value != "file" || s.OwnStore != "file" || s.ForcedWorkspace.From != "" {
		t.Errorf("both: %+v, %v", s, err)
	}
	for text, want := range map[string]string{
		"cli_auth_credentials_store = \"vault\"":     `"vault" is none of`,
		"forced_login_method = \"key\"":              `"key" is none of api, chatgpt`,
		"forced_chatgpt_workspace_id = \"a,b\"":      "write several as a list",
		"forced_chatgpt_workspace_id = 3":            "neither a text nor a list",
		"forced_chatgpt_workspace_id = [\"a\", [1]]": "neither a text nor a list",
		"\n\nnot toml [":                             "line 3",
	} {
		write(t, home, "config.toml", text)
		_, err := LoadCodex(home, root)
		var p *Problem
		if !errors.As(err, &p) || p.Exit != ExitConfig || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), user) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzCodexSettings(f *testing.F) {
	f.Add("cli_auth_credentials_store = \"keyring\"\nforced_chatgpt_workspace_id = [\"a\"]")
	f.Add("[auth]\ncli_auth_credentials_store = 1")
	f.Add("forced_login_method = \"\x1b[31m\"")
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := LoadCodex(dir, dir)
		if err == nil && s.Store.Value != "" && validStore(s.Store.Value) != nil {
			t.Errorf("a store nobody knows: %q", s.Store.Value)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x1b\a") {
			t.Errorf("control characters in %q", err)
		}
	})
}
