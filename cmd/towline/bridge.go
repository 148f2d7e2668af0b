package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"towline/appserver/access"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config"
	"towline/launcher"
	"towline/launcher/bridge"
)

// bridgeOptions are the flags of bridge.
type bridgeOptions struct {
	hostOptions
	listen             string
	printCommand, json bool
	install, noInstall bool
	out, errOut        io.Writer
}

func newBridge() *cobra.Command {
	var o bridgeOptions
	c := &cobra.Command{
		Use:   "bridge HOST",
		Short: "Offer a host's app-server here, for stock clients",
		Long: "bridge connects to a host as `towline HOST` does, and opens its app-server on a\n" +
			"private socket of this machine, to you alone. Any client of the protocol can use\n" +
			"it. With a Towline on the host a cut link is mended underneath: clients wait,\n" +
			"lose nothing, and see nothing twice. With a stock Codex there, their connections\n" +
			"end with the link, and new ones make it anew. It runs until it is interrupted.",
		Example: "  towline bridge dev-server\n  towline bridge dev-server --listen ws://127.0.0.1:4500\n  towline bridge dev-server --print-command > run-me &",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.out, o.errOut = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return runBridge(cmd.Context(), &o, args[0])
		},
	}
	o.flags(c)
	f := c.Flags()
	f.StringVar(&o.listen, "listen", "", "listen on `URL`: unix://PATH or ws://127.0.0.1:PORT (default: a private unix socket)")
	f.BoolVar(&o.printCommand, "print-command", false, "print only the command that opens a stock Codex on it")
	f.BoolVar(&o.json, "json", false, "print what happens as JSON objects, one a line")
	f.BoolVar(&o.install, "install", false, "put this version there without asking, beside any other")
	f.BoolVar(&o.noInstall, "no-install", false, "do not ask to put this program there")
	return c
}

// keepForStock is how long a host keeps what a stock client missed: it cannot
// read a thread anew, as our own UI does, so a night must not end it.
const keepForStock = 24 * time.Hour

func runBridge(ctx context.Context, o *bridgeOptions, host string) error {
	if o.printCommand && o.json || o.install && o.noInstall {
		return &config.Problem{Stage: "bridge", Err: errors.New("these flags exclude each other"), Hints: []string{"see `towline bridge --help`"}, Exit: config.ExitUsage}
	}
	ctx, stop := hangUp(ctx)
	defer stop()
	lc, err := o.launcher(host, o.errOut)
	if err != nil {
		return err
	}
	lc = through(lc, o.lines(o.errOut))
	lc.Keep = keepForStock
	switch {
	case o.install:
		lc.Install = launcher.InstallAlways
	case o.noInstall:
		lc.Install = launcher.InstallNever
	}
	say := &bridgeVoice{o: o, host: host, enc: json.NewEncoder(o.out)}
	// The socket first: what is wrong with it shows before anybody is asked for a
	// password.
	ln, err := listenBridge(ctx, lc, o)
	if err != nil {
		return err
	}
	s, err := launcher.Connect(ctx, lc)
	if err != nil {
		_ = ln.Close()
		return err
	}
	err = say.ready(ln.URL(), s.Info())
	if err == nil {
		err = carry(ctx, s, s.Dial, ln, say)
	}
	return errors.Join(err, ln.Close(), s.Close())
}

// carry serves clients until ctx ends. dial is how each gets its stream.
func carry(ctx context.Context, s *launcher.Session, dial func(context.Context) (rpc.Stream, error), ln *transport.Listener, say *bridgeVoice) error {
	b := bridge.New(bridge.Config{Dial: dial, Events: say.client})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		say.follow(ctx, s)
		return nil
	})
	g.Go(func() error {
		return ln.Serve(ctx, func(ctx context.Context, client rpc.Stream, p access.Principal, via, remote string) {
			_ = b.Serve(ctx, client, remote) // told as an event
		})
	})
	return g.Wait()
}

// listenBridge opens the local socket. Only this user gets in, whatever it is.
func listenBridge(ctx context.Context, lc launcher.Config, o *bridgeOptions) (*transport.Listener, error) {
	url := o.listen
	if url == "" {
		if err := config.PrivateDir(o.paths.Runtime); err != nil {
			return nil, err
		}
		url = "unix://" + filepath.Join(o.paths.Runtime, "bridge-"+fileName(lc.Host)+".sock")
	}
	if transport.Remote(url) {
		return nil, wrongUse("bridge", url+" is open to other machines, and a bridge is for you on this one", "use ws://127.0.0.1:PORT; to open a host to others see docs/transports.md")
	}
	return transport.Listen(ctx, url, transport.Options{Log: lc.Log, RuntimeDir: o.paths.Runtime})
}

// fileName is a host as a part of a file's name.
func fileName(host string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.@", r) {
			return r
		}
		return '_'
	}, host)
}

// bridgeVoice says what a bridge does.
type bridgeVoice struct {
	o    *bridgeOptions
	host string

	mu  sync.Mutex // guards what is written
	enc *json.Encoder
}

// bridgeReady is the first line of `bridge --json`, bridgeLine each after it.
// Scripts rely on them.
type bridgeReady struct {
	Ready   bool   `json:"ready"`
	Host    string `json:"host"`
	Listen  string `json:"listen"`
	Command string `json:"command"`
	Kind    string `json:"kind"`
	Version string `json:"version"`
	// Resumable: clients survive a cut link.
	Resumable   bool `json:"resumable"`
	CutEndsTurn bool `json:"cutEndsTurn"`
}

type bridgeLine struct {
	Event   string `json:"event"`            // client, link
	What    string `json:"what"`             // joined, refused, left; up, down
	Client  int    `json:"client,omitempty"` // its number
	Clients *int   `json:"clients,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
	Error   string `json:"error,omitempty"`
}

func (v *bridgeVoice) line(l bridgeLine, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.o.json {
		_ = v.enc.Encode(l) // whoever reads may have gone; clients have not
		return
	}
	fmt.Fprintln(v.o.errOut, text)
}

// stockCommand is what opens a stock Codex on a listener.
func stockCommand(url string) string { return "codex --remote " + shellWord(url) }

// shellWord quotes s for a shell where that is needed.
func shellWord(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=,", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (v *bridgeVoice) ready(url string, info launcher.Info) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	command := stockCommand(url)
	if v.o.json {
		return v.enc.Encode(bridgeReady{
			Ready: true, Host: v.host, Listen: url, Command: command, Kind: string(info.Opened.Kind), Version: info.Opened.Version,
			Resumable: info.Opened.Resumable, CutEndsTurn: info.Opened.CutEndsTurn,
		})
	}
	if v.o.printCommand {
		_, err := fmt.Fprintln(v.o.out, command)
		return err
	}
	cut := "a cut link ends its clients' connections; they can connect again"
	switch {
	case info.Opened.Resumable:
		cut = "a cut link is mended underneath: clients wait and lose nothing"
	case info.Opened.CutEndsTurn:
		cut = "a cut link ends its clients' connections, and the running turn"
	}
	_, err := fmt.Fprintf(v.o.out, "%s is at %s\n\n  run        %s\n  there      %s\n  link       %s\n\nctrl+c ends it\n",
		v.host, url, command, strings.TrimSpace(string(info.Opened.Kind)+" "+printable(info.Opened.Version)), cut)
	return err
}

func (v *bridgeVoice) client(e bridge.Event) {
	l := bridgeLine{Event: "client", Client: e.Client, What: string(e.What), Clients: &e.Clients}
	text := fmt.Sprintf("client %d %s (%d now)", e.Client, e.What, e.Clients)
	if e.Err != nil {
		l.Error = printable(e.Err.Error())
		text += ": " + l.Error
	}
	v.line(l, text)
}

// follow tells when the link goes and comes, until ctx ends.
func (v *bridgeVoice) follow(ctx context.Context, s *launcher.Session) {
	up := true
	for {
		ch := s.Changed()
		if st := s.State(); st.Up != up {
			up = st.Up
			l, text := bridgeLine{Event: "link", What: "up"}, "the link is back"
			if !up {
				l.What, l.Attempt, text = "down", st.Attempt, "the link is down"
				if st.Err != nil {
					l.Error = printable(st.Err.Error())
					text += ": " + l.Error
				}
			}
			v.line(l, text)
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return
		}
	}
}

// connectCodex opens a stock Codex on the host, above a bridge of its own.
func connectCodex(ctx context.Context, lc launcher.Config, o *connectOptions) error {
	codex, err := exec.LookPath("codex")
	if err != nil {
		return &config.Problem{
			Stage: "codex", Err: errors.New("codex is not installed on this machine"),
			Hints: []string{"use Towline's own UI: `towline " + lc.Host + "`", "install it: `npm install -g @openai/codex`"}, Exit: config.ExitUnavailable,
		}
	}
	who := o.lines(o.errOut)
	lc = through(lc, who)
	lc.Keep = keepForStock
	bo := &bridgeOptions{hostOptions: o.hostOptions, out: io.Discard, errOut: io.Discard}
	dir, err := os.MkdirTemp("", "towline-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // nothing but a socket is in it
	bo.listen = "unix://" + filepath.Join(dir, "codex.sock")
	ln, err := listenBridge(ctx, lc, bo)
	if err != nil {
		return err
	}
	s, err := launcher.Connect(ctx, lc)
	if err != nil {
		_ = ln.Close()
		return err
	}
	l, err := o.lend.begin(ctx, s, lc.Host, lc.Log, func(text string) { who.Notice("", text) })
	if err != nil {
		return errors.Join(err, ln.Close(), s.Close())
	}
	who.hush() // the terminal is Codex's now
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return carry(gctx, s, l.dial, ln, &bridgeVoice{o: bo, host: lc.Host, enc: json.NewEncoder(io.Discard)})
	})
	args := []string{"--remote", ln.URL()}
	if o.project != "" {
		args = append(args, "-C", remotePath(o.project, s.Info().Report.Home))
	}
	child := exec.CommandContext(gctx, codex, args...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Cancel = func() error { return child.Process.Signal(os.Interrupt) }
	err = child.Run()
	stop()
	err = errors.Join(err, g.Wait(), ln.Close(), l.end())
	// Codex names the socket, which ended with us.
	fmt.Fprintf(o.errOut, "what it began goes on there. Come back: %s --codex, then /resume\n", o.comeBack(lc.Host))
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &config.Problem{Stage: "codex", Err: fmt.Errorf("codex ended with status %d", exit.ExitCode()), Hints: []string{"see what it printed above"}}
	}
	return err
}

// remotePath makes ~ the remote's home: nobody expands it there.
func remotePath(path, home string) string {
	if rest, ok := strings.CutPrefix(path, "~"); ok && home != "" && (rest == "" || rest[0] == '/') {
		return home + rest
	}
	return path
}
