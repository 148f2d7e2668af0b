package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"towline/config"
)

func newDetach() *cobra.Command {
	return &cobra.Command{
		Use:   "detach [HOST]",
		Short: "Close the UIs you left open on this machine",
		Long: "detach closes the UIs that run on this machine, for all hosts or for one, and\n" +
			"says how to come back to each. Work goes on without them, here as from inside\n" +
			"the UI (ctrl+d, or d while the link is down). UIs on other machines, and those\n" +
			"opened with plain `ssh`, stay.",
		Example: "  towline detach\n  towline detach dev-server",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			paths, err := config.Locate(os.Getenv)
			if err != nil {
				return err
			}
			host := ""
			if len(args) == 1 {
				host = args[0]
			}
			return detach(cmd.Context(), paths, host, len(args) == 1, cmd.OutOrStdout())
		},
	}
}

// openUI is what a UI says of itself to `towline detach`.
type openUI struct {
	Host     string `json:"host"` // "" for this machine's own daemon
	ComeBack string `json:"comeBack"`
}

// uiDir holds one socket for each UI that runs.
func uiDir(paths config.Paths) string { return filepath.Join(paths.Runtime, "ui") }

// detachTimeout bounds the conversation with one UI.
const detachTimeout = 10 * time.Second

func detach(ctx context.Context, paths config.Paths, host string, one bool, out io.Writer) error {
	sockets, err := filepath.Glob(filepath.Join(uiDir(paths), "*.sock"))
	if err != nil {
		return err
	}
	n := 0
	for _, path := range sockets {
		u, left, err := askToLeave(ctx, path, func(u openUI) bool { return !one || u.Host == host })
		switch {
		case err != nil:
			_ = os.Remove(path) // nobody answers there: what is left of one that was killed
		case left:
			n++
			fmt.Fprintf(out, "detached from %s. Come back: %s\n", orHere(u.Host), u.ComeBack)
		}
	}
	if n == 0 {
		what := "no UI of yours is open on this machine"
		if one {
			what += " for " + orHere(host)
		}
		return &config.Problem{Stage: "detach", Err: errors.New(what), Hints: []string{"from inside a UI, ctrl+d leaves it"}}
	}
	return nil
}

func orHere(host string) string {
	if host == "" {
		return "this machine's daemon"
	}
	return printable(host)
}

// askToLeave talks to the UI behind path and, if wanted, has it leave and waits
// until it has.
func askToLeave(ctx context.Context, path string, wanted func(openUI) bool) (u openUI, left bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return u, false, err
	}
	defer func() { _ = c.Close() }() // said all there is to say
	_ = c.SetDeadline(time.Now().Add(detachTimeout))
	r := bufio.NewReader(io.LimitReader(c, 64<<10))
	line, err := r.ReadBytes('\n')
	if err != nil {
		return u, false, err
	}
	if err := json.Unmarshal(line, &u); err != nil || !wanted(u) {
		return u, false, err
	}
	if _, err := io.WriteString(c, "detach\n"); err != nil {
		return u, false, err
	}
	_, _ = r.ReadByte() // the end, once the UI is gone
	return u, true, nil
}

// detachable is a UI that can be told to leave. Its context ends when it was.
type detachable struct {
	ctx    context.Context
	cancel context.CancelFunc
	told   atomic.Bool
	ln     net.Listener
	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
}

// watchDetach makes this process known to `towline detach`. That it cannot (a
// path too long, a full disk) is no reason not to open a UI.
func watchDetach(ctx context.Context, paths config.Paths, u openUI) *detachable {
	d := &detachable{conns: make(map[net.Conn]struct{})}
	d.ctx, d.cancel = hangUp(ctx)
	dir := uiDir(paths)
	if config.PrivateDir(paths.Runtime) != nil || config.PrivateDir(dir) != nil {
		return d
	}
	path := filepath.Join(dir, strconv.Itoa(os.Getpid())+".sock")
	_ = os.Remove(path) // of a process that had our number before
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return d
	}
	d.ln = ln
	hello, err := json.Marshal(u)
	if err != nil {
		panic("towline: what a UI says of itself cannot be said: " + err.Error())
	}
	hello = append(hello, '\n')
	d.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			if len(d.conns) >= 8 || d.ctx.Err() != nil { // more than one person types at once
				d.mu.Unlock()
				_ = c.Close()
				continue
			}
			d.conns[c] = struct{}{}
			d.mu.Unlock()
			d.wg.Go(func() { d.talk(c, hello) })
		}
	})
	return d
}

// hangUp is a context that ends when the terminal does: a window that is closed
// leaves as a person would, so that the host does not wait for them to return.
func hangUp(ctx context.Context) (context.Context, context.CancelFunc) {
	if signal.Ignored(syscall.SIGHUP) { // nohup
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, syscall.SIGHUP)
}

// talk serves one `towline detach`. Its connection ends when the UI has.
func (d *detachable) talk(c net.Conn, hello []byte) {
	_ = c.SetDeadline(time.Now().Add(detachTimeout))
	_, err := c.Write(hello)
	if err == nil {
		line, _ := bufio.NewReader(io.LimitReader(c, 64)).ReadString('\n')
		if line == "detach\n" {
			d.told.Store(true)
			d.cancel()
			return // close ends c
		}
	}
	d.mu.Lock()
	delete(d.conns, c)
	d.mu.Unlock()
	_ = c.Close()
}

// asked reports whether someone typed `towline detach`.
func (d *detachable) asked() bool { return d.told.Load() }

// close ends what watchDetach began, and tells whoever waits that the UI is gone.
func (d *detachable) close() {
	d.cancel()
	if d.ln != nil {
		_ = d.ln.Close() // removes the socket
	}
	d.mu.Lock()
	for c := range d.conns {
		_ = c.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}
