package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/supervisor"
	"towline/config"
)

// remoteConnected is Codex's word for a remote control that is up. Without a relay
// there is nothing to wait for.
const remoteConnected = "connected"

// remoteStarted is what `remote-control start --json` prints: Codex's members, and
// ours. Scripts rely on it.
type remoteStarted struct {
	Mode        string        `json:"mode"` // daemon or foreground
	Status      string        `json:"status"`
	ServerName  string        `json:"serverName"`
	Environment *string       `json:"environmentId"` // of a relay
	TimedOut    bool          `json:"timedOut"`
	Daemon      *daemonObject `json:"daemon,omitempty"`
	Reachable   reach         `json:"reachable"`
}

// daemonObject is what the commands about the daemon print, with the members and
// meanings of `codex app-server daemon`.
type daemonObject struct {
	Status         string           `json:"status"`
	Backend        string           `json:"backend,omitempty"` // pid, systemd, launchd; none for one started by hand
	PID            int              `json:"pid,omitempty"`
	RemoteControl  *bool            `json:"remoteControlEnabled,omitempty"`
	Program        string           `json:"managedCodexPath,omitempty"`
	ProgramVersion string           `json:"managedCodexVersion,omitempty"`
	Socket         string           `json:"socketPath"`
	CLIVersion     string           `json:"cliVersion"`
	ServerVersion  string           `json:"appServerVersion,omitempty"`
	SupervisorPID  int              `json:"supervisorPid,omitempty"`
	Restarts       int              `json:"restarts,omitempty"`
	LastExit       *supervisor.Exit `json:"lastExit,omitempty"`
	NextStart      *time.Time       `json:"nextStart,omitempty"`
	Log            string           `json:"logPath,omitempty"`
}

// object describes the daemon; st is what it says itself, or nothing.
func (m managedDaemon) object(status string, st protocol.HostStatus) daemonObject {
	d := daemonObject{
		Status: status, PID: st.PID, ProgramVersion: version(), CLIVersion: version(), ServerVersion: st.Version,
		Socket: m.paths.FindSocket(), Log: m.paths.Log(),
	}
	d.Program, _ = programPath() // it says where it is, or does not
	if sup, alive := supervisor.Find(m.paths.State); alive {
		d.Backend, d.SupervisorPID = sup.Backend, sup.Supervisor
	}
	return d
}

// reach is what can be reached, and from where.
type reach struct {
	SSH     string   `json:"ssh,omitempty"` // the door's address
	Local   []string `json:"local"`         // from this machine
	Network []string `json:"network"`       // from others, while remote control is enabled
}

func reachable(st protocol.HostStatus) reach {
	r := reach{SSH: st.SSH, Local: []string{}, Network: []string{}}
	for _, l := range st.Listen {
		if isLocal(l) {
			r.Local = append(r.Local, l)
		} else {
			r.Network = append(r.Network, l)
		}
	}
	return r
}

// isLocal reports whether a listener is for this machine alone.
func isLocal(listener string) bool {
	u, err := url.Parse(listener)
	if err != nil || u.Scheme != "ws" && u.Scheme != "wss" {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.Unmap().IsLoopback()
}

func printStarted(w io.Writer, r remoteStarted, paths config.Paths) error {
	var b strings.Builder
	if d := r.Daemon; d != nil {
		verb := map[string]string{statusStarted: "is running", statusAlready: "runs already"}[d.Status]
		fmt.Fprintf(&b, "the daemon %s (pid %d)", verb, d.PID)
		if d.SupervisorPID != 0 {
			b.WriteString(", and is started again should it crash\n")
		} else {
			b.WriteString("; it was started by hand, so nothing\nstarts it again: `towline remote-control restart` changes that\n")
		}
	}
	fmt.Fprintf(&b, "remote control is enabled on %s\n\n", printable(r.ServerName))
	r.Reachable.print(&b)
	if len(r.Reachable.Network) == 0 {
		fmt.Fprintf(&b, "\nnothing but ssh is open to other machines; to add a listener for clients with\na token, put this into %s\nand type `towline remote-control restart`:\n\n"+
			"  [app_server]\n  listen = [\"wss://0.0.0.0:4500\"]   # docs/transports.md: certificates, tokens\n", paths.ConfigFile())
	}
	fmt.Fprintf(&b, "\nclose it: towline remote-control off\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (r reach) print(b *strings.Builder) {
	ssh := r.SSH
	if ssh == "" {
		ssh = "no door"
	} else if host, port, err := net.SplitHostPort(ssh); err == nil && (host == "" || host == "::" || host == "0.0.0.0") {
		ssh = "port " + port + ", for the keys in authorized_keys"
	}
	fmt.Fprintf(b, "  ssh        %s\n", printable(ssh))
	for _, l := range r.Network {
		fmt.Fprintf(b, "  network    %s\n", printable(l))
	}
	for _, l := range r.Local {
		fmt.Fprintf(b, "  this host  %s\n", printable(l))
	}
}

// remoteStatusResult is what `remote-control status --json` prints.
type remoteStatusResult struct {
	Status        string               `json:"status"` // running, starting, waiting, stopping, stopped
	Enabled       bool                 `json:"remoteControlEnabled"`
	RemoteControl config.RemoteControl `json:"remoteControl"`
	ForbiddenBy   string               `json:"forbiddenBy,omitempty"`
	ServerName    string               `json:"serverName"`
	Daemon        daemonObject         `json:"daemon"`
	Reachable     reach                `json:"reachable"`
}

func remoteStatus(cmd *cobra.Command, o remoteOptions) error {
	paths, err := config.Locate(os.Getenv) // a broken configuration may be what it has to tell of
	if err != nil {
		return err
	}
	r := remoteStatusResult{Status: "stopped", ServerName: hostName(), Reachable: reach{Local: []string{}, Network: []string{}}}
	if r.RemoteControl, err = paths.RemoteControl(); err != nil {
		return err
	}
	r.Enabled = r.RemoteControl.Enabled()
	if err := mayRelay(); err != nil {
		r.Enabled, r.ForbiddenBy = false, config.OneLine(err.Error())
	}
	m := managedDaemon{paths: paths}
	var st protocol.HostStatus
	sup, alive := supervisor.Find(paths.State)
	if answers(cmd.Context(), paths) == nil {
		if st, err = readStatus(cmd.Context(), paths); err != nil {
			return err
		}
		r.Status, r.Reachable = "running", reachable(st)
	} else if alive {
		r.Status = sup.Phase
		if r.Status == supervisor.Running { // it was, until just now
			r.Status = supervisor.Starting
		}
	}
	r.Daemon = m.object(r.Status, st)
	r.Daemon.LastExit = sup.Last
	if alive {
		r.Daemon.Restarts = sup.Restarts
		if sup.Phase == supervisor.Waiting {
			r.Daemon.NextStart = &sup.NextAt
		}
	}
	if o.json {
		e := json.NewEncoder(cmd.OutOrStdout())
		return e.Encode(r)
	}
	return r.print(cmd.OutOrStdout(), st, sup)
}

func (r remoteStatusResult) print(w io.Writer, st protocol.HostStatus, sup supervisor.State) error {
	var b strings.Builder
	switch r.Status {
	case "running":
		fmt.Fprintf(&b, "the daemon has been running for %s (pid %d, version %s)\n", howLong(time.Unix(st.StartedAt, 0)), st.PID, printable(st.Version))
		if r.Daemon.SupervisorPID == 0 {
			b.WriteString("it was started by hand: nothing starts it again should it crash\n")
		}
	case supervisor.Waiting:
		fmt.Fprintf(&b, "the daemon is down; it is started again in %s\n", max(0, time.Until(sup.NextAt)).Round(time.Second))
	case "stopped":
		b.WriteString("no daemon runs\n")
		if sup.Final {
			b.WriteString("it is not started again: what ended it has to be mended first\n")
		}
	default:
		fmt.Fprintf(&b, "the daemon is %s\n", r.Status)
	}
	if l := r.Daemon.LastExit; l != nil {
		fmt.Fprintf(&b, "it ended %s ago", howLong(l.At))
		if n := r.Daemon.Restarts; n > 1 {
			fmt.Fprintf(&b, ", the last of %d times", n)
		}
		fmt.Fprintf(&b, ": %s\n", printable(l.Reason()))
		if r.Status == supervisor.Waiting || sup.Final && r.Status == "stopped" {
			for _, line := range l.Said {
				fmt.Fprintf(&b, "  | %s\n", printable(line))
			}
		}
	}
	switch {
	case r.ForbiddenBy != "":
		fmt.Fprintf(&b, "remote control is forbidden: %s\n", r.ForbiddenBy)
	case r.Enabled:
		fmt.Fprintf(&b, "remote control is enabled since %s\n", r.RemoteControl.Since.Local().Format(time.DateTime))
	default:
		b.WriteString("remote control is off: `towline remote-control start` enables it\n")
	}
	if r.Status == "running" {
		b.WriteByte('\n')
		r.Reachable.print(&b)
	}
	fmt.Fprintf(&b, "\nlog: %s\n", r.Daemon.Log)
	_, err := io.WriteString(w, b.String())
	return err
}

// howLong is a length of time as people say it.
func howLong(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// questionLimit bounds one question to the daemon.
const questionLimit = 15 * time.Second

// askDaemon sends one request to the daemon of a home, as any local client would.
// What the daemon refuses is a *protocol.Error.
func askDaemon(ctx context.Context, paths config.Paths, method string, params, result any) error {
	ctx, cancel := context.WithTimeout(ctx, questionLimit)
	defer cancel()
	s, err := dialDaemon(ctx, paths)
	if err != nil {
		return err
	}
	p := rpc.NewPeer(s, deaf{})
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Serve(ctx) }()
	defer func() { p.Close(nil); <-done }()
	var refused *protocol.Error
	// Without an engine the daemon refuses this, and answers its own methods.
	if err := p.Call(ctx, "initialize", protocol.InitializeParams{
		ClientInfo:   protocol.ClientInfo{Name: "towline-remote-control", Version: version()},
		Capabilities: &protocol.Capabilities{ExperimentalAPI: true},
	}, nil); err != nil && !errors.As(err, &refused) {
		return &config.Problem{Stage: "daemon", Err: err, Exit: config.ExitUnavailable}
	}
	err = p.Call(ctx, method, params, result)
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return &config.Problem{Stage: "daemon", Err: fmt.Errorf("%s: %w", method, err), Exit: config.ExitUnavailable}
}
