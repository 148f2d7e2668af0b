package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"towline/appserver/audit"
	"towline/config"
	"towline/config/osfile"
)

func newAudit() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "The log of who did what",
		Long: "The audit log has an entry for everything that starts or changes work here:\n" +
			"who came and left, turns, approvals, refusals, tokens, logins. Entries are\n" +
			"chained by their hashes, so what was changed, removed or cut off is noticed.\n" +
			"docs/governance.md says what is in them and how the files are kept.",
		Example: "  towline audit tail -f\n" +
			"  towline audit verify\n" +
			"  towline audit export --since 2026-11-01 -o november.jsonl",
	}
	c.AddCommand(newAuditTail(), newAuditVerify(), newAuditExport())
	return c
}

// auditFilter are the flags that select entries.
type auditFilter struct {
	event, who, thread, since, until string
}

func (o *auditFilter) flags(f *pflag.FlagSet) {
	f.StringVar(&o.event, "event", "", "only this `EVENT`, or those that begin so: token.")
	f.StringVar(&o.who, "who", "", "only what this principal did, by `NAME` or id")
	f.StringVar(&o.thread, "thread", "", "only what is about the thread `ID`")
	f.StringVar(&o.since, "since", "", "only from `WHEN` on: 2026-11-22, 2026-11-22T15:04:05Z, or 90m ago as 90m")
	f.StringVar(&o.until, "until", "", "only before `WHEN`")
}

func (o *auditFilter) filter(now time.Time) (audit.Filter, error) {
	f := audit.Filter{Event: o.event, Who: o.who, Thread: o.thread}
	var err error
	if f.Since, err = when(o.since, now); err != nil {
		return f, wrongUse("audit", "--since: "+err.Error(), "write it as 2026-11-22 or as 90m")
	}
	if f.Until, err = when(o.until, now); err != nil {
		return f, wrongUse("audit", "--until: "+err.Error(), "write it as 2026-11-22 or as 90m")
	}
	return f, nil
}

// when reads a moment: a day, a time, or how long ago.
func when(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02T15:04:05", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time", printable(s))
}

func newAuditTail() *cobra.Command {
	var o auditFilter
	var follow, asJSON bool
	n := 20
	c := &cobra.Command{
		Use: "tail", Short: "Show the last entries, and those to come",
		Example: "  towline audit tail\n  towline audit tail -f --event 'approval answered'\n  towline audit tail -n 100 --who ci --json | jq .",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, _, err := setup()
			if err != nil {
				return err
			}
			f, err := o.filter(time.Now())
			if err != nil {
				return err
			}
			if n < 0 {
				return wrongUse("audit", "-n takes a number of entries", "0 shows only those to come")
			}
			return tailAudit(cmd.Context(), cmd.OutOrStdout(), paths.Audit(), f, min(n, maxTail), follow, asJSON)
		},
	}
	o.flags(c.Flags())
	c.Flags().IntVarP(&n, "lines", "n", n, "how `MANY` of the last entries")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with those to come, until interrupted")
	c.Flags().BoolVar(&asJSON, "json", false, "print the entries as the file has them, one a line")
	return c
}

// maxTail bounds how many entries are kept in memory.
const maxTail = 100_000

func tailAudit(ctx context.Context, out io.Writer, path string, f audit.Filter, n int, follow, asJSON bool) error {
	var last []audit.Entry
	var seen int64
	err := audit.Read(path, audit.Filter{}, func(e audit.Entry) error {
		seen = e.Seq
		if f.Takes(e) {
			if last = append(last, e); len(last) > n {
				last = last[1:]
			}
		}
		return nil
	})
	if err != nil {
		return auditProblem(err)
	}
	show := func(e audit.Entry) error { return printEntry(out, e, asJSON) }
	for _, e := range last {
		if err := show(e); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	if err := audit.Follow(ctx, path, f, seen, show); err != nil {
		return auditProblem(err)
	}
	return nil // interrupted, which is how it ends
}

func printEntry(out io.Writer, e audit.Entry, asJSON bool) error {
	if asJSON {
		_, err := out.Write(append(e.Raw, '\n'))
		return err
	}
	_, err := io.WriteString(out, entryLine(e)+"\n")
	return err
}

// entryLine is an entry for people: when, who, what.
func entryLine(e audit.Entry) string {
	who := e.Who.Name
	if who == "" {
		who = e.Who.ID
	}
	if e.Who.Kind == "" {
		who = "the host"
	} else if e.Who.Role != "" {
		who += " (" + e.Who.Role + ")"
	}
	parts := []string{e.At.Local().Format(time.DateTime), who, e.Event}
	for _, s := range []string{e.Decision, e.Method, e.Name} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if e.Thread != "" {
		parts = append(parts, "thread "+e.Thread)
	}
	if e.Via != "" {
		parts = append(parts, "by "+strings.TrimSpace(e.Via+" "+e.Remote))
	}
	return printable(strings.Join(parts, "  "))
}

func newAuditVerify() *cobra.Command {
	var asJSON bool
	var expect string
	c := &cobra.Command{
		Use: "verify", Short: "Check that no entry was changed, removed or cut off",
		Long: "verify follows the chain through all files. It prints the number and the hash\n" +
			"of the last entry: kept elsewhere, they show later, with --expect, that nothing\n" +
			"up to there was touched, not even by somebody who could write the whole log anew.",
		Example: "  towline audit verify\n  towline audit verify --expect 1042:9f2c…",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, _, err := setup()
			if err != nil {
				return err
			}
			return verifyAudit(cmd.OutOrStdout(), paths.Audit(), expect, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	c.Flags().StringVar(&expect, "expect", "", "`NUMBER:HASH` that an earlier verify printed")
	return c
}

func verifyAudit(out io.Writer, path, expect string, asJSON bool) error {
	r, err := audit.Verify(path)
	if err == nil && expect != "" {
		err = expected(path, expect)
	}
	if asJSON {
		v := struct {
			Whole bool `json:"whole"`
			audit.Report
			Problem string `json:"problem,omitempty"`
		}{Whole: err == nil, Report: r}
		if err != nil {
			v.Problem = err.Error()
		}
		if perr := printJSON(out, v); perr != nil {
			return perr
		}
	}
	if err != nil {
		return auditProblem(err)
	}
	if asJSON {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d entries, the chain is whole\n", path, r.Entries)
	if n := len(r.Files); n > 1 {
		fmt.Fprintf(&b, "  files   %d\n", n)
	}
	if r.First > 1 {
		fmt.Fprintf(&b, "  begins  at entry %d: older files were deleted, as configured\n", r.First)
	}
	if r.Lost > 0 {
		fmt.Fprintf(&b, "  lost    %d entries could not be written, and the log says so\n", r.Lost)
	}
	if r.Entries > 0 {
		fmt.Fprintf(&b, "  ends    %d:%s\n", r.Last, r.Hash)
	}
	_, err = io.WriteString(out, b.String())
	return err
}

// expected holds an end that was known earlier against the log.
func expected(path, expect string) error {
	number, hash, ok := strings.Cut(expect, ":")
	seq, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || seq < 1 || len(hash) != 64 {
		return wrongUse("audit", "--expect takes what verify prints: NUMBER:HASH", "see the line `ends` of `towline audit verify`")
	}
	found := errors.New("found")
	err = audit.Read(path, audit.Filter{}, func(e audit.Entry) error {
		switch {
		case e.Seq != seq:
			return nil
		case !strings.HasSuffix(string(e.Raw), `"hash":"`+strings.ToLower(hash)+`"}`):
			return fmt.Errorf("entry %d is another one than then: the log was written anew", seq)
		}
		return found
	})
	switch {
	case errors.Is(err, found):
		return nil
	case err == nil:
		return fmt.Errorf("entry %d is not there: the log was written anew, or its old files were deleted", seq)
	}
	return err
}

func newAuditExport() *cobra.Command {
	var o auditFilter
	var file, format string
	c := &cobra.Command{
		Use: "export", Short: "Write entries to a file for somebody else",
		Long: "export writes the entries as the log has them, one JSON object a line, or as a\n" +
			"table. It checks the chain first, and ends with 1, after writing, when it is broken.",
		Example: "  towline audit export --since 2026-11-01 --until 2026-12-01 -o november.jsonl\n" +
			"  towline audit export --format csv --event 'approval answered' > approvals.csv",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, _, err := setup()
			if err != nil {
				return err
			}
			f, err := o.filter(time.Now())
			if err != nil {
				return err
			}
			if format != "jsonl" && format != "csv" {
				return wrongUse("audit", fmt.Sprintf("%q is no format", printable(format)), "use jsonl or csv")
			}
			return exportAudit(cmd, paths.Audit(), f, file, format)
		},
	}
	o.flags(c.Flags())
	c.Flags().StringVarP(&file, "output", "o", "", "write to `FILE`, which must not be there yet")
	c.Flags().StringVar(&format, "format", "jsonl", "jsonl, as the log has it, or csv")
	return c
}

func exportAudit(cmd *cobra.Command, path string, f audit.Filter, file, format string) error {
	_, broken := audit.Verify(path)
	out := cmd.OutOrStdout()
	var to *os.File
	if file != "" {
		var err error
		// What it holds is nobody else's business.
		if to, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL|osfile.NoFollow, 0o600); err != nil {
			return &config.Problem{Stage: "export", Err: err, Hints: []string{"name a file that is not there yet with -o"}, Exit: config.ExitUsage}
		}
		defer func() { _ = to.Close() }() // closed below when all went well
		out = to
	}
	w := bufio.NewWriter(out)
	n, err := writeEntries(w, path, f, format)
	if err == nil {
		err = w.Flush()
	}
	if err == nil && to != nil {
		err = errors.Join(to.Sync(), to.Close())
	}
	if err != nil {
		return auditProblem(err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d entries written\n", n)
	if broken != nil {
		return auditProblem(broken)
	}
	return nil
}

func writeEntries(w io.Writer, path string, f audit.Filter, format string) (n int, err error) {
	if format == "jsonl" {
		err = audit.Read(path, f, func(e audit.Entry) error { n++; return printEntry(w, e, true) })
		return n, err
	}
	table := csv.NewWriter(w)
	if err := table.Write([]string{"seq", "at", "event", "kind", "id", "name", "role", "via", "remote", "thread", "method", "approval", "decision"}); err != nil {
		return 0, err
	}
	err = audit.Read(path, f, func(e audit.Entry) error {
		n++
		row := []string{
			strconv.FormatInt(e.Seq, 10), e.At.UTC().Format(time.RFC3339Nano), e.Event, e.Who.Kind, e.Who.ID, e.Who.Name, e.Who.Role,
			e.Via, e.Remote, e.Thread, e.Method, e.Approval, e.Decision,
		}
		for i, cell := range row {
			row[i] = cellText(cell)
		}
		return table.Write(row)
	})
	table.Flush()
	return n, errors.Join(err, table.Error())
}

// cellText keeps a spreadsheet from taking what somebody chose to be called for a
// formula.
func cellText(s string) string {
	if s = printable(s); s != "" && strings.ContainsRune("=+-@", rune(s[0])) {
		return "'" + s
	}
	return s
}

// auditProblem is an error about the log, for people.
func auditProblem(err error) error {
	var p *config.Problem
	switch {
	case errors.As(err, &p):
		return err
	case errors.Is(err, os.ErrNotExist):
		return &config.Problem{Stage: "audit", Err: errors.New("there is no audit log yet"), Hints: []string{"a host writes it: `towline serve`"}, Exit: config.ExitUnavailable}
	case errors.Is(err, os.ErrPermission):
		return &config.Problem{Stage: "audit", Err: err, Exit: config.ExitConfig, Hints: []string{"the log is its user's alone: read it as the user the host runs as"}}
	}
	return &config.Problem{Stage: "audit", Err: err, Hints: []string{"keep a copy of the files in " + filepath.Dir(auditFolder()) + ", and compare them with your last export"}}
}

// auditFolder is where the log lies, for a hint.
func auditFolder() string {
	paths, err := config.Locate(os.Getenv)
	if err != nil {
		return "the state folder/audit.jsonl"
	}
	return paths.Audit()
}
