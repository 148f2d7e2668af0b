package main

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	runs "towline/appserver/run"
	"towline/config"
)

func newWait() *cobra.Command {
	var o execOptions
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait THREAD",
		Short: "Wait for a thread's turn, and say how it ended",
		Long: "wait follows the turn that runs in a thread to its end, and ends with the status\n" +
			"that `towline exec` would have ended with; when none runs, with that of the last\n" +
			"one. Its end, by --timeout or a signal, changes nothing for the turn.\n\n" +
			"With --json it prints the result record that exec prints last.",
		Example: "  id=$(towline exec --detach \"a long job\"); towline wait \"$id\"\n" +
			"  towline wait 0199c3f2-7f3a-7000-8000-000000000000 --json --timeout 30m\n" +
			"  towline wait 0199c3f2-7f3a-7000-8000-000000000000 --host dev-server",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.in, o.out, o.errOut, o.quiet = os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr(), true
			return runWait(cmd, &o, args[0], timeout)
		},
	}
	f := c.Flags()
	o.execPlace.flags(f)
	f.BoolVar(&o.json, "json", false, "print the result as one JSON object")
	f.StringVarP(&o.output, "output-last-message", "o", "", "write the last message to `FILE`")
	f.DurationVar(&timeout, "timeout", 0, "wait no longer than this")
	f.StringVar(&o.color, "color", "auto", "colours of progress: auto, always or never")
	return c
}

func runWait(cmd *cobra.Command, o *execOptions, thread string, timeout time.Duration) error {
	ctx := cmd.Context()
	if timeout > 0 { // it is about the connection as well
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, runs.ErrTimeout)
		defer cancel()
	}
	if err := o.execPlace.check(); err != nil {
		return o.fail(cmd, err)
	}
	var keep *lastMessage
	var err error
	if o.output != "" {
		if keep, err = openLastMessage(o.output); err != nil {
			return o.fail(cmd, err)
		}
	}
	server, err := o.open(ctx, o.errOut, "", false)
	if err != nil {
		return o.fail(cmd, timely(ctx, err, timeout))
	}
	err = o.drive(ctx, server, func(ctx context.Context, r *runs.Runner) (*runs.Result, error) { return r.Wait(ctx, thread, timeout) }, keep)
	server.close(ctx, config.ExitCode(err) < config.ExitApproval)
	return err
}
