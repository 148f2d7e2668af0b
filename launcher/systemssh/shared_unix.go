//go:build unix

package systemssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// shared is a connection through the user's own control master. It is used as
// ssh itself would, one control connection a channel: with the proxy protocol
// that our own masters are used with, OpenSSH (9.2 at least) ends the whole
// master when a client leaves after a channel was refused. That is not ours to
// risk here.
type shared struct {
	c      Config
	target sshconfig.Target
	path   string
	watch  *controlConn // open for as long as the master lives

	wg     sync.WaitGroup
	ctx    context.Context // until the end; it is the connection's life
	cancel context.CancelCauseFunc
	end    sync.Once
	done   chan struct{}
	mu     sync.Mutex // guards err
	err    error
}

var _ remote.Conn = (*shared)(nil)

// shareable says whether to use a control master of the user's, if one lives.
// One that asks each time it is used would ask for each of our channels.
func shareable(t sshconfig.Target) bool {
	return t.ControlPath != "" && t.ControlPath != "none" && t.ControlMaster != "ask" && t.ControlMaster != "autoask"
}

// MasterAlive says whether a control master of the user answers on the target's
// ControlPath and may be shared without asking. It is quick, logs in nowhere, and
// starts nothing.
func MasterAlive(ctx context.Context, t sshconfig.Target) bool {
	if !shareable(t) {
		return false
	}
	c, err := dialControl(ctx, t.ControlPath)
	if err != nil {
		return false
	}
	defer c.nc.Close()
	return c.within(ctx, controlTimeout, c.alive) == nil
}

// existing shares the user's control master, if there is one that lives.
func existing(ctx context.Context, c Config) remote.Conn {
	if !shareable(c.Target) {
		return nil
	}
	watch, err := dialControl(ctx, c.Target.ControlPath)
	if err != nil {
		return nil
	}
	if err := watch.within(ctx, controlTimeout, watch.alive); err != nil {
		_ = watch.nc.Close()
		return nil
	}
	for _, s := range []string{remote.StageDial, remote.StageHostKey, remote.StageAuth} {
		c.Events(remote.Event{Stage: s, Hop: destination(c.Target)})
		c.Events(remote.Event{Stage: s, Hop: destination(c.Target), Done: true, Text: "by the control master at " + clean(c.Target.ControlPath)})
	}
	s := &shared{c: c, target: c.Target, path: c.Target.ControlPath, watch: watch, done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.wg.Go(func() {
		_, _ = watch.nc.Read(make([]byte, 1)) // nothing comes until the end
		s.finish(errors.New("the control master is gone"))
	})
	if c.Target.ServerAliveInterval == 0 { // else the master watches the link itself
		s.wg.Go(s.heartbeat)
	}
	return s
}

// finish ends the connection.
func (s *shared) finish(err error) {
	s.end.Do(func() {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		s.cancel(err)
		_ = s.watch.nc.Close()
		close(s.done)
	})
}

func (s *shared) Server() string        { return "" }
func (s *shared) Done() <-chan struct{} { return s.done }

func (s *shared) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *shared) Close() error {
	s.finish(net.ErrClosed)
	s.wg.Wait()
	return nil
}

// heartbeat notices a dead peer behind a master that does not: a byte goes to a
// cat and comes back. Where a forced command makes something else of the cat,
// nothing is learned and nothing is concluded.
func (s *shared) heartbeat() {
	ctx, cancel := context.WithTimeout(s.ctx, aliveCount*s.c.beat)
	p, err := s.Exec(ctx, "exec cat", remote.ExecOptions{})
	cancel()
	if err != nil {
		return
	}
	defer p.Close()
	s.wg.Go(func() { _, _ = io.Copy(io.Discard, p.Stderr()) })
	beats := make(chan bool) // whether it was ours
	s.wg.Go(func() {
		defer close(beats)
		for b := make([]byte, 1); ; {
			if _, err := io.ReadFull(p.Stdout(), b); err != nil {
				return
			}
			select {
			case beats <- b[0] == '.':
			case <-s.ctx.Done():
				return
			}
		}
	})
	tick := time.NewTicker(s.c.beat)
	defer tick.Stop()
	proven := false // it is a cat
	for missed := 0; ; {
		if missed == aliveCount {
			if proven {
				s.finish(fmt.Errorf("no answer from %s for %v", destination(s.target), aliveCount*s.c.beat))
			}
			return
		}
		if _, err := io.WriteString(p.Stdin(), "."); err != nil {
			return
		}
		missed++
		for waiting := true; waiting; {
			select {
			case ours, open := <-beats:
				if !open || !ours {
					return
				}
				missed, proven = 0, true
			case <-tick.C:
				waiting = false
			case <-s.ctx.Done():
				return
			}
		}
	}
}

// enter makes a control connection that ends with s, for use by f.
func (s *shared) enter(ctx context.Context, f func(*controlConn) error) (*controlConn, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := joined(ctx, s.ctx)
	defer cancel()
	c, err := dialControl(ctx, s.path)
	if err == nil {
		if err = c.within(ctx, 0, func() error { return f(c) }); err != nil {
			_ = c.nc.Close()
		}
	}
	if err != nil && s.Err() != nil {
		err = s.Err()
	}
	return c, err
}

// Exec runs a command on a channel of its own.
func (s *shared) Exec(ctx context.Context, command string, o remote.ExecOptions) (remote.Process, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var pipes [6]*os.File // read and write ends of stdin, stdout, stderr
	defer func() {
		for _, f := range []*os.File{pipes[0], pipes[3], pipes[5]} {
			closeFile(f) // the master's own now
		}
	}()
	for i := 0; i < 6; i += 2 {
		var err error
		if pipes[i], pipes[i+1], err = os.Pipe(); err != nil {
			for _, f := range []*os.File{pipes[1], pipes[2], pipes[4]} {
				closeFile(f)
			}
			return nil, err
		}
	}
	p := &sharedProcess{in: pipes[1], out: pipes[2], errs: pipes[4], ended: make(chan struct{})}
	var err error
	p.c, err = s.enter(ctx, func(c *controlConn) error {
		return c.session(command, o.ForwardAgent && forwards(s.target), sentEnv(s.target, os.Environ()), pipes[0], pipes[3], pipes[5])
	})
	if err != nil {
		p.closeFiles()
		return nil, err
	}
	s.spawn(p.wait, p.c)
	return p, nil
}

// spawn watches a control connection until it or s ends.
func (s *shared) spawn(wait func(), c *controlConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stop := context.AfterFunc(s.ctx, func() { _ = c.nc.Close() })
	if s.err != nil { // Close may be waiting already
		_ = c.nc.Close()
		wait()
		return
	}
	s.wg.Go(func() { wait(); stop() })
}

// DialTCP opens a TCP address of the remote.
func (s *shared) DialTCP(ctx context.Context, addr string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port of %q: %w", addr, err)
	}
	return s.dial(ctx, host, uint32(port), addrOf{"tcp", addr})
}

// DialUnix opens a unix socket of the remote, with OpenSSH 9.4 or later: before
// that, control masters cannot.
func (s *shared) DialUnix(ctx context.Context, path string) (net.Conn, error) {
	r, err := releaseOf(ctx, s.c.Program)
	if err != nil {
		return nil, err
	}
	if !r.atLeast(9, 4) {
		return nil, fmt.Errorf("open %s on %s: a control master of OpenSSH %d.%d cannot; 9.4 can", path, destination(s.target), r.major, r.minor)
	}
	return s.dial(ctx, path, portUnix, addrOf{"unix", path})
}

func (s *shared) dial(ctx context.Context, host string, port uint32, addr addrOf) (net.Conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	in, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r, out, err := os.Pipe()
	if err != nil {
		_, _ = in.Close(), w.Close()
		return nil, err
	}
	c, err := s.enter(ctx, func(c *controlConn) error { return c.forward(host, port, in, out) })
	_, _ = in.Close(), out.Close()
	if err != nil {
		_, _ = r.Close(), w.Close()
		var no *masterError
		if errors.As(err, &no) {
			err = fmt.Errorf("%s cannot open %s, or does not allow it: %w", destination(s.target), addr.where, err)
		}
		return nil, err
	}
	p := &pipeConn{r: r, w: w, c: c, addr: addr}
	s.spawn(func() { _, _ = c.status(); _ = c.nc.Close() }, c)
	return p, nil
}

func closeFile(f *os.File) {
	if f != nil {
		_ = f.Close()
	}
}

// sharedProcess is a command behind pipes the master writes and reads.
type sharedProcess struct {
	c             *controlConn
	in, out, errs *os.File

	ended  chan struct{}
	result error
	once   sync.Once
}

func (p *sharedProcess) wait() {
	status, err := p.c.status()
	_ = p.c.nc.Close()
	switch {
	case err != nil: // a signal, a cut link or a closed channel: the master tells none of them
		p.result = &remote.ExitError{Status: -1}
	case status != 0:
		p.result = &remote.ExitError{Status: status}
	}
	close(p.ended)
}

func (p *sharedProcess) Stdin() io.WriteCloser { return p.in }
func (p *sharedProcess) Stdout() io.Reader     { return p.out }
func (p *sharedProcess) Stderr() io.Reader     { return p.errs }

func (p *sharedProcess) Wait() error {
	<-p.ended
	return p.result
}

func (p *sharedProcess) Close() error {
	p.once.Do(func() {
		_ = p.c.nc.Close()
		<-p.ended
		p.closeFiles()
	})
	return nil
}

func (p *sharedProcess) closeFiles() {
	_, _, _ = p.in.Close(), p.out.Close(), p.errs.Close()
}

// pipeConn is a forwarded connection over two pipes.
type pipeConn struct {
	r, w *os.File
	c    *controlConn
	addr addrOf
}

var _ net.Conn = (*pipeConn)(nil)

func (p *pipeConn) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *pipeConn) Write(b []byte) (int, error) { return p.w.Write(b) }

// CloseWrite ends this direction.
func (p *pipeConn) CloseWrite() error { return p.w.Close() }

func (p *pipeConn) Close() error {
	_ = p.w.Close() // perhaps a second time
	_ = p.c.nc.Close()
	return p.r.Close()
}

func (p *pipeConn) LocalAddr() net.Addr  { return addrOf{p.addr.network, "control master"} }
func (p *pipeConn) RemoteAddr() net.Addr { return p.addr }

func (p *pipeConn) SetDeadline(t time.Time) error {
	return errors.Join(p.r.SetDeadline(t), p.w.SetDeadline(t))
}
func (p *pipeConn) SetReadDeadline(t time.Time) error  { return p.r.SetDeadline(t) }
func (p *pipeConn) SetWriteDeadline(t time.Time) error { return p.w.SetDeadline(t) }

// addrOf is an address as seen from the remote.
type addrOf struct{ network, where string }

func (a addrOf) Network() string { return a.network }
func (a addrOf) String() string  { return a.where }
