package main

import (
	"os"

	"github.com/spf13/cobra"

	"towline/launcher/systemssh"
)

// newAskpass is what the system ssh runs to ask a question, while another
// towline runs that ssh. Its output is the answer, so it says nothing else.
func newAskpass() *cobra.Command {
	return &cobra.Command{
		Use:    systemssh.AskpassCommand + " PROMPT",
		Short:  "Pass a question of ssh's on to the towline that runs it",
		Hidden: true,
		Args:   usage(cobra.ExactArgs(1)),
		Run:    func(_ *cobra.Command, args []string) { os.Exit(systemssh.Askpass(args[0])) },
	}
}
