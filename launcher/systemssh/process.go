package systemssh

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"towline/launcher/remote"
)

// process is a command on a channel.
type process struct {
	s         *ssh.Session
	in        io.WriteCloser
	out, errs io.Reader

	ended  chan struct{} // the command is over, and result says how
	result error
	once   sync.Once
	closed chan struct{}
}

var _ remote.Process = (*process)(nil)

func startProcess(m *mux, command string, forward bool) (*process, error) {
	s, err := m.client.NewSession()
	if err != nil {
		return nil, err
	}
	p := &process{s: s, ended: make(chan struct{}), closed: make(chan struct{})}
	if err := p.start(m, command, forward); err != nil {
		_ = s.Close()
		return nil, err
	}
	return p, nil
}

func (p *process) start(m *mux, command string, forward bool) error {
	var err error
	if p.in, err = p.s.StdinPipe(); err != nil {
		return err
	}
	if p.out, err = p.s.StdoutPipe(); err != nil {
		return err
	}
	if p.errs, err = p.s.StderrPipe(); err != nil {
		return err
	}
	if forward {
		// The control master serves the agent. A server that refuses is no
		// failure: the command runs without one.
		if err := agent.RequestAgentForwarding(p.s); err != nil {
			m.log.Info("agent forwarding refused", "error", err)
		}
	}
	for _, e := range sentEnv(m.target, os.Environ()) {
		name, value, _ := strings.Cut(e, "=")
		// Not Setenv: that waits for an answer, and no is an answer too.
		if _, err := p.s.SendRequest("env", false, ssh.Marshal(struct{ Name, Value string }{name, value})); err != nil {
			return err
		}
	}
	if err := p.s.Start(command); err != nil {
		return err
	}
	m.wg.Go(func() { // ends with the channel, and that with the connection
		p.result = exitError(p.s.Wait())
		close(p.ended)
	})
	return nil
}

func (p *process) Stdin() io.WriteCloser { return p.in }
func (p *process) Stdout() io.Reader     { return p.out }
func (p *process) Stderr() io.Reader     { return p.errs }

func (p *process) Wait() error {
	select {
	case <-p.ended:
		return p.result
	case <-p.closed:
	}
	select {
	case <-p.ended:
		return p.result
	default:
		return &remote.ExitError{Status: -1}
	}
}

func (p *process) Close() error {
	var err error
	p.once.Do(func() {
		if err = p.s.Close(); errors.Is(err, io.EOF) {
			err = nil // the other side had closed it
		}
		close(p.closed)
	})
	return err
}

// exitError puts x/crypto's errors into our words.
func exitError(err error) error {
	var status *ssh.ExitError
	var missing *ssh.ExitMissingError
	switch {
	case errors.As(err, &status) && status.Signal() != "":
		return &remote.ExitError{Status: -1, Signal: clean(status.Signal())}
	case errors.As(err, &status):
		return &remote.ExitError{Status: status.ExitStatus()}
	case errors.As(err, &missing):
		return &remote.ExitError{Status: -1}
	}
	return err
}
