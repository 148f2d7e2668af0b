package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"towline/appserver/account"
	"towline/config"
)

func newLogout() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "End this machine's login and remove it",
		Long: "logout ends the login with its issuer, as far as that can be reached, and removes it\n" +
			"from every place on this machine. Codex is logged out as well: they share one login.",
		Example: "  towline logout",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, m, err := openAccount(slog.New(slog.DiscardHandler), os.Stderr)
			if err != nil {
				return err
			}
			defer m.Close()
			removed, err := m.Logout(cmd.Context())
			errOut := cmd.ErrOrStderr()
			if err != nil && !(removed && errors.Is(err, account.ErrNotRevoked)) {
				return err
			}
			if !removed {
				fmt.Fprintln(errOut, "Not logged in")
				return nil
			}
			fmt.Fprintln(errOut, "Successfully logged out")
			if err != nil {
				fmt.Fprintf(errOut, "warning: %s\n", printable(err.Error()))
				for _, h := range config.Hints(err) {
					fmt.Fprintf(errOut, "hint: %s\n", h)
				}
			}
			if os.Getenv("CODEX_ACCESS_TOKEN") != "" {
				fmt.Fprintln(errOut, "note: CODEX_ACCESS_TOKEN is still set, and is used while it is")
			}
			return nil
		},
	}
}
