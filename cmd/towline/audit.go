package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"towline/appserver/audit"
	"towline/config"
)

func newAudit() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "The log of who did what", Example: "  towline audit verify"}
	c.AddCommand(&cobra.Command{
		Use:     "verify",
		Short:   "Check that no entry was changed or removed",
		Example: "  towline audit verify",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, _, err := setup()
			if err != nil {
				return err
			}
			r, err := audit.Verify(paths.Audit())
			if err != nil {
				return &config.Problem{Stage: "audit", Err: err}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d entries, the chain is whole\n", paths.Audit(), r.Entries)
			return err
		},
	})
	return c
}
