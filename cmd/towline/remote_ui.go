package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/tui"
	"towline/config"
)

// runRemote is `towline --remote URL [THREAD]`: the UI on any app-server. The flags
// were checked.
func runRemote(cmd *cobra.Command, o *remoteFlags, args []string, fresh bool) error {
	paths, err := config.Locate(os.Getenv)
	if err != nil {
		return err
	}
	var thread protocol.ThreadID
	if len(args) == 1 {
		if thread = protocol.ThreadID(args[0]); fresh {
			return wrongUse("remote", "a thread and --new exclude each other", "leave one of them out")
		}
	}
	return o.ui(cmd.Context(), paths, thread, fresh)
}

// onlyHosts refuses flags that mean something for a host of ssh's and nothing for
// an address.
func onlyHosts(cmd *cobra.Command) error {
	for _, name := range []string{
		"transport", "ssh-config", "verbose", "project", "plain", "json", "codex", "install", "binary", "no-install", "rollback",
		"lend-credentials", "lend-network",
	} {
		if cmd.Flags().Changed(name) {
			return wrongUse("remote", "--"+name+" is for hosts that are reached over SSH, and --remote is not one", "leave it out, or type `towline HOST --"+name+"`")
		}
	}
	return nil
}

// ui opens the UI on the server, until the person leaves or the server does not
// want them back.
func (o *remoteFlags) ui(ctx context.Context, paths config.Paths, thread protocol.ThreadID, fresh bool) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())) {
		return &config.Problem{
			Stage: "remote", Err: errors.New("the UI needs a terminal"), Exit: config.ExitUsage,
			Hints: []string{"for a script: `towline exec " + o.args() + " PROMPT`"},
		}
	}
	s, err := o.open(paths)
	if err != nil {
		return err
	}
	first, err := s.dial(ctx)
	if err != nil {
		return err
	}
	comeBack := "towline " + o.args()
	host, local := s.place()
	d := watchDetach(ctx, paths, openUI{Host: s.name, ComeBack: comeBack})
	defer d.close()
	var open func(string) error
	if local && os.Getenv("SSH_CONNECTION") == "" {
		open = func(url string) error { return openBrowser(d.ctx, url) }
	}
	res, err := tui.Run(d.ctx, tui.Config{
		Dial: kept(first, s.dial), OpenURL: open, In: os.Stdin, Out: os.Stdout, Environ: os.Environ(), Thread: thread, NewThread: fresh,
		Host: host, Version: version(), ReattachHint: comeBack, EndWhenRefused: true, Log: discarded(),
	})
	if err != nil && !d.asked() && !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) {
		var p *config.Problem
		if errors.As(err, &p) && errors.Is(err, rpc.ErrRefused) { // it was here before
			q := *p
			q.Hints = append(slices.Clone(p.Hints), "what runs there goes on; come back with `"+comeBack+"`")
			return &q
		}
		return err
	}
	if res.Text != "" {
		fmt.Println(res.Text)
	}
	return nil
}

// place is what to call the machine the server runs on, and whether it is this one
// for sure: a port of the loopback may lead anywhere.
func (s *remoteServer) place() (host string, local bool) {
	if strings.HasPrefix(s.name, "unix://") {
		return hostName(), true
	}
	u, err := url.Parse(s.name)
	if err != nil {
		return s.name, false
	}
	return u.Host, false
}
