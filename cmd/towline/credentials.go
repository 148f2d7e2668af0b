package main

import "github.com/spf13/cobra"

func newCredentials() *cobra.Command {
	c := &cobra.Command{
		Use:   "credentials",
		Short: "Look at this machine's or a host's credentials, or bring one to a host",
		Long: "Credentials lie where Codex keeps them, so that both programs share one login. A\n" +
			"key or an access token is put on a host. A ChatGPT login is not copied, because\n" +
			"its refresh token is spent by whoever uses it first, and the others lose it: it\n" +
			"is made on the host, moved there, or lent.",
		Example: "  towline credentials status\n" +
			"  towline credentials status dev-server\n" +
			"  printenv OPENAI_API_KEY | towline credentials put dev-server --api-key\n" +
			"  towline credentials move dev-server",
	}
	c.AddCommand(credentialsStatusCommand(), newCredentialsPut(), newCredentialsMove(), newCredentialsReceive())
	return c
}
