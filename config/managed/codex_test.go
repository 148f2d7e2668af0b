//go:build linux

package managed

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/config"
	"towline/config/secret"
)

// lacking skips a test for want of what; in CI that is a failure.
func lacking(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("lacking " + what)
	}
	t.Skip("SKIPPED, lacking " + what)
}

// inEtc runs a command in a mount namespace of its own, in which /etc is etc, and
// returns what it printed.
func inEtc(t *testing.T, etc string, env []string, stdin string, command ...string) (string, error) {
	t.Helper()
	unshare := []string{"unshare", "-m"}
	if os.Getuid() != 0 {
		unshare = []string{"unshare", "-rm"}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
	defer cancel()
	args := append(unshare[1:], "/bin/sh", "-c", `e=$1; shift; mount --bind "$e" /etc && exec "$@"`, "sh", etc)
	cmd := exec.CommandContext(ctx, unshare[0], append(args, command...)...)
	cmd.Env, cmd.Stdin = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, env...), strings.NewReader(stdin)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// needNamespace skips where no private /etc can be had.
func needNamespace(t *testing.T) {
	t.Helper()
	if out, err := inEtc(t, t.TempDir(), nil, "", "/bin/true"); err != nil {
		lacking(t, fmt.Sprintf("a mount namespace (unshare, as root or with user namespaces): %v %s", err, out))
	}
}

// needCodex is every real Codex there is to compare with.
func needCodex(t *testing.T) []string {
	t.Helper()
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		lacking(t, "the real codex: set TOWLINE_TEST_CODEX to its binaries")
	}
	return strings.Split(list, ":")
}

// fakeToken is a token nobody signed.
func fakeToken(t *testing.T, workspace string) string {
	t.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(map[string]string{"alg": "none"}) + "." + part(map[string]any{
		"email": "ada@example.org", "exp": time.Now().Add(time.Hour).Unix(),
		"https://api.openai.com/auth": map[string]string{"chatgpt_account_id": workspace, "chatgpt_plan_type": "plus", "chatgpt_user_id": "u1"},
	}) + ".sig"
}

// chatGPT is a stored login of that workspace.
func chatGPT(t *testing.T, workspace string) string {
	t.Helper()
	token := fakeToken(t, workspace)
	return fmt.Sprintf(`{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":{"id_token":%q,"access_token":%q,"refresh_token":"rt","account_id":%q},"last_refresh":%q}`,
		token, token, workspace, time.Now().UTC().Format(time.RFC3339))
}

const storedKey = `{"auth_mode":"apikey","OPENAI_API_KEY":"sk-stored"}`

// The same files, read by Codex and by us, allow the same logins.
func TestRealCodexDecidesTheSame(t *testing.T) {
	codexes := needCodex(t)
	needNamespace(t)
	for name, tc := range map[string]struct {
		files  map[string]string // below /etc/codex, or "user" for Codex's own config.toml
		stored string            // auth.json
		do     string            // "status": is what is stored good? "key": may one log in with a key? "token": with a personal access token?
		want   bool
	}{
		"no policy, a key":                {nil, "", "key", true},
		"only ChatGPT, a key":             {map[string]string{"requirements.toml": `allowed_login_methods = ["chatgpt"]`}, "", "key", false},
		"only keys, a key":                {map[string]string{"requirements.toml": `allowed_login_methods = ["api"]`}, "", "key", true},
		"only keys, a token":              {map[string]string{"requirements.toml": `allowed_login_methods = ["api"]`}, "", "token", false},
		"no method, a key":                {map[string]string{"requirements.toml": `allowed_login_methods = []`}, "", "key", false},
		"the older file, a key":           {map[string]string{"managed_config.toml": `forced_login_method = "chatgpt"`}, "", "key", false},
		"files that share nothing, a key": {map[string]string{"managed_config.toml": `forced_login_method = "chatgpt"`, "requirements.toml": `allowed_login_methods = ["api"]`}, "", "key", false},
		"forced by the person, a key":     {map[string]string{"user": `forced_login_method = "chatgpt"`}, "", "key", false},
		"forced, and replaced, a key":     {map[string]string{"user": `forced_login_method = "chatgpt"`, "managed_config.toml": `forced_login_method = "api"`}, "", "key", true},
		"not toml, a key":                 {map[string]string{"requirements.toml": `bogus [`}, "", "key", false},
		"no such method, a key":           {map[string]string{"requirements.toml": `allowed_login_methods = ["bogus"]`}, "", "key", false},
		"no such store, a key":            {map[string]string{"requirements.toml": `cli_auth_credentials_store = "bogus"`}, "", "key", false},
		"ours alone is no store, a key":   {map[string]string{"requirements.toml": `cli_auth_credentials_store = "encrypted"`}, "", "key", false},
		"keys Codex has and we do not":    {map[string]string{"requirements.toml": "allowed_sandbox_modes = [\"read-only\"]\nsomething_new = 3\n"}, "", "key", true},
		"a stored login, only keys":       {map[string]string{"requirements.toml": `allowed_login_methods = ["api"]`}, "w1", "status", false},
		"a stored key, only ChatGPT":      {map[string]string{"requirements.toml": `allowed_login_methods = ["chatgpt"]`}, storedKey, "status", false},
		"a stored login of a workspace":   {map[string]string{"requirements.toml": `allowed_chatgpt_workspaces = ["w1", "w2"]`}, "w1", "status", true},
		"of another workspace":            {map[string]string{"requirements.toml": `allowed_chatgpt_workspaces = ["w2"]`}, "w1", "status", false},
		"no workspace is allowed":         {map[string]string{"requirements.toml": `allowed_chatgpt_workspaces = []`}, "w1", "status", false},
		"a stored key has no workspace":   {map[string]string{"requirements.toml": `allowed_chatgpt_workspaces = ["w2"]`}, storedKey, "status", true},
		"the older file's workspaces":     {map[string]string{"managed_config.toml": `forced_chatgpt_workspace_id = ["a", "b"]`}, "w1", "status", false},
		"the person's workspace":          {map[string]string{"user": `forced_chatgpt_workspace_id = "w2"`}, "w1", "status", false},
		"an empty workspace":              {map[string]string{"user": `forced_chatgpt_workspace_id = ""`}, "w1", "status", true},
		"an empty list in the older file": {map[string]string{"managed_config.toml": `forced_chatgpt_workspace_id = []`}, "w1", "status", true},
		"several workspaces in one text":  {map[string]string{"user": `forced_chatgpt_workspace_id = "w1,w2"`}, "w1", "status", false},
		"the system's forced workspace":   {map[string]string{"config.toml": `forced_chatgpt_workspace_id = "w2"`, "user": `forced_chatgpt_workspace_id = "w1"`}, "w1", "status", true},
	} {
		t.Run(name, func(t *testing.T) {
			root, home := t.TempDir(), t.TempDir()
			place := func(path, text string) {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			place(filepath.Join(root, "etc", "codex", "x"), "")
			for file, text := range tc.files {
				if file == "user" {
					place(filepath.Join(home, "config.toml"), text)
				} else {
					place(filepath.Join(root, "etc", "codex", file), text)
				}
			}
			stored := tc.stored
			if stored == "w1" {
				stored = chatGPT(t, stored)
			}
			if got := weDecide(t, root, home, stored, tc.do); got != tc.want {
				t.Errorf("we say %v, want %v", got, tc.want)
			}
			for _, bin := range codexes {
				if stored != "" {
					place(filepath.Join(home, "auth.json"), stored)
				}
				if got, said := codexDecides(t, bin, filepath.Join(root, "etc"), home, tc.do); got != tc.want {
					t.Errorf("%s says %v, want %v: %s", bin, got, tc.want, said)
				}
				_ = os.Remove(filepath.Join(home, "auth.json")) // it may have removed it itself
			}
		})
	}
}

// weDecide is our answer. A personal access token is allowed to be tried.
func weDecide(t *testing.T, root, home, stored, do string) bool {
	t.Helper()
	settings, err := config.LoadCodex(home, root)
	if err != nil {
		return false
	}
	p, err := Load(Options{Root: root, Codex: settings})
	if err != nil && p.Err() == nil {
		t.Error("an error without a broken policy")
	}
	switch do {
	case "key":
		return p.CheckLogin(LoginAPI) == nil
	case "token":
		return p.CheckLogin(LoginChatGPT) == nil
	}
	a, err := secret.Parse([]byte(stored))
	if err != nil {
		t.Fatal(err)
	}
	return p.CheckStored(a) == nil
}

// codexDecides is Codex's.
func codexDecides(t *testing.T, bin, etc, home, do string) (bool, string) {
	t.Helper()
	env := []string{"HOME=" + home, "CODEX_HOME=" + home, "TMPDIR=" + t.TempDir(), "HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9"}
	args, stdin := []string{bin, "login", "status"}, ""
	switch do {
	case "key":
		args, stdin = []string{bin, "login", "--with-api-key"}, "sk-test\n"
	case "token":
		args, stdin = []string{bin, "login", "--with-access-token"}, "at-test\n"
	}
	out, err := inEtc(t, etc, env, stdin, args...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if do == "token" { // nobody is there to verify one; what counts is whether it was tried
		return strings.Contains(out, "failed to request personal access token metadata"), out
	}
	return err == nil, out
}

// A mandated store replaces the configured one, for Codex and for us.
func TestRealCodexTakesTheMandatedStore(t *testing.T) {
	codexes := needCodex(t)
	needNamespace(t)
	for name, tc := range map[string]struct {
		files map[string]string
		want  string // where the key ends up: "file", "nowhere" (memory), "keyring" (there is none here)
	}{
		"by default":                 {map[string]string{}, "file"},
		"mandated ephemeral":         {map[string]string{"codex/requirements.toml": `cli_auth_credentials_store = "ephemeral"`}, "ephemeral"},
		"mandated keyring":           {map[string]string{"codex/requirements.toml": `cli_auth_credentials_store = "keyring"`}, "keyring"},
		"mandated by the older file": {map[string]string{"codex/managed_config.toml": `cli_auth_credentials_store = "keyring"`}, "keyring"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.MkdirAll(filepath.Join(root, "etc", "codex"), 0o755); err != nil {
				t.Fatal(err)
			}
			for file, text := range tc.files {
				if err := os.WriteFile(filepath.Join(root, "etc", file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for _, bin := range codexes {
				home := t.TempDir()
				if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(`cli_auth_credentials_store = "file"`), 0o600); err != nil {
					t.Fatal(err)
				}
				settings, err := config.LoadCodex(home, root)
				if err != nil {
					t.Fatal(err)
				}
				p, err := Load(Options{Root: root, Codex: settings})
				if err != nil {
					t.Fatal(err)
				}
				kind, _, err := p.StoreKind(config.Config{}.CredentialStore(config.Paths{}, settings))
				if err != nil || kind != tc.want {
					t.Errorf("we keep it in %q, %v", kind, err)
				}
				ok, said := codexDecides(t, bin, filepath.Join(root, "etc"), home, "key")
				_, statErr := os.Stat(filepath.Join(home, "auth.json"))
				got := "keyring"
				switch {
				case ok && statErr == nil:
					got = "file"
				case ok:
					got = "ephemeral"
				case !strings.Contains(said, "keyring"):
					got = said
				}
				if got != tc.want {
					t.Errorf("%s keeps it in %q", bin, got)
				}
			}
		})
	}
}

// TestMain is also the program that a namespace runs: it reads the policy of the
// machine it is on, and says what it is.
func TestMain(m *testing.M) {
	if os.Getenv("TOWLINE_TEST_LOAD") == "" {
		os.Exit(m.Run())
	}
	p, err := Load(Options{})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(0)
	}
	for _, l := range p.Lines() {
		fmt.Println(l.Key, "=", l.Value, "from", l.From)
	}
	os.Exit(0)
}

func TestThePolicyOfTheMachineItself(t *testing.T) {
	needNamespace(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		setup string // sh, with /etc of one's own
		want  string
	}{
		"where administrators put it": {"", "allow_lend_network = false from " + ours},
		// A volume of a container runtime: a folder open to all that nobody can write to.
		"in a read-only volume":   {"chmod 777 /etc/towline; mount --bind /etc/towline /etc/towline && mount -o remount,bind,ro /etc/towline", "allow_lend_network = false from " + ours},
		"in a folder open to all": {"chmod 777 /etc/towline", "error: policy: " + ours},
	} {
		t.Run(name, func(t *testing.T) {
			root := machine(t, map[string]string{ours: lend})
			out, err := inEtc(t, filepath.Join(root, "etc"), []string{"TOWLINE_TEST_LOAD=1"}, "", "/bin/sh", "-c", tc.setup+"\nexec \"$0\"", self)
			if err != nil || !strings.HasPrefix(out, tc.want) {
				t.Errorf("%v: %s, want %s", err, out, tc.want)
			}
		})
	}
	t.Run("where root has no name", func(t *testing.T) { // a rootless container
		root := machine(t, map[string]string{ours: lend})
		out, err := inEtc(t, filepath.Join(root, "etc"), []string{"TOWLINE_TEST_LOAD=1"}, "", "unshare", "-U", self)
		if err != nil {
			lacking(t, fmt.Sprintf("user namespaces: %v %s", err, out))
		}
		if !strings.HasPrefix(out, "allow_lend_network = false from "+ours) {
			t.Errorf("%s", out)
		}
	})
}
