package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/account"
	"towline/config"
	"towline/config/secret"
	"towline/launcher/lend"
)

// Only what ends by itself may be lent; the rest is told where to go instead.
func TestWhatMayBeLent(t *testing.T) {
	for name, tc := range map[string]struct {
		st   account.Status
		hint string // "" for one that may
	}{
		"chatgpt":            {account.Status{LoggedIn: true, Mode: secret.ModeChatGPT}, ""},
		"nothing":            {account.Status{}, "towline login dev"},
		"an api key":         {account.Status{LoggedIn: true, Mode: secret.ModeAPIKey}, "credentials put dev --api-key"},
		"a personal token":   {account.Status{LoggedIn: true, Mode: secret.ModePAT}, "credentials put dev --access-token"},
		"an agent's":         {account.Status{LoggedIn: true, Mode: secret.ModeAgent}, "credentials put dev --access-token"},
		"one that ran out":   {account.Status{LoggedIn: true, Mode: secret.ModeChatGPT, Ended: errors.New("used elsewhere")}, "towline login"},
		"one of another age": {account.Status{LoggedIn: true, Mode: "new"}, "credentials put"},
	} {
		err := lendable(tc.st, "dev")
		if tc.hint == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var p *config.Problem
		if !errors.As(err, &p) || p.Stage != lend.Stage || !strings.Contains(strings.Join(p.Hints, "\n"), tc.hint) {
			t.Errorf("%s: %v, %q", name, err, config.Hints(err))
		}
	}
}

func TestWhichAddressesAreLent(t *testing.T) {
	t.Setenv("CODEX_APP_SERVER_LOGIN_ISSUER", "")
	var cfg config.Config
	cfg.Auth.Issuer = "https://login.corp.example"
	cfg.Engine.Native.BaseURL = "http://127.0.0.1:11434/v1"
	c := credentials{home: t.TempDir(), codex: config.CodexSettings{ChatGPTBaseURL: config.Setting{Value: "https://chatgpt.com/backend-api"}}}
	l, err := lentTargets(cfg, c, []string{modelTargets, "127.0.0.1:8080", "LLM.example:443"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range l {
		s := r.String()
		if r.Named {
			s += "!"
		}
		got = append(got, s)
	}
	// This machine's own loopback only as it was typed; what everybody has stays
	// what leads to the internet only.
	want := "api.openai.com:443 chatgpt.com:443 auth.openai.com:443 login.corp.example:443! 127.0.0.1:8080! llm.example:443!"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("lends %s", s)
	}
	for _, bad := range []string{"nothing", "a:0", "http://x", "a b:1"} {
		var p *config.Problem
		if _, err := lentTargets(cfg, c, []string{bad}); !errors.As(err, &p) || p.Exit != config.ExitUsage {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// The command line that leads back lends the same again.
func TestLendingIsRepeated(t *testing.T) {
	for _, want := range []string{
		"", " --lend-credentials", " --lend-network", " --lend-credentials --lend-grace 1m0s --lend-network=model,llm.example:443",
	} {
		var o lendOptions
		c := &cobra.Command{}
		o.flags(c)
		if err := c.ParseFlags(strings.Fields(want)); err != nil {
			t.Fatal(err)
		}
		if got := o.args(); got != want {
			t.Errorf("%q comes back as %q", want, got)
		}
		if o.wanted() != (want != "") {
			t.Errorf("%q: wanted is %v", want, o.wanted())
		}
	}
	o := lendOptions{credentials: true, grace: 48 * time.Hour}
	var p *config.Problem
	if err := o.prepare(t.Context(), "dev", nil, nil); !errors.As(err, &p) || p.Exit != config.ExitUsage {
		t.Errorf("two days of grace: %v", err)
	}
}
