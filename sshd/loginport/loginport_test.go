package loginport

import (
	"errors"
	"testing"
)

func TestIs(t *testing.T) {
	for name, tc := range map[string]struct {
		exe  string
		self bool
		args []string
		want string
	}{
		"ours":                         {"/usr/bin/towline", true, []string{"towline", "login"}, "towline login"},
		"ours, with events":            {"/usr/bin/towline", true, []string{"towline", "login", "--events"}, "towline login"},
		"ours, for another host":       {"/usr/bin/towline", true, []string{"towline", "login", "dev"}, "towline login"},
		"ours, serving":                {"/usr/bin/towline", true, []string{"towline", "serve"}, ""},
		"ours, without arguments":      {"/usr/bin/towline", true, []string{"towline"}, ""},
		"another build of ours":        {"/usr/bin/towline", false, []string{"towline", "login"}, ""},
		"codex":                        {"/opt/codex/codex", false, []string{"codex", "login"}, "codex"},
		"codex, replaced by an update": {"/opt/codex/codex (deleted)", false, []string{"codex", "login"}, "codex"},
		"codex as npm has it":          {"/x/codex-x86_64-unknown-linux-musl", false, []string{"codex", "app-server"}, "codex"},
		"codex, which hides its files": {"codex", false, []string{"codex", "login"}, "codex"},
		"codex, told to listen there":  {"/opt/codex/codex", false, []string{"codex", "app-server", "--listen", "ws://127.0.0.1:1455"}, ""},
		"something of codex's":         {"/opt/codex-tool", false, []string{"codex-tool"}, ""},
		"a name that ends in codex":    {"/opt/mycodex", false, []string{"mycodex", "login"}, ""},
		"another program":              {"/usr/bin/python3", false, []string{"python3", "-m", "http.server", "1455"}, ""},
		"no arguments at all":          {"/usr/bin/towline", true, nil, ""},
	} {
		got, ok := is(tc.exe, tc.self, tc.args, 1455)
		if got != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
}

func TestNames(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "::1": true,
		"LOCALHOST": false, "127.0.0.2": false, "0.0.0.0": false, "[::1]": false, "localhost.": false, "": false,
	} {
		if Names(host) != want {
			t.Errorf("%q", host)
		}
	}
	if _, err := Find("example.com", 1455, nil); !errors.Is(err, ErrNone) {
		t.Errorf("%v", err)
	}
}
