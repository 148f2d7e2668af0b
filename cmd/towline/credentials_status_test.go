package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/config"
	"towline/config/managed"
)

// The moment the reports below are read at.
var readAt = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) *time.Time { t := readAt.Add(d); return &t }

func TestCredentialReportForPeople(t *testing.T) {
	for name, tc := range map[string]struct {
		r    credentialReport
		want []string
		not  []string
	}{
		"nobody": {
			credentialReport{Host: "dev", Program: "towline 1", Store: storeReport{Kind: "file", From: "the default"}, Lock: lockFree},
			[]string{"credentials on dev (towline 1)\n", "  login      none: nobody is logged in\n", "  store      file, by the default\n", "  policy     nothing is mandated on this machine\n"},
			[]string{"places", "held by", "variables", "refresh"},
		},
		"a ChatGPT login, and a forgotten key": {
			func() credentialReport {
				l := &loginReport{
					Mode: "chatgpt", Email: "ada@example.org", Plan: "plus", AccountID: "w1", Workspace: "Analytical", Fingerprint: "00ff",
					Issuer: "https://auth.example.org", Expires: at(52 * time.Minute), LastRefresh: at(-3 * time.Hour), Renews: true,
				}
				return credentialReport{
					Host: "dev", Program: "towline 1", LoggedIn: true, Login: l, Store: storeReport{"keyring", "/etc/towline/requirements.toml"}, Lock: lockHeld,
					Places: []placeReport{
						{Kind: "keyring", Path: "cli|ab@Codex Auth", Used: true, Login: l},
						{Kind: "file", Path: "/srv/c/auth.json", Login: &loginReport{Mode: "apikey"}, Readable: true, Problem: "others can read it", Forbids: "must be in the keyring"},
					},
					Held:   []holderReport{{"store", "this host, in its keyring"}, {"towline", "Towline's daemon (pid 7)"}},
					Policy: policyReport{Files: []string{"x"}, Mandates: []managed.Line{{Key: "cli_auth_credentials_store", Value: `"keyring"`, From: "/etc/towline/requirements.toml"}, {Key: "allow_lend_network", Value: "false", From: "/b"}}},
					Env:    []variableReport{{"OPENAI_API_KEY", "the daemon"}},
					Notes:  []string{"a note"},
				}
			}(),
			[]string{
				"  login      ChatGPT plus, ada@example.org, workspace Analytical (w1)\n",
				"             the access token expires in 52 min, refreshed 3 h ago, renews itself\n",
				"             fingerprint 00ff, from https://auth.example.org\n",
				"  places     ✔ keyring   cli|ab@Codex Auth  ChatGPT plus, ada@example.org",
				"             ✘ file      /srv/c/auth.json   an API key, not used\n",
				"others can read it\n", "must be in the keyring\n",
				"  held by    this host, in its keyring\n             Towline's daemon (pid 7)\n",
				"  refresh    somebody refreshes the login just now\n",
				"  policy     cli_auth_credentials_store = \"keyring\"  /etc/towline/requirements.toml\n",
				"             allow_lend_network = false              /b\n",
				"  variables  OPENAI_API_KEY is set in the daemon; only model providers that name it use it\n",
				"  note       a note\n",
			},
			nil,
		},
		"expired, and cannot renew itself": {
			credentialReport{Host: "dev", Program: "towline 1", Login: &loginReport{Mode: "chatgpt", Expires: at(-72 * time.Hour)}, Policy: policyReport{Files: []string{"/a", "/b"}}},
			[]string{"the access token expired 3 days ago, cannot renew itself\n", "  policy     nothing about credentials in /a, /b\n"},
			nil,
		},
		"a policy nobody can read": {
			credentialReport{Host: "dev", Program: "towline 1", Policy: policyReport{Problem: "/etc/towline/requirements.toml: line 1: no"}},
			[]string{"  login      none may be used\n", "  policy     ✘ /etc/towline/requirements.toml: line 1: no\n"},
			[]string{"nothing is mandated"},
		},
		"what a host says does not reach the terminal": {
			credentialReport{Host: "dev\x1b[2J", Program: "towline\n1", Notes: []string{"\x1b]0;x\a"}},
			[]string{"credentials on dev[2J (towline 1)\n", "  note       ]0;x\n"},
			[]string{"\x1b", "\a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.r.text(readAt)
			for _, w := range tc.want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in\n%s", w, got)
				}
			}
			for _, w := range tc.not {
				if strings.Contains(got, w) {
					t.Errorf("%q in\n%s", w, got)
				}
			}
		})
	}
}

func TestReportOfAnotherHostIsBounded(t *testing.T) {
	places := make([]placeReport, 500)
	for i := range places {
		places[i] = placeReport{Kind: "file", Path: "/x"}
	}
	out, err := json.Marshal(credentialReport{
		Host: "calls itself this", Program: "towline 1\x1b[31m", Login: &loginReport{Mode: "chatgpt", Email: strings.Repeat("a", 5000) + "\n", Expires: at(0)}, Places: places,
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := readReport("dev", out, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Host != "dev" || r.Program != "towline 1[31m" || len(r.Login.Email) > 210 || len(r.Places) != maxThereItems || !r.Login.Expires.Equal(readAt) {
		t.Errorf("%q %q %d %d %v", r.Host, r.Program, len(r.Login.Email), len(r.Places), r.Login.Expires)
	}
	if b, err := json.Marshal(r); err != nil || strings.Contains(string(b), "null,") && strings.Contains(string(b), `"notes":null`) {
		t.Errorf("%v %s", err, b)
	}
	// A host whose policy is broken says so, and what it found besides is shown.
	out = []byte(`{"program":"towline 1","policy":{"problem":"/etc/towline/requirements.toml: line 1"}}`)
	r, err = readReport("dev", out, "error: policy", errors.New("exit status 3"))
	var p *config.Problem
	if r.Program == "" || !errors.As(err, &p) || p.Stage != "policy" || config.ExitCode(err) != config.ExitConfig || !strings.Contains(err.Error(), "on dev: /etc/towline") {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "not json", `{"program":""}`, `[]`} {
		r, err = readReport("dev", []byte(bad), "error: unknown command \"credentials\"\nhint: x\n", errors.New("exit status 2"))
		if r.Program != "" || !errors.As(err, &p) || len(p.Hints) == 0 || !strings.Contains(err.Error(), `unknown command "credentials"`) || strings.Contains(err.Error(), "error: unknown") {
			t.Errorf("%q: %+v, %v", bad, r, err)
		}
	}
}

func TestReportOfAHostWithCodexAlone(t *testing.T) {
	out := "home /home/a/.codex\nfile -rw-r--r-- /home/a/.codex/auth.json\npolicy /etc/codex/requirements.toml\nvariable OPENAI_API_KEY\n" +
		"socket /home/a/.codex/app-server-control/app-server-control.sock\nsays WARNING: x\nsays API key configured - sk-keyri***23456\nversion codex-cli 0.169.0\nend\n"
	r, err := codexReport("dev", []byte(out), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "sk-") {
		t.Errorf("a part of a key is passed on: %s", b)
	}
	if !r.LoggedIn || r.Login.Mode != "apikey" || r.Program != "codex 0.169.0" || r.CodexHome != "/home/a/.codex" || r.Lock != lockUnknown ||
		len(r.Places) != 1 || !r.Places[0].Readable || !r.Places[0].Used || len(r.Env) != 1 || len(r.Policy.Files) != 1 || len(r.Held) != 2 {
		t.Errorf("%s", b)
	}
	r, err = codexReport("dev", []byte("home /home/a/.codex\nfile -rw------- /home/a/.codex/auth.json\nsays Not logged in\nend\n"), nil)
	if err != nil || r.LoggedIn || r.Login != nil || r.Places[0].Readable || r.Places[0].Used {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = codexReport("dev", []byte("home /home/a/.codex\nsays Error checking login status: no secret service\nend\n"), nil)
	if err != nil || len(r.Notes) != 2 || !strings.Contains(r.Notes[0], "no secret service") {
		t.Errorf("%+v, %v", r, err)
	}
	// Half an answer is none.
	if r, err := codexReport("dev", []byte("home /home/a/.codex\n"), errors.New("the link is gone")); err == nil || r.Program != "" || !strings.Contains(err.Error(), "the link is gone") {
		t.Errorf("%+v, %v", r, err)
	}
}

// The paths of doors and scripts are the host's, but its texts never decide what
// is typed there.
func TestScriptForAHostQuotesWhatItSays(t *testing.T) {
	const path = `/home/a/it's; $(rm -rf ~)/codex`
	if s := codexScript(path); !strings.Contains(s, `'/home/a/it'\''s; $(rm -rf ~)/codex' login status`) {
		t.Errorf("%s", s)
	}
}

func TestPolicyAtStart(t *testing.T) {
	home := t.TempDir()
	t.Setenv("CODEX_HOME", filepath.Join(home, "codex"))
	paths := config.Paths{Config: home, State: home, Runtime: filepath.Join(home, "run")}
	cfg := config.Default(paths)
	if err := os.MkdirAll(filepath.Join(home, "codex"), 0o700); err != nil {
		t.Fatal(err)
	}
	// Codex's own configuration is broken: that is Codex's to say, when it runs.
	if err := os.WriteFile(filepath.Join(home, "codex", "config.toml"), []byte("not toml ["), 0o600); err != nil {
		t.Fatal(err)
	}
	log, said := captureLog()
	if err := policyAtStart(t.Context(), paths, cfg, log); err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "how people log in to Codex is not known") {
		t.Errorf("log: %s", said)
	}
}

func captureLog() (*slog.Logger, *strings.Builder) {
	var b strings.Builder
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}
