package managed

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"towline/config"
	"towline/config/secret"
)

// The managed files, by the names tests give them.
const (
	ours     = "/etc/towline/requirements.toml"
	codexs   = "/etc/codex/requirements.toml"
	codexOld = "/etc/codex/managed_config.toml"
)

// machine is a root with these files in it.
func machine(t *testing.T, files map[string]string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the managed files have other places there")
	}
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func load(t *testing.T, files map[string]string) Policy {
	t.Helper()
	p, err := Load(Options{Root: machine(t, files)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// refused checks that err is a refusal of the policy that names the file.
func refused(t *testing.T, err error, from string, words ...string) {
	t.Helper()
	var p *config.Problem
	if !errors.As(err, &p) || p.Stage != "policy" || len(p.Hints) == 0 || p.Exit == 0 {
		t.Errorf("not a refusal for people: %#v", err)
		return
	}
	for _, w := range append(words, from) {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestNothingIsMandatedWithoutFiles(t *testing.T) {
	p := load(t, nil)
	for _, err := range []error{
		p.Err(), p.CheckLogin(LoginAPI), p.CheckLogin(LoginChatGPT), p.CheckWorkspace("w"), p.CheckWorkspace(""),
		p.CheckRemoteControl(), p.CheckLendCredentials(), p.CheckLendNetwork(), p.CheckKind(secret.KindFile),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if kind, from, err := p.StoreKind(config.Setting{Value: "auto", From: "x"}); kind != "auto" || from != "x" || err != nil {
		t.Errorf("store %q from %q, %v", kind, from, err)
	}
	if kind, from, err := p.StoreKind(config.Setting{}); kind != "file" || from != "the default" || err != nil {
		t.Errorf("store %q from %q, %v", kind, from, err)
	}
	if l := p.Lines(); len(l) != 0 || l == nil || len(p.Files) != 0 {
		t.Errorf("%v, %v", l, p.Files)
	}
}

func TestTheStrictestWinsAndIsNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  []string // of Lines
	}{
		"one file says it all": {
			map[string]string{ours: "cli_auth_credentials_store = \"encrypted\"\nallowed_login_methods = [\"api\", \"chatgpt\", \"api\"]\nallowed_chatgpt_workspaces = [\"w2\", \"w1\"]\nallow_remote_control = false\nallow_lend_credentials = false\nallow_lend_network = true\n"},
			[]string{
				`cli_auth_credentials_store = "encrypted" ` + ours,
				`allowed_login_methods = ["api", "chatgpt"] ` + ours,
				`allowed_chatgpt_workspaces = ["w1", "w2"] ` + ours,
				`allow_remote_control = false ` + ours,
				`allow_lend_credentials = false ` + ours,
				`allow_lend_network = true ` + ours,
			},
		},
		"Codex's file is stricter about the store": {
			map[string]string{ours: `cli_auth_credentials_store = "auto"`, codexs: `cli_auth_credentials_store = "keyring"`},
			[]string{`cli_auth_credentials_store = "keyring" ` + codexs},
		},
		"ours is": {
			map[string]string{ours: `cli_auth_credentials_store = "ephemeral"`, codexs: `cli_auth_credentials_store = "keyring"`},
			[]string{`cli_auth_credentials_store = "ephemeral" ` + ours},
		},
		"encrypted is more than auto and less than keyring": {
			map[string]string{ours: `cli_auth_credentials_store = "encrypted"`, codexs: `cli_auth_credentials_store = "auto"`},
			[]string{`cli_auth_credentials_store = "encrypted" ` + ours},
		},
		"they agree": {
			map[string]string{ours: `cli_auth_credentials_store = "keyring"`, codexs: `cli_auth_credentials_store = "keyring"`},
			[]string{`cli_auth_credentials_store = "keyring" ` + ours + " and " + codexs},
		},
		"what both lists allow": {
			map[string]string{ours: `allowed_chatgpt_workspaces = ["a", "b"]`, codexs: `allowed_chatgpt_workspaces = ["b", "c"]`},
			[]string{`allowed_chatgpt_workspaces = ["b"] ` + ours + " and " + codexs},
		},
		"a list within the other is enough": {
			map[string]string{ours: `allowed_login_methods = ["api", "chatgpt"]`, codexs: `allowed_login_methods = ["chatgpt"]`},
			[]string{`allowed_login_methods = ["chatgpt"] ` + codexs},
		},
		"lists that share nothing": {
			map[string]string{ours: `allowed_login_methods = ["api"]`, codexOld: `forced_login_method = "chatgpt"`},
			[]string{`allowed_login_methods = [] ` + ours + " and " + codexOld},
		},
		"a refusal is not taken back": {
			map[string]string{ours: `allow_remote_control = false`, codexs: `allow_remote_control = true`},
			[]string{`allow_remote_control = false ` + ours},
		},
		"a refusal in the later file": {
			map[string]string{ours: `allow_remote_control = true`, codexs: `allow_remote_control = false`},
			[]string{`allow_remote_control = false ` + codexs},
		},
		"Codex's older file": {
			map[string]string{codexOld: "cli_auth_credentials_store = \"keyring\"\nforced_login_method = \"chatgpt\"\nforced_chatgpt_workspace_id = [\"w\"]\nmodel = \"gpt-5.5\"\n[features]\nx = true\n"},
			[]string{
				`cli_auth_credentials_store = "keyring" ` + codexOld, `allowed_login_methods = ["chatgpt"] ` + codexOld,
				`allowed_chatgpt_workspaces = ["w"] ` + codexOld,
			},
		},
		"what is Codex's is left to it": {
			map[string]string{codexs: "allowed_sandbox_modes = [\"read-only\"]\nsomething_new = { a = 1 }\nallow_lend_network = false\n"},
			nil,
		},
		"the audit: refusing is stricter": {
			map[string]string{ours: "audit_on_failure = \"refuse\"\n"},
			[]string{`audit_on_failure = "refuse" ` + ours},
		},
		"an editor's byte order mark": {
			map[string]string{ours: "\ufeffallow_lend_network = false\n"},
			[]string{`allow_lend_network = false ` + ours},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := load(t, tc.files)
			var got []string
			for _, l := range p.Lines() {
				got = append(got, l.Key+" = "+l.Value+" "+l.From)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

func TestRefusalsNameTheFile(t *testing.T) {
	p := load(t, map[string]string{
		ours:   "allow_lend_credentials = false\nallow_lend_network = false\n",
		codexs: "cli_auth_credentials_store = \"keyring\"\nallowed_login_methods = [\"chatgpt\"]\nallowed_chatgpt_workspaces = [\"w1\", \"w2\"]\nallow_remote_control = false\n",
	})
	refused(t, p.CheckLogin(LoginAPI), codexs, "an API key is not allowed", "only with a ChatGPT account")
	refused(t, p.CheckWorkspace("w\x1b[31m3"), codexs, "the workspace w[31m3 is not allowed", "only w1, w2")
	refused(t, p.CheckWorkspace(""), codexs, "names no workspace")
	refused(t, p.CheckRemoteControl(), codexs, "remote control")
	refused(t, p.CheckLendCredentials(), ours, "lending credentials")
	refused(t, p.CheckLendNetwork(), ours, "lending the network")
	refused(t, p.CheckKind(secret.KindFile), codexs, `"keyring"`, `"file"`)
	if err := errors.Join(p.CheckLogin(LoginChatGPT), p.CheckWorkspace("w2"), p.CheckKind(secret.KindKeyring)); err != nil {
		t.Error(err)
	}
	if kind, from, err := p.StoreKind(config.Setting{Value: "file", From: "config.toml"}); kind != "keyring" || from != codexs || err != nil {
		t.Errorf("store %q from %q, %v", kind, from, err)
	}
	none := load(t, map[string]string{ours: `allowed_login_methods = []`})
	refused(t, none.CheckLogin(LoginChatGPT), ours, "no way to log in is allowed")
}

func TestStoredCredentialsDoNotOutliveAMandate(t *testing.T) {
	p := load(t, map[string]string{ours: "allowed_chatgpt_workspaces = [\"w1\"]\n"})
	chat := func(id string) secret.Auth {
		return secret.Auth{Mode: secret.ModeChatGPT, Tokens: &secret.Tokens{AccountID: id}}
	}
	key := secret.Auth{Mode: secret.ModeAPIKey, APIKey: "sk"}
	if err := errors.Join(p.CheckStored(chat("w1")), p.CheckStored(key), p.CheckStored(secret.Auth{})); err != nil {
		t.Error(err)
	}
	refused(t, p.CheckStored(chat("w2")), ours, "w2")
	p = load(t, map[string]string{ours: `allowed_login_methods = ["api"]`})
	for _, mode := range []secret.Mode{secret.ModeChatGPT, secret.ModePAT, secret.ModeAgent} {
		refused(t, p.CheckStored(secret.Auth{Mode: mode}), ours, "a ChatGPT account")
	}
	if err := p.CheckStored(key); err != nil {
		t.Error(err)
	}
}

func TestWhatCodexSeesToItself(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		sees  bool
		store string
	}{
		"nothing":                  {nil, true, ""},
		"only ours":                {map[string]string{ours: "allowed_chatgpt_workspaces = [\"a\"]\ncli_auth_credentials_store = \"keyring\"\n"}, false, ""},
		"only Codex's":             {map[string]string{codexs: "allowed_chatgpt_workspaces = [\"a\"]\ncli_auth_credentials_store = \"auto\"\n"}, true, "auto"},
		"the same":                 {map[string]string{ours: `allowed_chatgpt_workspaces = ["a"]`, codexs: `allowed_chatgpt_workspaces = ["a"]`}, true, ""},
		"Codex's allows more":      {map[string]string{ours: `allowed_chatgpt_workspaces = ["a", "b"]`, codexs: `allowed_chatgpt_workspaces = ["b", "c"]`}, false, ""},
		"Codex's allows less":      {map[string]string{ours: `allowed_chatgpt_workspaces = ["a", "b"]`, codexOld: `forced_chatgpt_workspace_id = "a"`}, true, ""},
		"the first of Codex's two": {map[string]string{codexs: `cli_auth_credentials_store = "file"`, codexOld: `cli_auth_credentials_store = "keyring"`}, true, "file"},
		"the older alone":          {map[string]string{codexOld: `cli_auth_credentials_store = "keyring"`}, true, "keyring"},
	} {
		t.Run(name, func(t *testing.T) {
			p := load(t, tc.files)
			if p.CodexSeesToWorkspaces() != tc.sees || p.CodexStore() != tc.store {
				t.Errorf("sees to workspaces %v, store %q", p.CodexSeesToWorkspaces(), p.CodexStore())
			}
		})
	}
}

// What a person forced for themselves counts below what the machine mandates, and
// not where the machine forces the same key.
func TestForcedByThePerson(t *testing.T) {
	user := config.CodexSettings{
		ForcedLogin:      config.Setting{Value: "api", From: "/home/a/.codex/config.toml"},
		ForcedWorkspaces: []string{"w9"}, ForcedWorkspace: config.Setting{From: "/home/a/.codex/config.toml"},
	}
	p, err := Load(Options{Root: machine(t, map[string]string{codexs: `allowed_chatgpt_workspaces = ["w1", "w9"]`}), Codex: user})
	if err != nil {
		t.Fatal(err)
	}
	refused(t, p.CheckLogin(LoginChatGPT), "/home/a/.codex/config.toml")
	refused(t, p.CheckWorkspace("w1"), "/home/a/.codex/config.toml")
	if err := p.CheckWorkspace("w9"); err != nil {
		t.Error(err)
	}
	p, err = Load(Options{Root: machine(t, map[string]string{codexOld: "forced_login_method = \"chatgpt\"\nforced_chatgpt_workspace_id = \"\"\n"}), Codex: user})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.CheckLogin(LoginChatGPT), p.CheckWorkspace("w1")); err != nil {
		t.Errorf("what managed_config.toml replaced still counts: %v", err)
	}
}

// allRefuse: with a broken policy nothing it could forbid is done.
func allRefuse(t *testing.T, p Policy, path string) {
	t.Helper()
	_, _, kindErr := p.StoreKind(config.Setting{Value: "file"})
	_, startErr := p.AtStart(nil)
	for _, err := range []error{
		p.Err(), p.CheckLogin(LoginAPI), p.CheckWorkspace("w"), p.CheckRemoteControl(), p.CheckLendCredentials(),
		p.CheckLendNetwork(), p.CheckStored(secret.Auth{}), p.CheckStored(secret.Auth{Mode: secret.ModePAT}),
		p.CheckKind(secret.KindFile), kindErr, startErr,
	} {
		refused(t, err, path)
	}
}

func TestFilesThatCannotBeUsedFailClosed(t *testing.T) {
	for name, tc := range map[string]struct{ file, text, want string }{
		"not toml":             {ours, "allow_remote_control = false\nnot toml [", "line 2"},
		"a key mistyped":       {ours, "allow_remote_contol = false", `line 1: unknown key "allow_remote_contol", did you mean "allow_remote_control"?`},
		"a key of nobody":      {ours, "\n[tokens]\nzzz = 1", `unknown key "tokens`},
		"a store of nobody":    {ours, `cli_auth_credentials_store = "vault"`, `"vault" is none of file, keyring, auto, ephemeral, encrypted`},
		"a method of nobody":   {ours, `allowed_login_methods = ["key"]`, `"key" is none of api, chatgpt`},
		"a type":               {ours, `allow_lend_network = "no"`, "line 1"},
		"an empty workspace":   {ours, `allowed_chatgpt_workspaces = [""]`, "an empty name"},
		"Codex's store":        {codexs, `cli_auth_credentials_store = "encrypted"`, `"encrypted" is none of file, keyring, auto, ephemeral`},
		"Codex's type":         {codexs, `allowed_login_methods = "api"`, "line 1"},
		"Codex's not toml":     {codexs, `bogus [`, "line 1"},
		"Codex's older method": {codexOld, `forced_login_method = "zzz"`, `"zzz" is none of`},
		"Codex's older list":   {codexOld, `forced_chatgpt_workspace_id = "a,b"`, "write several as a list"},
		"too long":             {codexs, "#" + strings.Repeat("x", maxFile), "more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Load(Options{Root: machine(t, map[string]string{tc.file: tc.text})})
			refused(t, err, tc.file, tc.want, "nothing it could forbid is done")
			if config.ExitCode(err) != config.ExitConfig {
				t.Errorf("exit status %d", config.ExitCode(err))
			}
			allRefuse(t, p, tc.file)
		})
	}
}

func TestAtStart(t *testing.T) {
	file := secret.Place{Kind: secret.KindFile, Path: "/home/a/.codex/auth.json"}
	ring := secret.Place{Kind: secret.KindKeyring, Path: "cli|0123@Codex Auth"}
	crypt := secret.Place{Kind: secret.KindEncrypted, Path: "/home/a/auth.enc"}
	for name, tc := range map[string]struct {
		mandate string
		places  []secret.Place
		want    Action
		refuse  string
	}{
		"nothing mandated":                  {"", []secret.Place{file}, Keep, ""},
		"nothing stored":                    {"keyring", nil, Keep, ""},
		"in the keyring":                    {"keyring", []secret.Place{ring}, Keep, ""},
		"a plain file":                      {"keyring", []secret.Place{file}, Migrate, ""},
		"a plain file besides":              {"keyring", []secret.Place{ring, file}, Migrate, ""},
		"an encrypted file":                 {"keyring", []secret.Place{crypt}, Migrate, ""},
		"a plain file that is to be locked": {"encrypted", []secret.Place{file}, Migrate, ""},
		"a keyring is more than encrypted":  {"encrypted", []secret.Place{ring}, Keep, ""},
		"auto may end in a file":            {"auto", []secret.Place{file}, Keep, ""},
		"a file is a file":                  {"file", []secret.Place{file, ring}, Keep, ""},
		"nothing may be kept":               {"ephemeral", []secret.Place{ring}, Keep, "no credential may be stored"},
		"a sealed journal":                  {"keyring", []secret.Place{{Kind: secret.KindJournal, Path: "j"}}, Keep, ""},
		"a plain journal":                   {"encrypted", []secret.Place{{Kind: secret.KindJournal, Path: "j", Plain: true}}, Migrate, ""},
		"a plain journal beside a file":     {"file", []secret.Place{{Kind: secret.KindJournal, Path: "j", Plain: true}}, Keep, ""},
		"half of an auth.json":              {"keyring", []secret.Place{{Kind: secret.KindLeftover, Path: "l", Plain: true}}, Migrate, ""},
		"what Codex encrypts":               {"keyring", []secret.Place{{Kind: secret.KindCodexSecrets, Path: "s"}}, Keep, ""},
		"a journal, and nothing may be":     {"ephemeral", []secret.Place{{Kind: secret.KindJournal, Path: "j"}}, Keep, "no credential may be stored"},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{}
			if tc.mandate != "" {
				files[ours] = `cli_auth_credentials_store = "` + tc.mandate + `"`
			}
			got, err := load(t, files).AtStart(tc.places)
			if tc.refuse != "" {
				refused(t, err, ours, tc.refuse, tc.places[0].Path)
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("got %v, %v; want %v", got, err, tc.want)
			}
		})
	}
	cause := errors.New("the keyring is locked")
	wrapped := &config.Problem{Stage: "keyring", Err: cause, Hints: []string{"unlock it", "set cli_auth_credentials_store = \"file\""}}
	err := load(t, map[string]string{ours: `cli_auth_credentials_store = "keyring"`}).MigrateFailed(wrapped)
	refused(t, err, ours, `"keyring"`)
	if !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
	if hints := strings.Join(config.Hints(err), "\n"); !strings.Contains(hints, "unlock it") || strings.Contains(hints, "cli_auth") || strings.Count(hints, "unlock it") != 1 {
		t.Errorf("hints: %s", hints)
	}
}

func FuzzManagedFiles(f *testing.F) {
	f.Add(`cli_auth_credentials_store = "keyring"`)
	f.Add("allowed_login_methods = [\"api\"]\nallowed_chatgpt_workspaces = [\"w\"]")
	f.Add("forced_chatgpt_workspace_id = [\"a\", 1]\nforced_login_method = \"api\"")
	f.Add("[tokens]\n\"\x1b\" = 1")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range sources() {
			var p Policy
			err := s.read(&p, s.path, []byte(text))
			if err != nil {
				if strings.ContainsAny(err.Error(), "\x1b\a\x00") {
					t.Errorf("control characters in %q", err)
				}
				continue
			}
			if p.Store.Set && !slices.Contains(strictness, p.Store.Value) {
				t.Errorf("store %q", p.Store.Value)
			}
			for _, l := range p.Lines() {
				if l.From != s.path {
					t.Errorf("%+v is from %s", l, s.path)
				}
			}
		}
	})
}
