package main

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towline/config"
	"towline/config/managed"
)

// Codex reads its own two files only. What Towline's demands of a login is held
// against what a client asks a Codex behind the gate for.
func TestSecurityMandateHoldsForAStockCodex(t *testing.T) {
	token := func(account string) string {
		b := base64.RawURLEncoding.EncodeToString([]byte(`{"https://api.openai.com/auth":{"chatgpt_account_id":"` + account + `"}}`))
		return "e30." + b + ".c2ln"
	}
	lend := func(account, token string) string {
		return `{"type":"chatgptAuthTokens","accessToken":"` + token + `","chatgptAccountId":"` + account + `"}`
	}
	const key, browser, device = `{"type":"apiKey","apiKey":"sk-canary"}`, `{"type":"chatgpt"}`, `{"type":"chatgptDeviceCode"}`
	for name, tc := range map[string]struct {
		file, mandate, engine, store, params, want string
	}{
		"nothing is mandated":                    {"towline", "", config.EngineCodex, "", browser, ""},
		"a key":                                  {"towline", `allowed_login_methods = ["chatgpt"]`, config.EngineCodex, "", key, "with an API key is not allowed"},
		"a browser":                              {"towline", `allowed_login_methods = ["api"]`, config.EngineCodex, "", browser, "with a ChatGPT account is not allowed"},
		"a code":                                 {"towline", `allowed_login_methods = ["api"]`, config.EngineCodex, "", device, "with a ChatGPT account is not allowed"},
		"what is not known":                      {"towline", `allowed_login_methods = ["api"]`, config.EngineCodex, "", `{"type":"amazonBedrock"}`, "is not allowed"},
		"a loan, no ChatGPT":                     {"towline", `allowed_login_methods = ["api"]`, config.EngineCodex, "", lend("w1", token("w1")), "is not allowed"},
		"a loan":                                 {"towline", `allow_lend_credentials = false`, config.EngineCodex, "", lend("w1", token("w1")), "lending credentials is not allowed"},
		"a loan, for our own engine":             {"towline", `allow_lend_credentials = false`, config.EngineNative, "", lend("w1", token("w1")), "lending credentials is not allowed"},
		"a loan of a workspace":                  {"towline", `allowed_chatgpt_workspaces = ["w1"]`, config.EngineCodex, "", lend("w1", token("w1")), ""},
		"a loan of another workspace":            {"towline", `allowed_chatgpt_workspaces = ["w1"]`, config.EngineCodex, "", lend("w2", token("w2")), "workspace w2 is not allowed"},
		"a loan that hides its workspace":        {"towline", `allowed_chatgpt_workspaces = ["w1"]`, config.EngineCodex, "", lend("w1", token("w2")), "workspace w2 is not allowed"},
		"a workspace Codex cannot see to":        {"towline", `allowed_chatgpt_workspaces = ["w1"]`, config.EngineCodex, "", browser, "log in with `towline login`"},
		"a workspace Codex sees to":              {"codex", `allowed_chatgpt_workspaces = ["w1"]`, config.EngineCodex, "", browser, ""},
		"our own engine sees to it":              {"towline", `allowed_chatgpt_workspaces = ["w1"]`, config.EngineNative, "", browser, ""},
		"a store Codex does not use":             {"towline", `cli_auth_credentials_store = "keyring"`, config.EngineCodex, "", key, `Codex would keep this one in "file"`},
		"a store Codex may leave":                {"towline", `cli_auth_credentials_store = "keyring"`, config.EngineCodex, "auto", key, `Codex would keep this one in "auto"`},
		"a store Codex uses":                     {"towline", `cli_auth_credentials_store = "keyring"`, config.EngineCodex, "keyring", key, ""},
		"a store Codex was told and we were not": {"codex", `cli_auth_credentials_store = "auto"`, config.EngineCodex, "", key, ""},
		"a store Codex was told":                 {"codex", `cli_auth_credentials_store = "keyring"`, config.EngineCodex, "", key, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			etc := filepath.Join(root, "etc", tc.file)
			if err := os.MkdirAll(etc, 0o755); err != nil { //nolint:gosec // as /etc is
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(etc, "requirements.toml"), []byte(tc.mandate), 0o644); err != nil { //nolint:gosec // as /etc is
				t.Fatal(err)
			}
			p, err := managed.Load(managed.Options{Root: root})
			if err != nil {
				t.Fatal(err)
			}
			l := servedLogin{home: t.TempDir()}
			if tc.store != "" {
				if err := os.WriteFile(filepath.Join(l.home, "config.toml"), []byte("cli_auth_credentials_store = \""+tc.store+"\"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err = l.allowed(p, tc.engine, []byte(tc.params))
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "canary")):
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}
