package systemssh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// controlTimeout bounds the first words with a control master, which is on this
// machine and answers from its event loop.
const controlTimeout = 10 * time.Second

// mux is a connection through a control master of our own, over one connection
// that speaks SSH's own channel protocol with it.
type mux struct {
	target sshconfig.Target
	log    *slog.Logger
	server string
	client *ssh.Client
	nc     net.Conn // to the control socket
	login  *login

	wg   sync.WaitGroup
	end  sync.Once
	done chan struct{}
	mu   sync.Mutex // guards err
	err  error
}

var _ remote.Conn = (*mux)(nil)

// control connects to our control socket and asks for the proxy.
func control(ctx context.Context, path string) (*ssh.Client, net.Conn, error) {
	d := net.Dialer{Timeout: controlTimeout}
	nc, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(controlTimeout))
	conn, chans, reqs, err := ssh.NewControlClientConn(nc)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = nc.Close()
		return nil, nil, err
	}
	_ = nc.SetDeadline(time.Time{})
	return ssh.NewClient(conn, chans, reqs), nc, nil
}

// newMux takes a client over, and the login whose master it is.
func newMux(c Config, client *ssh.Client, nc net.Conn, l *login) *mux {
	m := &mux{target: c.Target, log: c.Log, server: l.track.server, client: client, nc: nc, login: l, done: make(chan struct{})}
	m.wg.Go(func() {
		err := client.Wait()
		m.finish(fmt.Errorf("the control master is gone: %w", err))
	})
	m.wg.Go(func() {
		<-l.child.done
		m.finish(nil)
	})
	return m
}

// finish ends the connection: because of err, or of what ssh said last.
func (m *mux) finish(err error) {
	m.end.Do(func() {
		_ = m.client.Close()
		_ = m.nc.Close()
		m.login.child.stop()
		if !errors.Is(err, net.ErrClosed) { // then ssh's end is why we are here
			err = m.login.after.reason(m.login.child.err)
		}
		m.login.dir.remove()
		m.mu.Lock()
		m.err = err
		m.mu.Unlock()
		close(m.done)
	})
}

func (m *mux) Server() string        { return m.server }
func (m *mux) Done() <-chan struct{} { return m.done }

func (m *mux) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *mux) Close() error {
	m.finish(net.ErrClosed)
	m.wg.Wait()
	return nil
}

// Exec runs a command on a channel of its own.
func (m *mux) Exec(ctx context.Context, command string, o remote.ExecOptions) (remote.Process, error) {
	return open(ctx, m, func() (*process, error) {
		return startProcess(m, command, o.ForwardAgent && forwards(m.target))
	})
}

// DialUnix opens a unix socket of the remote. Deadlines are not supported.
func (m *mux) DialUnix(ctx context.Context, path string) (net.Conn, error) {
	return m.dial(ctx, "unix", path)
}

// DialTCP opens a TCP address of the remote. Deadlines are not supported.
func (m *mux) DialTCP(ctx context.Context, addr string) (net.Conn, error) {
	return m.dial(ctx, "tcp", addr)
}

func (m *mux) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := open(ctx, m, func() (net.Conn, error) { return m.client.Dial(network, addr) })
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) {
		return c, err
	}
	switch said := clean(refused.Message); {
	case refused.Reason == ssh.Prohibited:
		return nil, fmt.Errorf("%s does not allow opening %s (AllowTcpForwarding): %s", destination(m.target), addr, said)
	case network == "unix": // sshd does not tell the one from the other
		return nil, fmt.Errorf("%s cannot open %s, or AllowStreamLocalForwarding forbids it: %s", destination(m.target), addr, said)
	default:
		return nil, fmt.Errorf("%s cannot open %s: %s", destination(m.target), addr, said)
	}
}

// forwards says whether the configuration forwards the agent.
func forwards(t sshconfig.Target) bool { return t.ForwardAgent != "" && t.ForwardAgent != "no" }

// open opens something within ctx. What comes too late is closed again: on a
// dead link an answer may take until somebody notices.
func open[T interface{ Close() error }](ctx context.Context, m *mux, f func() (T, error)) (T, error) {
	var none T
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	type result struct {
		v   T
		err error
	}
	got := make(chan result)
	m.mu.Lock()
	if err := m.err; err != nil {
		m.mu.Unlock()
		return none, err
	}
	m.wg.Go(func() { // ends with the connection at the latest
		v, err := f()
		select {
		case got <- result{v, err}:
		case <-ctx.Done():
			if err == nil {
				_ = v.Close()
			}
		}
	})
	m.mu.Unlock()
	select {
	case r := <-got:
		if r.err != nil && m.Err() != nil {
			return none, m.Err()
		}
		return r.v, r.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}
