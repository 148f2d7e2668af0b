package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"towline/config"
)

func newRoot() *cobra.Command {
	var o connectOptions
	var at remoteFlags
	root := &cobra.Command{
		Use:   "towline [HOST]",
		Short: "Leave a coding agent at work on a machine, reach it from any other",
		Long: "Towline keeps a Codex app-server on this machine and opens it: `ssh` lands\n" +
			"straight in its UI, several devices share one live session, and a dropped\n" +
			"link loses nothing.",
		Example: "  towline try                          a host to look around in, offline\n" +
			"  towline serve                        run the host on this machine\n" +
			"  ssh -p 2222 dev-server               its UI, from anywhere\n" +
			"  towline dev-server                   work on a host of your ssh configuration\n" +
			"  towline attach                       the same UI, on this machine\n" +
			"  towline --remote wss://dev:4500 --remote-auth-token-env TOKEN\n" +
			"                                       the same UI on any app-server\n" +
			"  codex --remote ws://127.0.0.1:4500   a stock client, after `serve --listen`",
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := at.check(cmd.Flags()); err != nil {
				return err
			}
			if at.given() {
				if err := onlyHosts(cmd); err != nil {
					return err
				}
				return runRemote(cmd, &at, args, o.fresh)
			}
			if len(args) == 0 {
				return cmd.Help()
			}
			if err := meant(cmd, args[0], o.sshConfig); err != nil {
				return err
			}
			return runConnect(cmd, &o, args[0])
		},
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	o.flags(root)
	at.flags(root.Flags())
	root.SuggestionsMinimumDistance = 2
	root.AddCommand(newConnect(), newBridge(), newDoctor(), newDetach(), newServe(), newAppServer(), newAttach(), newExec(), newWait(), newStatus(), newTry(), newAudit(), newApprovals(), newHosts(checkThrough), newLogin(), newLogout(), newCredentials(), newToken(), newRemoteControl(), newService(), newSupervise(), newVersion(), newAskpass(), helpConfig(), helpExitCodes())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &config.Problem{Err: err, Hints: []string{"see `" + cmd.CommandPath() + " --help`"}, Exit: config.ExitUsage}
	})
	return root
}

// usage wraps an argument check so that a wrong command line exits with
// ExitUsage and says where to look.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			p := &config.Problem{Err: miscounted(check, cmd, args, err), Exit: config.ExitUsage}
			if near := cmd.SuggestionsFor(first(args)); !cmd.HasParent() && len(near) > 0 {
				p.Hints = []string{"did you mean `" + cmd.Name() + " " + near[0] + "`?"}
			}
			p.Hints = append(p.Hints, "see `"+cmd.CommandPath()+" --help`")
			return p
		}
		return nil
	}
}

// miscounted says of err, which check has about args, which of them is too much
// or what is missing.
func miscounted(check cobra.PositionalArgs, cmd *cobra.Command, args []string, err error) error {
	for i := len(args) - 1; i >= 0; i-- {
		if check(cmd, args[:i]) == nil {
			return fmt.Errorf("%q is one word too many", args[i])
		}
	}
	if _, missing, ok := strings.Cut(cmd.Use, " "); ok && len(args) == 0 {
		return fmt.Errorf("%s is missing", missing)
	}
	return err
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// setup finds the paths and reads the configuration, as every command begins.
func setup() (config.Paths, config.Config, error) {
	paths, err := config.Locate(os.Getenv)
	if err != nil {
		return config.Paths{}, config.Config{}, err
	}
	cfg, err := config.Load(paths)
	return paths, cfg, err
}

func helpConfig() *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "The configuration file and its keys",
		Long: "config.toml is read from $TOWLINE_HOME, or from $XDG_CONFIG_HOME/towline\n" +
			"(~/.config/towline) when that is not set. Unknown keys are errors.\n" +
			"docs/configuration.md explains each key; these exist:\n\n  " + strings.Join(config.Keys(), "\n  "),
	}
}

func helpExitCodes() *cobra.Command {
	var b strings.Builder
	for _, r := range []struct {
		code int
		text string
	}{
		{config.ExitOK, "done"},
		{config.ExitFailure, "what was asked for did not work"},
		{config.ExitUsage, "the command line makes no sense"},
		{config.ExitConfig, "a configuration or state file is wrong, or open to others"},
		{config.ExitUnavailable, "the daemon or the engine is not there"},
		{config.ExitDenied, "your role, a rule or a person does not allow it"},
		{config.ExitApproval, "an approval was needed, and nobody gave it"},
		{config.ExitLost, "the connection was lost; a turn that ran may go on"},
		{config.ExitTimeout, "the time given with --timeout was over, as timeout(1) says it"},
		{config.ExitInterrupted, "interrupted"},
	} {
		fmt.Fprintf(&b, "  %3d  %s\n", r.code, r.text)
	}
	return &cobra.Command{Use: "exit-codes", Short: "What each exit status means", Long: "Every towline command ends with one of\n\n" + b.String()}
}
