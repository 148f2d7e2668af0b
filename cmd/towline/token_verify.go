package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"towline/appserver/access/token"
	"towline/appserver/protocol"
	"towline/config"
)

// tokenVerdict is what `towline token verify --json` prints.
type tokenVerdict struct {
	Valid bool         `json:"valid"`
	Why   string       `json:"why,omitempty"`   // when it is not
	Until time.Time    `json:"until,omitzero"`  // absent: as long as nobody ends it
	Old   bool         `json:"old,omitempty"`   // it was rotated out, and counts for a while
	Token *token.Token `json:"token,omitempty"` // absent when it is none of this host's
}

func newTokenVerify() *cobra.Command {
	var env, source string
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify",
		Short: "Say whether a token counts, whose it is and until when",
		Long: "verify reads a token from standard input, or from the environment variable that\n" +
			"--env names; never from the command line. One that is mistyped or cut is told\n" +
			"from its checksum, without asking the host. It exits with 0 when the token counts\n" +
			"and with 1 when not. Asking is no use of the token.",
		Example: "  towline token verify --env TOKEN\n" +
			"  pass show ci/towline | towline token verify --source 10.1.2.3 --json",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 { // whatever it is, it was meant to be a secret
				return secretInArgs(cmd)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := readToken(cmd, env)
			if err != nil {
				return err
			}
			v, err := verifyToken(cmd, text, source)
			if err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), v); err != nil {
					return err
				}
			}
			name := "this token"
			if v.Token != nil {
				name = fmt.Sprintf("token %s (%s)", printable(v.Token.Name), printable(v.Token.ID))
			}
			if !v.Valid {
				p := &config.Problem{Stage: "token", Err: fmt.Errorf("%s does not count: %s", name, v.Why), Exit: config.ExitFailure}
				if v.Token != nil {
					p.Hints = []string{"see it: `towline token show " + printable(v.Token.ID) + "`"}
				}
				return p
			}
			if asJSON {
				return nil
			}
			until := "as long as nobody ends it"
			if !v.Until.IsZero() {
				until = fmt.Sprintf("until %s, for %s", v.Until.Format(time.RFC3339), ahead(v.Until, time.Now()))
			}
			old := ""
			if v.Old {
				old = "  It is an old secret: the token was rotated.\n"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s counts %s\n  %s\n%s", name, until, rights(*v.Token), old)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&env, "env", "", "environment variable that holds the token")
	f.StringVar(&source, "source", "", "say whether it would count from this address")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

// verifyToken asks the host about a token, of which only the hash is sent.
func verifyToken(cmd *cobra.Command, text, source string) (tokenVerdict, error) {
	form, id := token.FormOf(text)
	switch form {
	case token.Foreign:
		return tokenVerdict{Why: "it is no access token of Towline, which begins with twl_"}, nil
	case token.Damaged:
		return tokenVerdict{Why: "it is damaged: mistyped, cut, or with something added"}, nil
	}
	h := token.Hash(text)
	var s token.Shown
	err := tokenCall(cmd.Context(), protocol.ExtTokenShow, token.ShowParams{ID: id, Hash: hex.EncodeToString(h[:]), Source: source}, &s)
	var p *config.Problem
	switch {
	case errors.As(err, &p) && p.Stage == "token" && p.Exit == config.ExitFailure:
		return tokenVerdict{Why: "this host has none with its id (" + id + "); ask where it was issued"}, nil
	case err != nil:
		return tokenVerdict{}, err
	case s.Verdict == nil:
		return tokenVerdict{}, &config.Problem{Stage: "token", Err: errors.New("the daemon does not say")}
	}
	v := tokenVerdict{Valid: s.Verdict.Counts, Why: printable(s.Verdict.Why), Until: s.Verdict.Until, Token: &s.Token}
	for _, sec := range s.Secrets {
		v.Old = v.Old || sec.N == s.Verdict.Secret && sec.State == token.SecretOverlap
	}
	return v, nil
}

// readToken reads a token from the variable env, or from standard input.
func readToken(cmd *cobra.Command, env string) (string, error) {
	if env != "" {
		if token.MayBeSecret(env) {
			return "", noSecret(cmd, env)
		}
		text := strings.TrimSpace(os.Getenv(env))
		if text == "" {
			return "", wrongUse("token", fmt.Sprintf("the environment variable %q is not set, or empty", printable(env)), "export it, or pass the token on standard input")
		}
		return text, nil
	}
	in, isFile := cmd.InOrStdin().(*os.File)
	if isFile && term.IsTerminal(int(in.Fd())) {
		return askSecret(cmd.Context(), in, os.Stderr, "Token (not shown): ")
	}
	raw, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxInput))
	if err != nil {
		return "", &config.Problem{Stage: "token", Err: err}
	}
	text := strings.TrimSpace(string(raw))
	if text == "" {
		return "", wrongUse("token", "there was no token on standard input", "pass it there, or in a variable: `towline token verify --env NAME`")
	}
	return text, nil
}
