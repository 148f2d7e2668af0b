package main

import "github.com/spf13/cobra"

func newCredentials() *cobra.Command {
	c := &cobra.Command{
		Use:     "credentials",
		Short:   "Look at this machine's or a host's credentials, or bring one to a host",
		Long:    "Credentials lie where Codex keeps them, so that both programs share one login.",
		Example: "  towline credentials status\n  towline credentials status dev-server",
	}
	c.AddCommand(credentialsStatusCommand())
	return c
}
