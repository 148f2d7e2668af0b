package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"towline/appserver/protocol"
	runs "towline/appserver/run"
	"towline/config"
)

// execOptions are the flags of exec, resume and fork.
type execOptions struct {
	execPlace
	json, skipGit, ephemeral, detach bool
	bypass, last, all                bool
	resume, cd, model, sandbox       string
	approval, color, output, schema  string
	source                           string
	images, set, enable, disable     []string
	writable                         []string
	timeout                          time.Duration
	approvalTimeout                  time.Duration
	fork, quiet                      bool // quiet: no events, the result alone
	in                               *os.File
	out, errOut                      io.Writer
}

func newExec() *cobra.Command {
	var o execOptions
	c := &cobra.Command{
		Use:   "exec [PROMPT|-]",
		Short: "One turn without a screen: for scripts and pipelines",
		Long: "exec gives the agent a prompt, waits until it is done, and ends with a status\n" +
			"that says how (`towline help exit-codes`). It works on this machine's daemon, or\n" +
			"as one of its own when none runs; on a host of your ssh configuration with\n" +
			"--host; on any app-server with --remote. The last message goes to standard\n" +
			"output, progress to standard error.\n\n" +
			"The prompt is an argument, or standard input where there is none or it is \"-\".\n" +
			"With a prompt, what comes on standard input is added as context.\n\n" +
			"With --json the output is what `codex exec --json` prints, one event a line, and\n" +
			"a last line of its own with the whole result: {\"type\":\"result\",…}. docs/ci.md\n" +
			"explains its members and shows pipelines.\n\n" +
			"Unless --approval says otherwise nobody is asked anything, as with codex exec:\n" +
			"what the sandbox does not allow is not done. A run can be watched, and approved,\n" +
			"in the UI meanwhile.",
		Example: "  towline exec \"explain the failing test\" < test.log\n" +
			"  towline exec --json --sandbox workspace-write \"fix it\" | tee run.jsonl\n" +
			"  towline exec --host dev-server -C ~/src/shop --timeout 20m \"update the docs\"\n" +
			"  towline exec --remote wss://agent.example:4500 --remote-auth-token-env TOWLINE_TOKEN \"…\"\n" +
			"  towline exec resume --last \"and now the changelog\"\n" +
			"  id=$(towline exec --detach \"a long job\"); towline wait \"$id\"",
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return runExec(cmd, &o, args) },
	}
	o.flags(c.PersistentFlags())
	f := c.Flags()
	f.StringVar(&o.resume, "resume", "", "go on with the thread of this `ID` or name")
	f.BoolVar(&o.last, "last", false, "go on with the newest thread of this folder")
	c.AddCommand(newExecResume(&o), newExecFork(&o), newExecReview())
	return c
}

// flags have Codex's spellings where codex exec has them.
func (o *execOptions) flags(f *pflag.FlagSet) {
	o.execPlace.flags(f)
	f.BoolVar(&o.json, "json", false, "print events as JSON, one a line, and a result record last")
	f.StringVarP(&o.output, "output-last-message", "o", "", "write the last message to `FILE`")
	f.StringVar(&o.schema, "output-schema", "", "`FILE` with a JSON schema that the last message shall have")
	f.StringVarP(&o.cd, "cd", "C", "", "`DIR` to work in (default: here; there, the server's)")
	f.StringVarP(&o.sandbox, "sandbox", "s", "", "`MODE`: read-only, workspace-write or danger-full-access (default: the server's)")
	f.StringVar(&o.approval, "approval", protocol.ApproveNever, "`POLICY` of asking people: never, on-request or untrusted")
	f.DurationVar(&o.approvalTimeout, "approval-timeout", -1, "how long a question may wait for an answer; 0 is not at all (default: until --timeout)")
	f.StringVarP(&o.model, "model", "m", "", "the `MODEL` to use")
	f.StringSliceVarP(&o.images, "image", "i", nil, "add the image in `FILE` to the prompt (repeatable)")
	f.StringArrayVarP(&o.set, "config", "c", nil, "set `KEY=VALUE` of the configuration, the value as TOML (repeatable)")
	f.StringArrayVar(&o.enable, "enable", nil, "enable a `FEATURE`: -c features.FEATURE=true (repeatable)")
	f.StringArrayVar(&o.disable, "disable", nil, "disable a `FEATURE` (repeatable)")
	f.StringArrayVar(&o.writable, "add-dir", nil, "`DIR` that may be written as well as the working one (repeatable)")
	f.BoolVar(&o.bypass, "dangerously-bypass-approvals-and-sandbox", false, "no questions and no sandbox: for machines that are one")
	f.BoolVar(&o.skipGit, "skip-git-repo-check", false, "work in a folder that is in no git repository")
	f.BoolVar(&o.ephemeral, "ephemeral", false, "keep no history of the thread")
	f.StringVar(&o.source, "thread-source", "", "what a new thread is said to come from")
	f.DurationVar(&o.timeout, "timeout", 0, "give up, and interrupt the turn, after this long")
	f.BoolVar(&o.detach, "detach", false, "print the thread's id once the turn has begun, and leave it")
	f.StringVar(&o.color, "color", "auto", "colours of progress: auto, always or never")
	for flag, alias := range map[string][]string{
		"json": {"experimental-json"}, "dangerously-bypass-approvals-and-sandbox": {"yolo"}, "approval": {"ask-for-approval"},
	} {
		for _, name := range alias { // older spellings of Codex's
			was := f.Lookup(flag)
			same := *was
			same.Name, same.Shorthand, same.Hidden = name, "", true
			f.AddFlag(&same)
		}
	}
}

func newExecResume(o *execOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "resume [ID|NAME] [PROMPT|-]",
		Short: "Go on with a thread",
		Example: "  towline exec resume --last \"and now the tests\"\n" +
			"  towline exec resume 0199c3f2-7f3a-7000-8000-000000000000 --json -",
		Args: usage(cobra.MaximumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !o.last {
				if len(args) == 0 {
					return o.fail(cmd, wrongUse("exec", "which thread?", "name it, or take the newest with --last"))
				}
				o.resume, args = args[0], args[1:]
			} else if len(args) == 2 {
				return o.fail(cmd, wrongUse("exec", "--last names the thread already", "leave the id out, or --last"))
			}
			return runExec(cmd, o, args)
		},
	}
	c.Flags().BoolVar(&o.last, "last", false, "the newest one that worked in this folder")
	c.Flags().BoolVar(&o.all, "all", false, "with --last, whatever folder it worked in")
	return c
}

func newExecFork(o *execOptions) *cobra.Command {
	return &cobra.Command{
		Use:     "fork ID|NAME [PROMPT|-]",
		Short:   "Go on with a copy of a thread",
		Example: "  towline exec fork 0199c3f2-7f3a-7000-8000-000000000000 \"try it another way\"",
		Args:    usage(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.resume, o.fork = args[0], true
			return runExec(cmd, o, args[1:])
		},
	}
}

// newExecReview keeps a script that means Codex's command from asking an agent the
// single word "review".
func newExecReview() *cobra.Command {
	return &cobra.Command{
		Use: "review", Hidden: true, DisableFlagParsing: true,
		Short:   "What codex exec has, and this has not",
		Example: "  towline exec \"review the changes since main\"",
		RunE: func(*cobra.Command, []string) error {
			return wrongUse("exec", "there is no `exec review` here", "ask for it: `towline exec \"review the uncommitted changes\"`")
		},
	}
}

// fail says an error that came before there was a run, with --json as a result too.
func (o *execOptions) fail(cmd *cobra.Command, err error) error {
	if o.json && err != nil {
		line, _ := runs.Encode(runs.NotStarted(err)) // strings and numbers
		_, _ = cmd.OutOrStdout().Write(line)         // the error itself is still told
	}
	return err
}

func runExec(cmd *cobra.Command, o *execOptions, args []string) error {
	o.in, o.out, o.errOut = os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr()
	ctx := cmd.Context()
	if o.timeout > 0 { // it is about all of it: the prompt may come slowly, too
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.timeout, runs.ErrTimeout)
		defer cancel()
	}
	req, err := o.request(ctx, args)
	if err != nil {
		return o.fail(cmd, timely(ctx, err, o.timeout))
	}
	var keep *lastMessage
	if o.output != "" {
		if keep, err = openLastMessage(o.output); err != nil {
			return o.fail(cmd, err)
		}
	}
	server, err := o.open(ctx, o.errOut, req.Cwd, o.detach)
	if err != nil {
		return o.fail(cmd, timely(ctx, err, o.timeout))
	}
	if req.Cwd, err = server.folder(o.cd, req.Cwd); err != nil {
		server.close(ctx, false)
		return o.fail(cmd, err)
	}
	err = o.drive(ctx, server, func(ctx context.Context, r *runs.Runner) (*runs.Result, error) { return r.Run(ctx, req) }, keep)
	server.close(ctx, config.ExitCode(err) < config.ExitApproval)
	return err
}

// timely is err, or what a context's end means.
func timely(ctx context.Context, err error, limit time.Duration) error {
	switch {
	case errors.Is(context.Cause(ctx), runs.ErrTimeout):
		return &config.Problem{Stage: "timeout", Err: fmt.Errorf("nothing had begun after %v", limit), Exit: config.ExitTimeout}
	case ctx.Err() != nil:
		return &config.Problem{Stage: "interrupted", Err: errors.New("stopped by a signal"), Exit: config.ExitInterrupted}
	}
	return err
}

// errNobodyReads is the cause of a run's end when its output cannot be written.
var errNobodyReads = errors.New("standard output cannot be written to")

// drive runs something and says what happens, and at the end how it was.
func (o *execOptions) drive(ctx context.Context, server execServer, work func(context.Context, *runs.Runner) (*runs.Result, error), keep *lastMessage) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	voice := newExecVoice(o, func(err error) { cancel(fmt.Errorf("%w: %w", errNobodyReads, err)) })
	r := runs.New(runs.Config{
		Dial: server.dial, Version: version(), Target: server.target, Event: voice.event, Note: voice.note,
	})
	res, err := work(ctx, r)
	if cause := context.Cause(ctx); errors.Is(cause, errNobodyReads) {
		err = &config.Problem{Stage: "output", Err: cause, Hints: []string{"the turn was interrupted; keep the whole output with `> FILE` or `| tee FILE`"}}
		res.ExitCode = config.ExitFailure
	}
	if err == nil && keep != nil {
		if werr := keep.write(res.Message); werr != nil {
			err = werr
			res.ExitCode = config.ExitCode(err)
		}
	}
	if werr := voice.result(ctx, res); werr != nil && err == nil {
		err = &config.Problem{Stage: "output", Err: fmt.Errorf("%w: %w", errNobodyReads, werr)}
	}
	return err
}

// request is what the flags and the input ask for, checked.
func (o *execOptions) request(ctx context.Context, args []string) (runs.Request, error) {
	req := runs.Request{
		Resume: o.resume, Last: o.last, All: o.all, Fork: o.fork, Model: o.model, Sandbox: o.sandbox, Approval: o.approval,
		Ephemeral: o.ephemeral, ThreadSource: o.source, Detach: o.detach, ApprovalTimeout: o.approvalTimeout, Timeout: o.timeout,
	}
	if err := o.check(); err != nil {
		return req, err
	}
	if o.bypass {
		req.Sandbox, req.Approval = protocol.SandboxFullAccess, protocol.ApproveNever
	}
	var err error
	if o.here() {
		if req.Cwd, err = workFolder(o.cd, o.skipGit || o.bypass); err != nil {
			return req, err
		}
	}
	if req.Settings, err = o.settings(); err != nil {
		return req, err
	}
	if o.schema != "" {
		if req.OutputSchema, err = readSchema(o.schema); err != nil {
			return req, err
		}
	}
	images, err := o.pictures()
	if err != nil {
		return req, err
	}
	prompt, err := o.prompt(ctx, args)
	if err != nil {
		return req, err
	}
	req.Input = append(images, protocol.Text(prompt))
	return req, nil
}

// check holds the flags against each other.
func (o *execOptions) check() error {
	wrong := func(text, hint string) error { return wrongUse("exec", text, hint) }
	one := func(flag, value string, of ...string) error {
		for _, v := range of {
			if value == v {
				return nil
			}
		}
		return wrong(fmt.Sprintf("--%s is %q", flag, printable(value)), "say one of "+strings.Join(of, ", "))
	}
	if err := o.execPlace.check(); err != nil {
		return err
	}
	if o.sandbox != "" {
		if err := one("sandbox", o.sandbox, protocol.SandboxReadOnly, protocol.SandboxWorkspaceWrite, protocol.SandboxFullAccess); err != nil {
			return err
		}
	}
	if err := one("approval", o.approval, protocol.ApproveNever, protocol.ApproveOnRequest, protocol.ApproveUntrusted); err != nil {
		return err
	}
	if err := one("color", o.color, "auto", "always", "never"); err != nil {
		return err
	}
	switch {
	case o.bypass && o.sandbox != "":
		return wrong("--dangerously-bypass-approvals-and-sandbox leaves no sandbox to choose", "leave one of them out")
	case o.resume != "" && o.last:
		return wrong("--resume and --last both name a thread", "leave one of them out")
	case o.detach && o.output != "":
		return wrong("with --detach there is no last message to write yet", "use `towline wait ID -o FILE`")
	case o.detach && o.approvalTimeout >= 0:
		return wrong("with --detach nobody is there to give a question up", "leave --approval-timeout out")
	case o.timeout < 0:
		return wrong("--timeout is less than nothing", "say how long, as in `--timeout 20m`")
	}
	return nil
}
