package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/account"
	"towline/config"
	"towline/config/secret"
)

// loginStatus is what `towline login status --json` prints. Scripts rely on it.
type loginStatus struct {
	LoggedIn    bool       `json:"loggedIn"`
	Mode        string     `json:"mode"` // apikey, chatgpt, personalAccessToken, agentIdentity; "" when not logged in
	Account     string     `json:"account"`
	Workspace   string     `json:"workspace"`
	Plan        string     `json:"plan"`
	Issuer      string     `json:"issuer"`
	Store       string     `json:"store"` // file, keyring, encrypted, ephemeral
	Path        string     `json:"path"`  // the file, or the keyring entry's label
	Fingerprint string     `json:"fingerprint"`
	Expires     *time.Time `json:"expires"` // of the access token; null when it does not say
	LastRefresh *time.Time `json:"lastRefresh"`
	Renews      bool       `json:"renews"`
	Env         string     `json:"env"`     // the variable that stands before the store, or ""
	Problem     string     `json:"problem"` // why it cannot be used, or ""
}

func newLoginStatus() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Say whether this machine is logged in, and as whom",
		Long: "status says how this machine is logged in, in the words of `codex login status`, and\n" +
			"ends with status 1 when it is not. A personal access token is verified with its\n" +
			"issuer; nothing else is asked over the network. `towline credentials status` says\n" +
			"where everything lies.",
		Example: "  towline login status\n  towline login status --json | jq .expires\n  towline login status >/dev/null || towline login",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, m, err := openAccount(slog.New(slog.DiscardHandler), os.Stderr)
			if err != nil {
				return err
			}
			defer m.Close()
			st, err := m.Verify(cmd.Context())
			out := statusOf(st, err)
			if err != nil && out.Mode == "" {
				return err
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				if eerr := e.Encode(out); eerr != nil {
					return eerr
				}
			} else if werr := writeStatus(cmd.OutOrStdout(), st, out); werr != nil {
				return werr
			}
			switch {
			case err != nil:
				return err
			case !out.LoggedIn:
				return &said{&config.Problem{Stage: "login", Err: account.ErrNotLoggedIn}}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

// statusOf is st as scripts see it; err is what its verification said.
func statusOf(st account.Status, err error) loginStatus {
	out := loginStatus{
		LoggedIn: st.LoggedIn && err == nil, Mode: string(st.Mode), Account: st.Email, Workspace: st.AccountID, Plan: st.Plan,
		Issuer: st.Issuer, Store: string(st.Where.Kind), Path: st.Where.Path, Fingerprint: st.Fingerprint, Renews: st.Renews, Env: st.Env,
	}
	if !st.Expires.IsZero() {
		out.Expires = &st.Expires
	}
	if !st.LastRefresh.IsZero() {
		out.LastRefresh = &st.LastRefresh
	}
	if p := errors.Join(err, st.Ended); p != nil {
		out.Problem = printable(p.Error())
	}
	return out
}

// writeStatus prints Codex's line, and what it does not say.
func writeStatus(w io.Writer, st account.Status, out loginStatus) error {
	var b strings.Builder
	line := func(k, v string) {
		if v = printable(v); v != "" {
			fmt.Fprintf(&b, "  %-10s %s\n", k, v)
		}
	}
	switch {
	case !st.LoggedIn:
		b.WriteString("Not logged in\n")
	case st.Mode == secret.ModeAPIKey:
		fmt.Fprintf(&b, "API key configured - %s\nAuthentication is checked when you send a request.\n", printable(st.Masked))
	case st.Mode == secret.ModePAT:
		b.WriteString("Logged in using personal access token\n")
	case st.Mode == secret.ModeAgent:
		b.WriteString("Logged in using access token\n")
	default:
		b.WriteString("Logged in using ChatGPT\n")
	}
	if !st.LoggedIn {
		line("log in", "`towline login`; without a browser: `towline login --device-auth`")
		_, err := io.WriteString(w, b.String())
		return err
	}
	who := st.Email
	if st.Plan != "" {
		who = strings.TrimSpace(who + " (" + st.Plan + ")")
	}
	line("account", who)
	line("workspace", st.AccountID)
	if st.Issuer != "" && st.Issuer != account.OpenAIIssuer {
		line("issuer", st.Issuer)
	}
	if st.Env != "" {
		line("from", st.Env+", which stands before what is stored")
	} else {
		line("store", relativeHome(out.Path)+" ("+string(st.Where.Kind)+")")
		line("note", st.Where.Fallback)
	}
	now := time.Now()
	if out.Expires != nil {
		text := "in " + span(st.Expires.Sub(now))
		if !now.Before(st.Expires) {
			text = span(now.Sub(st.Expires)) + " ago"
		}
		if st.Renews {
			text += ", renewed by itself"
		} else if st.Mode == secret.ModeChatGPT {
			text += ", and cannot be renewed"
		}
		line("expires", text)
	}
	if out.LastRefresh != nil {
		line("refreshed", span(now.Sub(st.LastRefresh))+" ago")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// said is an error the output has told already: only its exit status is left.
type said struct{ error }

// Unwrap gives the error.
func (s *said) Unwrap() error { return s.error }
