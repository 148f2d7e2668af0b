package appserver

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"towline/appserver/account"
	"towline/appserver/engine/native"
	"towline/config"
)

// login is a host's login as far as choosing an engine looks at it.
type login struct {
	native.Accounts // nothing else is called
	status          account.Status
	err             error
}

func (l login) Status(context.Context) (account.Status, error) { return l.status, l.err }

func (l login) Changed() <-chan struct{} { return nil }

// A login goes to its owner's endpoints. One that somebody configured may be
// anyone's, and gets it only when they said so; a key in the environment stands
// before it everywhere.
func TestWhereALoginGoes(t *testing.T) {
	here := login{status: account.Status{LoggedIn: true}}
	for name, tc := range map[string]struct {
		native config.Native
		env    string // OPENAI_API_KEY
		login  login
		needs  bool
		err    string
	}{
		"nothing configured":           {config.Native{}, "", here, true, ""},
		"logged out":                   {config.Native{}, "", login{}, true, "no endpoint"},
		"one that ran out":             {config.Native{}, "", login{status: account.Status{LoggedIn: true, Ended: errors.New("x")}}, true, ""},
		"unreadable":                   {config.Native{}, "", login{err: errors.New("locked")}, true, "no endpoint"},
		"logged out, and that is fine": {config.Native{RequiresOpenAIAuth: true}, "", login{}, true, ""},
		"a key in the environment":     {config.Native{}, "sk-x", here, false, ""},
		"somebody's endpoint":          {config.Native{BaseURL: "https://models.example/v1"}, "", here, false, ""},
		"an endpoint that may have it": {config.Native{BaseURL: "https://models.example/v1", RequiresOpenAIAuth: true}, "", here, true, ""},
		"a rehearsal":                  {config.Native{Rehearsal: true}, "", here, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tc.native.APIKeyEnv, tc.native.Model = "OPENAI_API_KEY", "m"
			dir := t.TempDir()
			paths := config.Paths{State: dir, Config: dir, Runtime: dir}
			c := EngineConfig{
				Config: config.Engine{Kind: config.EngineNative, Native: tc.native}, Paths: paths, Project: t.TempDir(), Log: slog.New(slog.DiscardHandler),
				Environ: func(name string) string {
					if name == "OPENAI_API_KEY" {
						return tc.env
					}
					return ""
				},
				Accounts: tc.login,
			}
			if got := c.needsLogin(); got != tc.needs {
				t.Errorf("the login is used: %v", got)
			}
			e, err := OpenEngine(t.Context(), c)
			if tc.err == "" && (err != nil || e.Kind != config.EngineNative) {
				t.Errorf("OpenEngine: %+v, %v", e, err)
			}
			if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("OpenEngine: %v, want an error with %q", err, tc.err)
			}
		})
	}
}

func TestWhereChatGPTIs(t *testing.T) {
	for base, want := range map[string][2]string{
		"":                                  {"https://chatgpt.com/backend-api/codex", "https://chatgpt.com"},
		"https://chatgpt.example/backend/":  {"https://chatgpt.example/backend/codex", "https://chatgpt.example"},
		"https://user:pw@host.example/api":  {"https://user:pw@host.example/api/codex", "https://host.example"},
		"http://127.0.0.1:8080/backend-api": {"http://127.0.0.1:8080/backend-api/codex", "http://127.0.0.1:8080"},
	} {
		if endpoint, origin := (EngineConfig{ChatGPTBaseURL: base}).chatGPT(); endpoint != want[0] || origin != want[1] {
			t.Errorf("%q: %q and %q, want %q", base, endpoint, origin, want)
		}
	}
}
