package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"towline/config"
	"towline/forward/pipe"
	"towline/forward/sshfwd"
)

// newDial is what `towline login HOST` runs on a host whose SSH server forwards no
// ports: standard streams become a connection to a port of the loopback. Whoever
// can run it can do the same with nc.
func newDial() *cobra.Command {
	return &cobra.Command{
		Use:     "dial 127.0.0.1:PORT",
		Short:   "Make standard streams a connection to a port of this machine",
		Example: "  ssh dev-server towline app-server dial 127.0.0.1:1455",
		Hidden:  true,
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := loopbackAddr(args[0])
			if err != nil {
				return err
			}
			var d net.Dialer
			c, err := d.DialContext(cmd.Context(), "tcp", addr)
			if err != nil {
				return &config.Problem{Stage: sshfwd.Stage, Err: err, Hints: []string{"see what listens: `ss -ltn`"}, Exit: config.ExitUnavailable}
			}
			_, err = pipe.Join(cmd.Context(), c, &standardStreams{in: os.Stdin, out: os.Stdout}, pipe.Options{})
			return err
		},
	}
}

// standardStreams are a process's own as a connection.
type standardStreams struct{ in, out *os.File }

func (s *standardStreams) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *standardStreams) Write(p []byte) (int, error) { return s.out.Write(p) }
func (s *standardStreams) CloseWrite() error           { return s.out.Close() }
func (s *standardStreams) Close() error                { return errors.Join(s.in.Close(), s.out.Close()) }

// newHold holds a port until its input ends: a login that finds it busy takes its
// other one, which may be free where the browser is.
func newHold() *cobra.Command {
	var mark string
	c := &cobra.Command{
		Use:     "hold 127.0.0.1:PORT",
		Short:   "Occupy a port of this machine until standard input ends",
		Example: "  ssh dev-server towline app-server hold 127.0.0.1:1455",
		Hidden:  true,
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := loopbackAddr(args[0])
			if err != nil {
				return err
			}
			return hold(cmd.Context(), addr, mark, os.Stdin, cmd.OutOrStdout())
		},
	}
	c.Flags().StringVar(&mark, "mark", "held", "what to print before \"go\" once it is held")
	return c
}

func hold(ctx context.Context, addr, mark string, in io.Reader, out io.Writer) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return &config.Problem{Stage: sshfwd.Stage, Err: err, Hints: []string{"see what listens: `ss -ltnp`"}, Exit: config.ExitUnavailable}
	}
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	if _, err := fmt.Fprintln(out, mark+" go"); err != nil {
		return err
	}
	// Nobody waits for this one: a read of standard input cannot be interrupted, and
	// the process ends with hold.
	go func() {
		_, _ = io.Copy(io.Discard, in)
		_ = ln.Close()
	}()
	for {
		c, err := ln.Accept()
		if err != nil {
			return nil // its input has ended, or it was told to
		}
		_ = c.Close()
	}
}

// loopbackAddr is an address of this machine only.
func loopbackAddr(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	n, perr := strconv.ParseUint(port, 10, 16)
	if ip := net.ParseIP(host); err != nil || perr != nil || n == 0 || ip == nil || !ip.IsLoopback() {
		return "", &config.Problem{
			Stage: sshfwd.Stage, Err: fmt.Errorf("%q is no port of this machine's loopback", printable(s)),
			Hints: []string{"name it as 127.0.0.1:PORT"}, Exit: config.ExitUsage,
		}
	}
	return s, nil
}
