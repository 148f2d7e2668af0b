package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/tui"
	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher"
)

func newDoctor() *cobra.Command {
	var o hostOptions
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor [HOST]",
		Short: "Explain every stage of a connection, or check this machine",
		Long: "doctor walks the stages of a connection to HOST one by one: each with its time,\n" +
			"what was found, and, where something is wrong, the cause and what to type next.\n" +
			"It goes on where it can, and also looks at the host's clock, disk, sandbox,\n" +
			"proxies, login ports and lingering. It installs nothing, but starts there what a\n" +
			"connection would start.\n\n" +
			"Without HOST it checks this machine. The exit status is not 0 if anything is broken.",
		Example: "  towline doctor\n  towline doctor dev-server\n  towline doctor dev-server --json | jq '.findings[] | select(.status == \"failed\")'",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			d := &diagnosisPrinter{out: out, json: asJSON}
			if len(args) == 0 {
				return d.finish(checkMachine(cmd.Context(), d.tell))
			}
			lc, err := o.launcher(args[0], cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if !asJSON { // a script answers nothing
				lc.Ask = person{tui.NewPlainAsker(tui.PlainOptions{Out: cmd.ErrOrStderr()})}
			}
			return d.finish(launcher.Diagnose(cmd.Context(), lc, d.tell))
		},
	}
	o.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

// diagnosisPrinter shows findings as they are made.
type diagnosisPrinter struct {
	out  io.Writer
	json bool

	mu    sync.Mutex // guards what follows
	stage string
}

// marks of findings: never by colour alone.
var marks = map[string]string{
	launcher.FindingOK: "✔", launcher.FindingNote: "!", launcher.FindingFailed: "✘", launcher.FindingSkipped: "–",
}

func (d *diagnosisPrinter) tell(f launcher.Finding) {
	if d.json {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	stage := f.Stage
	if stage == d.stage {
		stage = ""
	}
	d.stage = f.Stage
	line := fmt.Sprintf("%s %-13s %-14s %s", marks[f.Status], stage, f.Name, f.Text)
	if took := seconds(f.Took); took != "" {
		line = pad(line, 68) + "  " + took
	}
	fmt.Fprintln(d.out, strings.TrimRight(line, " "))
	const under = "                               "
	if f.Cause != "" {
		fmt.Fprintln(d.out, under+"because "+f.Cause)
	}
	for _, n := range f.Next {
		fmt.Fprintln(d.out, under+"next: "+n)
	}
}

// finish prints the end, and makes it the command's result.
func (d *diagnosisPrinter) finish(r launcher.Diagnosis) error {
	var first *launcher.Finding
	broken := 0
	for i, f := range r.Findings {
		if f.Status == launcher.FindingFailed {
			if broken++; first == nil {
				first = &r.Findings[i]
			}
		}
	}
	if d.json {
		e := json.NewEncoder(d.out)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return err
		}
	} else if broken == 0 {
		fmt.Fprintf(d.out, "\nnothing is broken (%.1f s)\n", r.Took.Seconds())
	}
	if broken == 0 {
		return nil
	}
	exit := config.ExitFailure
	if r.Host != "" {
		exit = config.ExitUnavailable
	}
	what := first.Stage
	if r.Host == "" {
		what = first.Name
	}
	err := fmt.Errorf("something is broken: %s", what)
	if broken > 1 {
		err = fmt.Errorf("%d things are broken, first %s", broken, what)
	}
	return &config.Problem{Stage: "doctor", Err: err, Hints: first.Next, Exit: exit}
}

// checkThrough is `hosts --check`: as far as what is there, asking nobody.
func checkThrough(ctx context.Context, o sshconfig.Options, alias string, h config.Host) hostCheck {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	c := launcher.Check(ctx, launcher.Config{
		Host: alias, Transport: h.Transport, SSH: o, Version: version(), Pin: h.Towline, InstallDir: h.InstallDir,
	})
	err := c.Err
	out := hostCheck{Reachable: err == nil, TookMS: c.Took.Milliseconds()}
	if err != nil {
		out.Hints = config.Hints(err)
		var p *config.Problem
		if errors.As(err, &p) {
			out.Stage, err = p.Stage, p.Err
		}
		out.Error = printable(err.Error())
		return out
	}
	switch {
	case c.Kind == "":
		out.Found = "neither towline nor codex"
	case c.Running:
		out.Found = strings.TrimSpace(c.Kind+" "+c.Version) + ", running"
	default:
		out.Found = strings.TrimSpace(c.Kind + " " + c.Version)
	}
	return out
}

// checkTimeout bounds a look at one host: several are looked at, and nobody
// waits longer for a dead one than for the others.
const checkTimeout = 25 * time.Second
