package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

func newStatus() *cobra.Command {
	var asJSON bool
	var at remoteFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Say what this machine's daemon is doing",
		Example: "  towline status\n  towline status --json | jq .engine.state\n" +
			"  towline status --remote wss://dev.example:4500 --remote-auth-token-env TOKEN",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := at.check(cmd.Flags()); err != nil {
				return err
			}
			paths, _, err := setup()
			if err != nil {
				return err
			}
			st, err := readStatusOf(cmd.Context(), func(ctx context.Context) (rpc.Stream, error) { return at.dialNamed(ctx, paths) })
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(st)
			}
			return printStatus(cmd.OutOrStdout(), st)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	at.flags(c.Flags())
	return c
}

// readStatus asks this home's daemon, as any client would.
func readStatus(ctx context.Context, paths config.Paths) (protocol.HostStatus, error) {
	return readStatusOf(ctx, func(ctx context.Context) (rpc.Stream, error) { return dialDaemon(ctx, paths) })
}

// readStatusOf asks the daemon that dial reaches. A stock app-server has no such
// question: of it the status holds the engine, and no version of Towline's.
func readStatusOf(ctx context.Context, dial func(context.Context) (rpc.Stream, error)) (st protocol.HostStatus, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("no answer in time"))
	defer cancel()
	s, err := dial(ctx)
	if err != nil {
		return st, err
	}
	p := rpc.NewPeer(s, deaf{})
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Serve(ctx) }()
	defer func() { p.Close(nil); <-done }()
	// Without an engine the daemon refuses this, and says why in its status.
	var refused *protocol.Error
	var hello protocol.Initialized
	if err := p.Call(ctx, "initialize", protocol.InitializeParams{
		ClientInfo: protocol.ClientInfo{Name: "towline-status", Version: version()},
	}, &hello); err != nil && !errors.As(err, &refused) {
		return st, &config.Problem{Stage: "daemon", Err: err, Exit: config.ExitUnavailable}
	}
	err = p.Call(ctx, protocol.ExtStatus, nil, &st)
	if errors.As(err, &refused) && (refused.Code == protocol.CodeMethodNotFound || strings.Contains(refused.Message, "unknown variant")) {
		_, v, _ := strings.Cut(hello.UserAgent, "/")
		v, _, _ = strings.Cut(v, " ")
		return protocol.HostStatus{Engine: protocol.EngineState{Kind: "codex", State: "ready", Version: v}}, nil
	}
	if err != nil {
		return st, &config.Problem{Stage: "status", Err: err, Exit: config.ExitUnavailable}
	}
	return st, nil
}

// deaf is a client that only asks.
type deaf struct{}

func (deaf) Request(_ context.Context, r *rpc.Request) {
	r.Fail(protocol.Errorf("this client only asks"))
}

func (deaf) Notification(context.Context, string, json.RawMessage) {}

func printStatus(w io.Writer, st protocol.HostStatus) error {
	var b strings.Builder
	line := func(k, v string) {
		if v != "" {
			fmt.Fprintf(&b, "  %-10s %s\n", k, v)
		}
	}
	if st.Version == "" {
		_, err := fmt.Fprintf(w, "a stock app-server answers: codex %s, ready\n", cmp.Or(printable(st.Engine.Version), "of an unknown version"))
		return err
	}
	fmt.Fprintf(&b, "towline %s, running for %s (pid %d)\n", st.Version, time.Since(time.Unix(st.StartedAt, 0)).Round(time.Second), st.PID)
	engine := strings.TrimSpace(st.Engine.Kind + " " + st.Engine.Version)
	if st.Engine.Model != "" {
		engine += ", " + st.Engine.Model
	}
	line("engine", engine+": "+st.Engine.State)
	line("", st.Engine.Problem)
	for _, h := range st.Engine.Hints {
		line("", "hint: "+h)
	}
	if st.Engine.Detail != "" {
		line("", "it said:")
		for l := range strings.Lines(st.Engine.Detail) {
			line("", "  "+strings.TrimRight(l, "\n"))
		}
	}
	line("project", st.Project)
	line("home", st.Home)
	line("ssh", st.SSH)
	line("host key", st.HostKey)
	for _, l := range st.Listen {
		line("listen", l)
	}
	threads := fmt.Sprintf("%d working, %d waiting for you", st.Threads.Working, st.Threads.Waiting)
	if n := st.Threads.Interrupted; n > 0 {
		threads += fmt.Sprintf(", %d interrupted: open one and press ctrl+r to go on", n)
	}
	line("threads", threads)
	if r := st.Restarted; r != nil {
		line("restarted", howLong(time.UnixMilli(r.At))+" ago: "+printable(r.Reason))
	}
	if a := st.Audit; a != nil {
		line("audit", fmt.Sprintf("cannot be written since %s: %s", time.UnixMilli(a.Since).Format(time.DateTime), printable(a.Problem)))
		after := "they are written once it can"
		if a.Refuses {
			after += "; until then nothing is done that would be on record"
		}
		line("", fmt.Sprintf("%d entries wait: %s", a.Waiting, after))
	}
	if l := st.Lent; l != nil {
		line("login", "lent by "+printable(l.By.Name)+" ("+printable(l.By.Via)+"), workspace "+printable(l.Account))
	}
	for _, p := range st.Attached {
		if p.You {
			continue
		}
		who := fmt.Sprintf("%s (%s, %s) by %s, %s", p.Name, p.Role, p.Client, p.Via, time.Since(time.UnixMilli(p.ConnectedAt)).Round(time.Second))
		if p.AwaySince != 0 {
			who += fmt.Sprintf(", its link is down since %s", time.UnixMilli(p.AwaySince).Format(time.TimeOnly))
		}
		line("attached", who)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
