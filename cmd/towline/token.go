package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/access/token"
	"towline/appserver/protocol"
	"towline/config"
	"towline/config/managed"
)

func newToken() *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Issue credentials for programs, see their use, take them away",
		Long: "An access token lets a program or a person come to this host's ws and wss\n" +
			"listeners: `towline --remote`, `towline exec --remote`, a stock `codex --remote`.\n" +
			"It has a name, a role, a scope and an end, and it can be rotated and revoked.\n" +
			"The daemon is asked where it runs; without one the commands work as well.\n" +
			"docs/tokens.md says what each role and scope may do.",
		Example: "  TOKEN=$(towline token create --name ci)\n" +
			"  towline token list\n" +
			"  towline token rotate ci --overlap 1h\n" +
			"  towline token revoke ci",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(newTokenCreate(), newTokenList(), newTokenShow(), newTokenRotate(), newTokenRevoke(), newTokenVerify(), newTokenPolicy())
	return c
}

// oneToken takes the one token a command is about. A secret in its place is not
// repeated: errors end in logs.
func oneToken(cmd *cobra.Command, args []string) error {
	for _, a := range args {
		if err := noSecret(cmd, a); err != nil {
			return err
		}
	}
	return usage(cobra.ExactArgs(1))(cmd, args)
}

func noSecret(cmd *cobra.Command, arg string) error {
	if !token.MayBeSecret(arg) {
		return nil
	}
	return secretInArgs(cmd)
}

func secretInArgs(cmd *cobra.Command) error {
	hint := "name the token by its name or its id, as `towline token list` shows them"
	if cmd.Name() == "verify" {
		hint = "pass it on standard input, or in a variable: `towline token verify --env NAME`"
	}
	return &config.Problem{
		Stage: "token", Err: errors.New("a token on a command line is in the shell's history and in the list of processes"),
		Hints: []string{hint, "if others use this machine, give it a new secret: `towline token rotate NAME`"}, Exit: config.ExitUsage,
	}
}

func newTokenCreate() *cobra.Command {
	var p token.CreateParams
	var role string
	var asJSON bool
	c := &cobra.Command{
		Use:   "create --name NAME",
		Short: "Make a token and print it, this once",
		Long: "create prints the new token alone on standard output, and what it may do on\n" +
			"standard error. Only its hash is kept: it cannot be shown again.\n\n" +
			"Unless you say otherwise it is an operator with the scope exec (what `towline\n" +
			"exec` does and no more) and expires after 30 days.",
		Example: "  TOKEN=$(towline token create --name ci --from 10.0.0.0/8)\n" +
			"  towline token create --name ci --scope exec --scope project:/srv/app\n" +
			"  towline token create --name wallboard --role observer --expires 90d\n" +
			"  towline token create --name phone --role operator --scope all --json",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.Name == "" {
				return wrongUse("token", "a token needs a name", "say what it is for: `towline token create --name ci`")
			}
			var err error
			if p.Role, err = protocol.ParseRole(role); err != nil {
				return wrongUse("token", err.Error(), "see `towline token create --help`")
			}
			if p.Scope, err = hereScope(p.Scope); err != nil {
				return err
			}
			var made token.Created
			if err := tokenCall(cmd.Context(), protocol.ExtTokenCreate, p, &made); err != nil {
				return err
			}
			return showSecret(cmd, made, asJSON, "")
		},
	}
	f := c.Flags()
	f.StringVar(&p.Name, "name", "", "what to call it: up to 64 letters, digits and . _ @ + -")
	f.StringVar(&role, "role", "operator", "observer, approver, operator or admin")
	f.StringArrayVar(&p.Scope, "scope", nil, "exec, threads:ID[,ID…], project:DIR or all (repeatable; default\nexec for an operator, all for other roles)")
	f.StringVar(&p.Lifetime, "expires", "", "how long it counts: 12h, 30d, 8w or never (default 30d, or less\nwhere a policy says so)")
	f.StringArrayVar(&p.Networks, "from", nil, "address or network it may be used from, as 10.0.0.0/8 (repeatable;\ndefault anywhere)")
	f.BoolVar(&asJSON, "json", false, "print one JSON object, the token in its member secret")
	return c
}

// hereScope makes folders of this machine absolute, as whoever types them means.
func hereScope(words []string) ([]string, error) {
	out := make([]string, 0, len(words))
	for _, w := range words {
		if dir, ok := strings.CutPrefix(w, "project:"); ok && dir != "" {
			abs, err := filepath.Abs(dir)
			if err != nil {
				return nil, &config.Problem{Stage: "token", Err: err}
			}
			w = "project:" + abs
		}
		out = append(out, w)
	}
	return out, nil
}

// showSecret hands out a new secret: it alone on standard output, so that a shell
// can take it, and the rest on standard error.
func showSecret(cmd *cobra.Command, made token.Created, asJSON bool, more string) error {
	var err error
	if asJSON {
		err = printJSON(cmd.OutOrStdout(), made)
	} else {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), made.Secret)
	}
	if err != nil {
		return &config.Problem{
			Stage: "token", Err: fmt.Errorf("the token was made, and could not be printed: %w", err),
			Hints: []string{"end it: `towline token revoke " + made.ID + "`"},
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "token %s (%s): %s\n", made.Name, made.ID, rights(made.Token))
	fmt.Fprintf(&b, "  %s\n", ends(made.Token, time.Now()))
	b.WriteString(more)
	if !asJSON {
		command := "towline"
		if slices.Contains(made.Scope, "exec") {
			command = "towline exec"
		}
		fmt.Fprintf(&b, "  It is not shown again: keep it where secrets are kept. To use it:\n"+
			"  %s --remote wss://HOST:PORT --remote-auth-token-env TOKEN\n", command)
	}
	if made.ExpiresAt.IsZero() {
		fmt.Fprintf(&b, "warning: it never expires; end it with `towline token revoke %s`\n", made.Name)
	}
	if made.Role == protocol.RoleAdmin {
		b.WriteString("warning: an admin can do on this host all that you can, and make more tokens\n")
	}
	for _, w := range made.Scope {
		if dir, ok := strings.CutPrefix(w, "project:"); ok {
			if st, err := os.Stat(dir); err != nil || !st.IsDir() {
				fmt.Fprintf(&b, "warning: there is no folder %s here\n", printable(dir))
			}
		}
	}
	_, err = io.WriteString(cmd.ErrOrStderr(), b.String())
	return err
}

func newTokenRotate() *cobra.Command {
	var p token.RotateParams
	var asJSON bool
	c := &cobra.Command{
		Use:   "rotate TOKEN",
		Short: "Give a token a new secret and print it, this once",
		Long: "rotate keeps the token with its id, its name and what it has started, and gives\n" +
			"it a new secret. The old one stops to count at once, or after --overlap: time to\n" +
			"bring the new one to where it is used. Connections made with it end then, too.",
		Example: "  TOKEN=$(towline token rotate ci --overlap 1h)\n" +
			"  towline token rotate ci --expires 30d --json",
		Args: oneToken,
		RunE: func(cmd *cobra.Command, args []string) error {
			p.ID = args[0]
			var made token.Created
			if err := tokenCall(cmd.Context(), protocol.ExtTokenRotate, p, &made); err != nil {
				return err
			}
			old := "  The old secret counts no more.\n"
			if len(made.Secrets) > 1 && made.Secrets[1].State == token.SecretOverlap {
				old = fmt.Sprintf("  The old secret counts until %s.\n", made.Secrets[1].EndsAt.Format(time.RFC3339))
			}
			return showSecret(cmd, made, asJSON, old)
		},
	}
	f := c.Flags()
	f.StringVar(&p.Overlap, "overlap", "", "how long the old secret still counts, as 1h (default not at all)")
	f.StringVar(&p.Lifetime, "expires", "", "how long the token counts from now on, as 30d (default unchanged)")
	f.BoolVar(&asJSON, "json", false, "print one JSON object, the token in its member secret")
	return c
}

func newTokenRevoke() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "revoke TOKEN",
		Short: "End a token and the connections made with it",
		Long: "revoke ends a token for good. Who is connected with it is cut off within a\n" +
			"second. Turns that it began go on, and so do tokens that it made: stop those in\n" +
			"the UI, and revoke these too. It stays in the list for 90 days.",
		Example: "  towline token revoke ci\n  towline token revoke 3k9 --json",
		Args:    oneToken,
		RunE: func(cmd *cobra.Command, args []string) error {
			began := time.Now()
			var t token.Token
			if err := tokenCall(cmd.Context(), protocol.ExtTokenRevoke, token.IDParams{ID: args[0]}, &t); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), t)
			}
			text := "token %s (%s) is revoked\n"
			if t.RevokedAt.Before(began.Add(-time.Second)) {
				text = "token %s (%s) was revoked already, at " + t.RevokedAt.Format(time.RFC3339) + "\n"
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), text, printable(t.Name), printable(t.ID))
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func newTokenPolicy() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "policy",
		Short: "Say what the owner of this machine allows tokens to be",
		Long: "policy lists the rules of [tokens] in /etc/towline/requirements.toml, which only\n" +
			"an administrator of the machine can write. docs/tokens.md explains each.",
		Example: "  towline token policy",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := managed.Load(managed.Options{})
			if err != nil {
				return err
			}
			lines := p.TokenLines()
			if asJSON {
				return printJSON(cmd.OutOrStdout(), struct {
					Rules []managed.Line `json:"rules"`
				}{lines})
			}
			var b strings.Builder
			for _, l := range lines {
				fmt.Fprintf(&b, "%s = %s\n  set by %s\n", l.Key, printable(l.Value), printable(l.From))
			}
			if len(lines) == 0 {
				b.WriteString("nothing limits access tokens on this machine\n")
			}
			_, err = io.WriteString(cmd.OutOrStdout(), b.String())
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
