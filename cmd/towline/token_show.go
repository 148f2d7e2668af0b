package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/access/token"
	"towline/appserver/protocol"
	"towline/config"
)

func newTokenList() *cobra.Command {
	var asJSON, live bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the tokens, what they may do and when they were used",
		Long:    "list shows the tokens of this host, the latest first. Those that were revoked or\nhave expired stay in it for 90 days.",
		Example: "  towline token list\n  towline token list --json | jq -r '.data[] | select(.uses == 0).name'",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list token.List
			if err := tokenCall(cmd.Context(), protocol.ExtTokenList, struct{}{}, &list); err != nil {
				return err
			}
			if live {
				kept := []token.Token{}
				for _, t := range list.Data {
					if t.State == token.StateLive {
						kept = append(kept, t)
					}
				}
				list.Data = kept
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return writeTokens(cmd.OutOrStdout(), list.Data, time.Now())
		},
	}
	c.Flags().BoolVar(&live, "live", false, "only those that count")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

// writeTokens writes two lines a token, and one for each thing to be aware of.
func writeTokens(w io.Writer, list []token.Token, now time.Time) error {
	var b strings.Builder
	for _, t := range list {
		fmt.Fprintf(&b, "%s  %s\n", pad(printable(t.Name), 14), fit(rights(t), 62))
		fmt.Fprintf(&b, "  %s    %s; %s\n", printable(t.ID), ends(t, now), used(t, now))
		for _, note := range notes(t) {
			for i, l := range folded(note, 74) {
				fmt.Fprintf(&b, "  %s %s\n", first([]string{"!", " "}[min(i, 1):]), l)
			}
		}
	}
	if len(list) == 0 {
		b.WriteString("no tokens; make one with `towline token create --name NAME`\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// folded is text in lines of at most n columns, where its words allow.
func folded(text string, n int) (lines []string) {
	line := ""
	for _, w := range strings.Fields(printable(text)) {
		if line != "" && len([]rune(line))+1+len([]rune(w)) > n {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+w, " ")
	}
	return append(lines, line)
}

// fit cuts what is longer than n columns.
func fit(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// rights is what a token may do, from where.
func rights(t token.Token) string {
	s := t.Role.String() + ", " + printable(strings.Join(t.Scope, " "))
	if len(t.Networks) > 0 {
		s += ", from " + printable(strings.Join(t.Networks, " "))
	}
	return s
}

// ends is whether and how long a token counts.
func ends(t token.Token, now time.Time) string {
	switch {
	case t.State == token.StateRevoked:
		return "revoked " + ago(t.RevokedAt, now)
	case t.State == token.StateExpired:
		return "expired " + ago(t.ExpiresAt, now)
	case t.State == token.StateRefused:
		return "refused by a policy"
	case t.ExpiresAt.IsZero():
		return "never expires"
	}
	return "expires in " + ahead(t.ExpiresAt, now)
}

// ahead is the time until at, to the nearest of what it is told in.
func ahead(at, now time.Time) string {
	d := at.Sub(now)
	switch {
	case d >= 48*time.Hour:
		d = d.Round(24 * time.Hour)
	case d >= 2*time.Hour:
		d = d.Round(time.Hour)
	}
	return span(d)
}

// used is when and how often a token was.
func used(t token.Token, now time.Time) string {
	if t.Uses == 0 {
		return "never used"
	}
	from := ""
	if t.LastUsedFrom != "" {
		from = ", from " + printable(t.LastUsedFrom)
	}
	times := fmt.Sprintf("%d times", t.Uses)
	if t.Uses == 1 {
		times = "once"
	}
	return "used " + times + ", " + ago(t.LastUsedAt, now) + from
}

func ago(at, now time.Time) string {
	if d := now.Sub(at); d >= time.Minute {
		return span(d) + " ago"
	}
	return "just now"
}

func notes(t token.Token) []string {
	if t.Refused != "" {
		return append([]string{t.Refused}, t.Warnings...)
	}
	return t.Warnings
}

func newTokenShow() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "show TOKEN",
		Short:   "Show one token, with its secrets' use and who made it",
		Long:    "show takes a name, an id or the beginning of one. It cannot show the token itself,\nwhich is stored nowhere.",
		Example: "  towline token show ci\n  towline token show 3k9 --json",
		Args:    oneToken,
		RunE: func(cmd *cobra.Command, args []string) error {
			var t token.Shown
			if err := tokenCall(cmd.Context(), protocol.ExtTokenShow, token.ShowParams{ID: args[0]}, &t); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), t)
			}
			return printToken(cmd.OutOrStdout(), t.Token, time.Now())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func printToken(w io.Writer, t token.Token, now time.Time) error {
	var b strings.Builder
	line := func(k, v string) { fmt.Fprintf(&b, "  %-10s %s\n", k, printable(v)) }
	when := func(at time.Time) string { return at.Format(time.RFC3339) }
	fmt.Fprintf(&b, "token %s: %s\n", printable(t.Name), t.State)
	line("id", t.ID)
	line("role", t.Role.String())
	for i, s := range t.Scope {
		line(first([]string{"scope", ""}[min(i, 1):]), s)
	}
	if len(t.Networks) == 0 {
		line("from", "anywhere")
	}
	for i, n := range t.Networks {
		line(first([]string{"from", ""}[min(i, 1):]), n)
	}
	line("created", when(t.CreatedAt)+" by "+actor(t.CreatedBy))
	switch {
	case t.RevokedBy != nil:
		line("revoked", when(t.RevokedAt)+" by "+actor(*t.RevokedBy))
	case t.ExpiresAt.IsZero():
		line("expires", "never")
	case t.State == token.StateExpired:
		line("expired", when(t.ExpiresAt))
	default:
		line("expires", when(t.ExpiresAt)+", in "+ahead(t.ExpiresAt, now))
	}
	if !t.RotateBy.IsZero() {
		line("rotate by", when(t.RotateBy)+", in "+ahead(t.RotateBy, now))
	}
	line("used", strings.TrimSuffix(strings.TrimPrefix(used(t, now), "used "), " used"))
	for _, s := range t.Secrets {
		text := s.State + ", made " + when(s.CreatedAt)
		switch {
		case s.State == token.SecretOverlap:
			text = "old, counts until " + when(s.EndsAt)
		case s.State == token.SecretEnded:
			text = "old, ended " + when(s.EndsAt)
		}
		line(fmt.Sprintf("secret %d", s.N), fmt.Sprintf("%s, used %d×", text, s.Uses))
	}
	for _, n := range notes(t) {
		for i, l := range folded(n, 66) {
			line(first([]string{"warning", ""}[min(i, 1):]), l)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func actor(a token.Actor) string {
	if a.Name == "" {
		return config.OneLine(a.Kind + " " + a.ID)
	}
	return config.OneLine(a.Name + " (" + a.Kind + ")")
}
