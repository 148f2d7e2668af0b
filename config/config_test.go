package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func testPaths(t *testing.T) Paths {
	t.Helper()
	dir := t.TempDir()
	p, err := Locate(func(k string) string { return map[string]string{"TOWLINE_HOME": dir}[k] })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLocate(t *testing.T) {
	for name, tc := range map[string]struct {
		env        map[string]string
		wantConfig string
		wantState  string
		wantSocket string
	}{
		"one folder": {
			env:        map[string]string{"TOWLINE_HOME": "/srv/t", "HOME": "/home/a", "XDG_RUNTIME_DIR": "/run/user/1"},
			wantConfig: "/srv/t/config.toml", wantState: "/srv/t", wantSocket: "/srv/t/run/towline.sock",
		},
		"xdg": {
			env:        map[string]string{"HOME": "/home/a", "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/run/user/1"},
			wantConfig: "/c/towline/config.toml", wantState: "/s/towline", wantSocket: "/run/user/1/towline/towline.sock",
		},
		"home only, relative xdg ignored": {
			env:        map[string]string{"HOME": "/home/a", "XDG_STATE_HOME": "rel"},
			wantConfig: "/home/a/.config/towline/config.toml", wantState: "/home/a/.local/state/towline",
			wantSocket: "/home/a/.local/state/towline/run/towline.sock",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Locate(func(k string) string { return tc.env[k] })
			if err != nil {
				t.Fatal(err)
			}
			if p.ConfigFile() != tc.wantConfig || p.Home() != tc.wantState || p.Socket() != tc.wantSocket {
				t.Errorf("got %s, %s, %s", p.ConfigFile(), p.Home(), p.Socket())
			}
		})
	}
	if _, err := Locate(func(string) string { return "" }); err == nil {
		t.Error("an environment that names no folder was accepted")
	}
}

func TestParse(t *testing.T) {
	p := testPaths(t)
	c, err := Parse([]byte(`
[engine]
kind = "native"
[engine.native]
base_url = "http://127.0.0.1:9/v1"
rehearsal = true
[ssh]
listen = "127.0.0.1:0"
authorized_keys = "keys"
[app_server]
listen = ["ws://127.0.0.1:0"]
`), p)
	if err != nil {
		t.Fatal(err)
	}
	if c.Engine.Kind != EngineNative || !c.Engine.Native.Rehearsal || c.Engine.Native.Model != "gpt-5.5" {
		t.Errorf("engine: %+v", c.Engine)
	}
	if c.SSH.AuthorizedKeys != filepath.Join(p.Config, "keys") || c.SSH.HostKey != p.HostKey() {
		t.Errorf("ssh: %+v", c.SSH)
	}
	if !*c.Engine.Codex.ShareControlSocket {
		t.Error("the control socket is not shared by default")
	}
}

func TestParseReportsEveryMistake(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"unknown keys, with suggestions": {
			"[engine]\nkinds = \"auto\"\n[ssh]\nlisen = \":1\"\nzzzzzz = 1\n",
			[]string{`line 2: unknown key "engine.kinds", did you mean "engine.kind"?`, `line 4: unknown key "ssh.lisen", did you mean "ssh.listen"?`, `line 5: unknown key "ssh.zzzzzz"`},
		},
		"a key in the wrong table": {"[engine]\nbase_url = \"x\"\n", []string{`did you mean "engine.native.base_url"?`}},
		"several bad values": {
			"[engine]\nkind = \"gpt\"\n[ssh]\nlisten = \"nowhere\"\n[app_server]\nlisten = [\"http://x\"]\n",
			[]string{`engine.kind: "gpt" is none of auto, codex, native`, "ssh.listen:", "app_server.listen[0]:"},
		},
		"a host's keys": {
			"[hosts.dev]\nprojct = \"/x\"\nport = 22\n[hosts.\"a.b\"]\nhide = true\nhiden = true\n",
			[]string{
				`line 2: unknown key "hosts.dev.projct", did you mean "hosts.dev.project"?`, `line 3: unknown key "hosts.dev.port"`,
				`line 6: unknown key "hosts.\"a.b\".hiden", did you mean "hosts.\"a.b\".hidden"?`,
			},
		},
		"a host's name with dots": {
			"[hosts.dev.example.com]\nproject = \"/x\"\n",
			[]string{`a name with dots stands in quotes: [hosts."dev.example.com"]`},
		},
		"a host's table misspelt": {"[host.dev]\nproject = \"/x\"\n", []string{`unknown key "host.dev"`}},
		"a host's values": {
			"[hosts.dev]\nproject = \"src\"\ntransport = \"telnet\"\ntowline = \"~x\"\n[hosts.\"*\"]\nhidden = true\n",
			[]string{
				`hosts.dev.project: "src" is not a path on the host; begin it with / or ~/`,
				`hosts.dev.transport: "telnet" is none of auto, system, builtin`, `hosts.dev.towline:`, `hosts."*": names no single host`,
			},
		},
		"wrong type":         {"[ssh]\nlisten = 22\n", []string{"line 2"}},
		"not toml":           {"[ssh\n", []string{"line 1"}},
		"secret in base_url": {"[engine.native]\nbase_url = \"https://u:p@h/v1\"\n", []string{"api_key_env"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tc.text), testPaths(t))
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
		})
	}
}

func TestHosts(t *testing.T) {
	p := testPaths(t)
	c, err := Parse([]byte(`
ssh_config = "ssh/config"
[hosts.dev]
project = "~/src/shop"
transport = "system"
towline = "/opt/towline/bin/towline"
install_dir = "/scratch/me"
[hosts."bastion.example.com"]
hidden = true
`), p)
	if err != nil {
		t.Fatal(err)
	}
	want := Host{Project: "~/src/shop", Transport: TransportSystem, Towline: "/opt/towline/bin/towline", InstallDir: "/scratch/me"}
	if got := c.Host("dev"); got != want { // paths there are the host's: ~ stays
		t.Errorf("dev: %+v", got)
	}
	if got := c.Host("bastion.example.com"); !got.Hidden || got.Transport != TransportAuto {
		t.Errorf("bastion: %+v", got)
	}
	if got := c.Host("unmentioned"); got != (Host{Transport: TransportAuto}) {
		t.Errorf("unmentioned: %+v", got)
	}
	if c.SSHConfig != filepath.Join(p.Config, "ssh/config") {
		t.Errorf("ssh_config: %q", c.SSHConfig)
	}
	if c, err := Parse([]byte("ssh_config = \"none\"\n"), p); err != nil || c.SSHConfig != "none" {
		t.Errorf("no ssh configuration at all: %q, %v", c.SSHConfig, err)
	}
}

func TestKeysListsEveryKeyOnce(t *testing.T) {
	keys := Keys()
	seen := map[string]bool{}
	for _, k := range keys {
		if seen[k] || strings.HasSuffix(k, ".") || strings.Contains(k, "..") {
			t.Errorf("key %q", k)
		}
		seen[k] = true
	}
	for _, k := range []string{"project", "ssh_config", "engine.native.base_url", "hosts.NAME.project", "hosts.NAME.install_dir"} {
		if !seen[k] {
			t.Errorf("%q is not listed in %v", k, keys)
		}
	}
}

func TestLoadNamesTheFileAndTheCure(t *testing.T) {
	p := testPaths(t)
	if c, err := Load(p); err != nil || c.Engine.Kind != EngineAuto {
		t.Fatalf("absent file: %+v, %v", c, err)
	}
	if err := os.WriteFile(p.ConfigFile(), []byte("nonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(p)
	if ExitCode(err) != ExitConfig || !strings.Contains(err.Error(), p.ConfigFile()) || len(Hints(err)) == 0 {
		t.Errorf("got %v (exit %d, hints %v)", err, ExitCode(err), Hints(err))
	}
}

func TestLooserStateIsRefused(t *testing.T) {
	p := testPaths(t)
	if err := p.Ensure(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p.Threads(), 0o755); err != nil { //nolint:gosec // looser on purpose
		t.Fatal(err)
	}
	if err := p.Ensure(); err != nil {
		t.Fatalf("a readable folder of ours should be closed, not refused: %v", err)
	}
	if info, err := os.Stat(p.Threads()); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(p.Threads(), 0o777); err != nil { //nolint:gosec // looser on purpose
		t.Fatal(err)
	}
	err := p.Ensure()
	if err == nil || !strings.Contains(err.Error(), p.Threads()) || !strings.Contains(Explain(err), "chmod 700") {
		t.Errorf("got %v", err)
	}
	if err := PrivateFile(filepath.Join(p.State, "none")); err != nil {
		t.Errorf("a missing file is no error, got %v", err)
	}
}

func TestExplainCollectsHints(t *testing.T) {
	inner := &Problem{Err: errors.New("inner"), Hints: []string{"two"}, Exit: ExitConfig}
	outer := &Problem{Stage: "start", Err: inner, Hints: []string{"one"}, Exit: ExitUnavailable}
	if got := Explain(outer); got != "error: start: inner\nhint: one\nhint: two\n" {
		t.Errorf("got %q", got)
	}
	if ExitCode(outer) != ExitUnavailable || ExitCode(errors.New("x")) != ExitFailure || ExitCode(nil) != ExitOK {
		t.Error("exit codes")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("[engine]\nkind='auto'\n"))
	f.Add([]byte("[ssh]\nlisten = 22"))
	f.Add([]byte("a.b.c = [1, {x=1}]"))
	f.Add([]byte("[hosts.a]\nproject='~'\n[hosts.\"a.b\".c]\nx=1\n[host.b]"))
	p := Paths{Config: "/c", State: "/s", Runtime: "/r"}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := Parse(raw, p); err == nil && c.Validate() != nil {
			t.Errorf("accepted what does not validate: %q", raw)
		}
	})
}
