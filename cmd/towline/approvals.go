package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/tui/prompt"
	"towline/config"
)

// approvalTime bounds one command about approvals.
const approvalTime = 30 * time.Second

// approvalFlags say which host's approvals are meant.
type approvalFlags struct {
	place  execPlace
	asJSON bool
}

func (o *approvalFlags) flags(f *pflag.FlagSet) {
	o.place.flags(f)
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
}

func newApprovals() *cobra.Command {
	c := &cobra.Command{
		Use:   "approvals",
		Short: "See and answer what waits for a person, from any terminal",
		Long: "approvals lists the questions of agents that wait for a person, and answers\n" +
			"them. Everybody who is attached sees who answered. Answering needs the role\n" +
			"approver; the questions an agent asks in words need operator.",
		Example: "  towline approvals list\n" +
			"  towline approvals show 0199c3f2\n" +
			"  towline approvals approve 0199c3f2\n" +
			"  towline approvals deny 0199c3f2 --reason 'not on a Friday'\n" +
			"  towline approvals list --host dev-server --json",
	}
	c.AddCommand(newApprovalList(), newApprovalShow(), newApprovalDecide("approve"), newApprovalDecide("deny"), newApprovalReply())
	return c
}

func newApprovalList() *cobra.Command {
	var o approvalFlags
	var all bool
	var thread string
	c := &cobra.Command{
		Use: "list", Short: "What waits for a person",
		Example: "  towline approvals list\n  towline approvals list --all --json",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.withPeer(cmd, func(ctx context.Context, p *rpc.Peer) error {
				list, err := listApprovals(ctx, p, thread, !all)
				if err != nil {
					return err
				}
				if o.asJSON {
					return printJSON(cmd.OutOrStdout(), map[string]any{"data": list})
				}
				return printApprovals(cmd.OutOrStdout(), list)
			})
		},
	}
	o.flags(c.Flags())
	c.Flags().BoolVar(&all, "all", false, "those that were answered too")
	c.Flags().StringVar(&thread, "thread", "", "only those of the thread `ID`")
	return c
}

func newApprovalShow() *cobra.Command {
	var o approvalFlags
	c := &cobra.Command{
		Use: "show ID", Short: "One of them, whole",
		Long:    "show prints exactly what is asked: the command and its folder, or the changes.\nThe beginning of an id is enough.",
		Example: "  towline approvals show 0199c3f2",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.withPeer(cmd, func(ctx context.Context, p *rpc.Peer) error {
				a, err := findApproval(ctx, p, args[0])
				if err != nil {
					return err
				}
				if o.asJSON {
					return printJSON(cmd.OutOrStdout(), a)
				}
				return printApproval(cmd.OutOrStdout(), a)
			})
		},
	}
	o.flags(c.Flags())
	return c
}

func newApprovalDecide(what string) *cobra.Command {
	var o approvalFlags
	var session bool
	var reason string
	c := &cobra.Command{
		Use: what + " ID", Short: map[string]string{"approve": "Let it happen", "deny": "Refuse it; the agent goes on without"}[what],
		Example: "  towline approvals " + what + " 0199c3f2",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			how := prompt.Deny
			if what == "approve" {
				how = prompt.Approve
				if session {
					how = prompt.ApproveSession
				}
			}
			return o.answer(cmd, args[0], func(q *prompt.Prompt) (prompt.Answer, error) {
				a, ok := q.Decide(how, reason)
				if !ok && q.Fields() > 0 {
					return a, wrongUse("approvals", "this is a question to answer in words", "see it with `towline approvals show "+args[0]+"`, then `towline approvals answer "+args[0]+" TEXT`")
				}
				if !ok {
					return a, wrongUse("approvals", "this cannot be answered so", "see it with `towline approvals show "+args[0]+"`")
				}
				return a, nil
			})
		},
	}
	o.flags(c.Flags())
	if what == "approve" {
		c.Flags().BoolVar(&session, "for-session", false, "and do not ask again for the like of it in this session")
	} else {
		c.Flags().StringVar(&reason, "reason", "", "say why to the agent, in your `WORDS`")
	}
	return c
}

func newApprovalReply() *cobra.Command {
	var o approvalFlags
	c := &cobra.Command{
		Use: "answer ID TEXT…", Short: "Answer a question in words, one text for each it asks",
		Example: "  towline approvals answer 0199c3f2 'use the staging database'",
		Args:    usage(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.answer(cmd, args[0], func(q *prompt.Prompt) (prompt.Answer, error) {
				a, err := q.Fill(args[1:])
				if err != nil {
					return a, wrongUse("approvals", err.Error(), "see it with `towline approvals show "+args[0]+"`")
				}
				return a, nil
			})
		},
	}
	o.flags(c.Flags())
	return c
}

// withPeer runs do on a connection to the host.
func (o *approvalFlags) withPeer(cmd *cobra.Command, do func(context.Context, *rpc.Peer) error) error {
	if err := o.place.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	var s rpc.Stream
	var err error
	if o.place.here() {
		paths, _, serr := setup()
		if serr != nil {
			return serr
		}
		s, err = dialDaemon(ctx, paths)
	} else {
		var srv execServer
		if srv, err = o.place.open(ctx, cmd.ErrOrStderr(), "", false); err == nil {
			defer srv.close(context.WithoutCancel(ctx), false)
			s, err = srv.dial(ctx)
		}
	}
	if err != nil {
		return err
	}
	ctx, done := context.WithTimeout(ctx, approvalTime)
	defer done()
	p := rpc.NewPeer(s, deaf{})
	served := make(chan struct{})
	go func() { defer close(served); _ = p.Serve(ctx) }()
	defer func() { p.Close(nil); <-served }()
	var refused *protocol.Error
	err = p.Call(ctx, "initialize", protocol.InitializeParams{ClientInfo: protocol.ClientInfo{Name: "towline-approvals", Version: version()}}, nil)
	if err != nil && !errors.As(err, &refused) { // an engine that is down answers so; the gate is there
		return &config.Problem{Stage: "daemon", Err: err, Exit: config.ExitUnavailable, Hints: []string{"see how it is: `towline status`"}}
	}
	return asProblem(do(ctx, p))
}

// asProblem is an answer of a server's as a command ends with it.
func asProblem(err error) error {
	var refused *protocol.Error
	var p *config.Problem
	switch {
	case err == nil || errors.As(err, &p):
		return err
	case !errors.As(err, &refused):
		return &config.Problem{Stage: "approvals", Err: err, Exit: config.ExitUnavailable, Hints: []string{"see how it is: `towline status`"}}
	case refused.Code == protocol.CodeMethodNotFound, strings.Contains(refused.Message, "unknown variant"):
		return &config.Problem{
			Stage: "approvals", Err: errors.New("the server there is no Towline: only its own clients can answer"), Exit: config.ExitUnavailable,
			Hints: []string{"open the UI on it: `towline --remote URL`"},
		}
	case strings.Contains(refused.Message, "needs the role"), strings.Contains(refused.Message, "scope"):
		return &config.Problem{
			Stage: "approvals", Err: errors.New(printable(refused.Message)), Exit: config.ExitDenied,
			Hints: []string{"ask an admin of the host for a key or token with the role approver"},
		}
	}
	return &config.Problem{Stage: "approvals", Err: errors.New(printable(refused.Message)), Hints: []string{"see what is open: `towline approvals list`"}}
}

func listApprovals(ctx context.Context, p *rpc.Peer, thread string, open bool) ([]protocol.Approval, error) {
	params := map[string]any{}
	if thread != "" {
		params["threadId"] = thread
	}
	if open {
		params["open"] = true
	}
	var list struct {
		Data []protocol.Approval `json:"data"`
	}
	if err := p.Call(ctx, protocol.ExtApprovalList, params, &list); err != nil {
		return nil, err
	}
	if list.Data == nil {
		list.Data = []protocol.Approval{}
	}
	return list.Data, nil
}

// findApproval finds the one whose id begins so, an open one before others.
func findApproval(ctx context.Context, p *rpc.Peer, id string) (protocol.Approval, error) {
	for _, open := range []bool{true, false} {
		list, err := listApprovals(ctx, p, "", open)
		if err != nil {
			return protocol.Approval{}, err
		}
		var found []protocol.Approval
		for _, a := range list {
			if a.ID == id {
				return a, nil
			}
			if strings.HasPrefix(a.ID, id) {
				found = append(found, a)
			}
		}
		if len(found) > 1 {
			return protocol.Approval{}, wrongUse("approvals", fmt.Sprintf("%d approvals begin with %s", len(found), printable(id)), "type more of its id; `towline approvals list` shows them")
		}
		if len(found) == 1 {
			return found[0], nil
		}
	}
	return protocol.Approval{}, &config.Problem{
		Stage: "approvals", Err: fmt.Errorf("there is none with the id %s", printable(id)), Hints: []string{"see what is open: `towline approvals list`"},
	}
}

func (o *approvalFlags) answer(cmd *cobra.Command, id string, decide func(*prompt.Prompt) (prompt.Answer, error)) error {
	return o.withPeer(cmd, func(ctx context.Context, p *rpc.Peer) error {
		a, err := findApproval(ctx, p, id)
		if err != nil {
			return err
		}
		if a.State != protocol.ApprovalOpen {
			return &config.Problem{Stage: "approvals", Err: errors.New(settledWords(a)), Hints: []string{"see what is open: `towline approvals list`"}}
		}
		said, err := decide(promptOf(a))
		if err != nil {
			return err
		}
		var done struct {
			Approval protocol.Approval `json:"approval"`
		}
		if err := p.Call(ctx, protocol.ExtApprovalAnswer, map[string]any{"id": a.ID, "result": said.Result}, &done); err != nil {
			return err
		}
		if o.asJSON {
			return printJSON(cmd.OutOrStdout(), done)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", said.Word, askedLine(a))
		return err
	})
}

func promptOf(a protocol.Approval) *prompt.Prompt {
	r := prompt.Request{Key: a.ID, Method: a.Method, Params: a.Params, Cwd: protocol.StringField(a.Params, "cwd")}
	var it protocol.Item
	if len(a.Item) > 0 && json.Unmarshal(a.Item, &it) == nil {
		r.Item = &it
	}
	return prompt.New(r)
}

// settledWords says what became of it.
func settledWords(a protocol.Approval) string {
	if a.State == protocol.ApprovalGone {
		return "the turn it belonged to is over"
	}
	who := "somebody else"
	if a.By != nil {
		who = printable(cmp.Or(a.By.Name, a.By.Kind))
	}
	return fmt.Sprintf("%s has answered it, at %s", who, time.UnixMilli(a.ClosedAt).Format(time.DateTime))
}

// askedLine is the question in one line: its title, and what it is about.
func askedLine(a protocol.Approval) string {
	p := promptOf(a)
	line := p.Title()
	for _, l := range p.Lines(200) {
		if l = strings.TrimSpace(l); l != "" {
			line += " " + l
			break
		}
	}
	return printable(line)
}

func printApprovals(w io.Writer, list []protocol.Approval) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "nothing waits for a person")
		return err
	}
	wide := terminalWidth(w)
	var b strings.Builder
	for _, a := range list {
		state := "waits since " + time.UnixMilli(a.OpenedAt).Format(time.TimeOnly)
		if a.State != protocol.ApprovalOpen {
			state = settledWords(a)
		}
		fmt.Fprintf(&b, "%s  %s\n", printable(a.ID), state)
		fmt.Fprintf(&b, "    %s\n", shortened(askedLine(a), wide-4))
		fmt.Fprintf(&b, "    thread %s\n", printable(string(a.ThreadID)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printApproval(w io.Writer, a protocol.Approval) error {
	var b strings.Builder
	p := promptOf(a)
	fmt.Fprintf(&b, "%s\n", printable(p.Title()))
	for _, l := range p.Lines(terminalWidth(w) - 2) {
		fmt.Fprintf(&b, "  %s\n", l)
	}
	fmt.Fprintf(&b, "\n  id      %s\n  thread  %s\n  asked   %s\n", printable(a.ID), printable(string(a.ThreadID)), time.UnixMilli(a.OpenedAt).Format(time.DateTime))
	if a.State == protocol.ApprovalOpen {
		short := printable(a.ID)
		verb := "approve"
		if p.Fields() > 0 {
			verb = "answer"
		}
		fmt.Fprintf(&b, "\n  towline approvals %s %s\n", verb, short)
	} else {
		fmt.Fprintf(&b, "  state   %s\n", settledWords(a))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// terminalWidth is how wide w is, 80 where it is no terminal.
func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if wide, _, err := term.GetSize(int(f.Fd())); err == nil && wide >= 20 {
			return wide
		}
	}
	return 80
}

// shortened cuts a line that is longer than n characters.
func shortened(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:max(n-1, 1)]) + "…"
	}
	return s
}
