package sshclient

import (
	"context"
	"errors"
	"io"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/launcher/remote"
)

// maxEnv bounds the variables sent with a command.
const maxEnv = 256

type (
	execPayload struct{ Command string }
	envPayload  struct{ Name, Value string }
	exitStatus  struct{ Status uint32 }
	exitSignal  struct {
		Signal string
		Core   bool
		Text   string
		Lang   string
	}
)

// exec starts a command in a channel of its own.
func (l *link) exec(ctx context.Context, command string, o remote.ExecOptions) (*process, error) {
	h := l.h
	ch, reqs, err := l.openSession(ctx)
	if err != nil {
		var refused *ssh.OpenChannelError
		switch {
		case errors.As(err, &refused):
			return nil, h.problem(remote.StageShell, &described{"the server opened no session", err}, refusal(refused), config.ExitUnavailable,
				"there may be too many in one connection: raise MaxSessions in its sshd_config")
		case ctx.Err() != nil:
			return nil, h.cut(remote.StageShell, ctx)
		}
		return nil, err
	}
	p := l.newProcess(ch, reqs)
	for _, kv := range h.environment() {
		name, value, _ := strings.Cut(kv, "=")
		// Servers refuse most variables; ssh does not wait to hear it either.
		_, _ = ch.SendRequest("env", false, ssh.Marshal(envPayload{name, value}))
	}
	if o.ForwardAgent && h.forwardedAgent() != "" {
		l.agentAsked.Store(true)
		if ok, _ := l.request(ctx, p, "auth-agent-req@openssh.com", nil); !ok {
			h.detail(remote.StageShell, "the server forwards no agent")
		}
	}
	ok, err := l.request(ctx, p, "exec", ssh.Marshal(execPayload{command}))
	if err == nil && ok {
		return p, nil
	}
	_ = p.Close()
	switch {
	case ctx.Err() != nil:
		return nil, h.cut(remote.StageShell, ctx)
	case l.why() != nil:
		return nil, l.why()
	}
	return nil, h.problem(remote.StageShell, errors.New("the server does not run commands for "+h.target.User), "", config.ExitDenied,
		"see what it says: `ssh "+h.label+" true`")
}

// sessionRetry is how long, and how often, a server that has no session left is
// asked again after one of ours: under `MaxSessions 1` a session counts until
// sshd has seen to its end, a little after we have.
const (
	sessionRetry      = 3 * time.Second
	sessionRetryEvery = 50 * time.Millisecond
)

// openSession opens the channel of a command.
func (l *link) openSession(ctx context.Context) (ssh.Channel, <-chan *ssh.Request, error) {
	again := l.hadSession.Swap(true)
	for until := time.Now().Add(sessionRetry); ; {
		ch, reqs, err := l.open(ctx, channelSession, nil)
		var refused *ssh.OpenChannelError
		if !again || !errors.As(err, &refused) || refused.Reason == ssh.Prohibited || time.Now().After(until) {
			return ch, reqs, err
		}
		t := time.NewTimer(sessionRetryEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, nil, err
		case <-l.done:
			t.Stop()
			return nil, nil, err
		}
	}
}

// request sends a channel request and waits for the answer, or for ctx.
func (l *link) request(ctx context.Context, p *process, name string, payload []byte) (bool, error) {
	type answer struct {
		ok  bool
		err error
	}
	c := make(chan answer, 1)
	if !l.spawn(func() {
		ok, err := p.ch.SendRequest(name, true, payload)
		c <- answer{ok, err}
	}) {
		return false, l.gone()
	}
	select {
	case a := <-c:
		return a.ok, a.err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case <-l.done:
		return false, l.gone()
	}
}

// environment is what SetEnv and SendEnv send along.
func (h *hop) environment() []string {
	var out []string
	for _, name := range slices.Sorted(mapKeys(h.target.SetEnv)) {
		out = append(out, name+"="+h.target.SetEnv[name])
	}
	for _, pattern := range h.target.SendEnv {
		if !strings.ContainsAny(pattern, "*?") {
			if v := h.run.cfg.Environ(pattern); v != "" && !has(out, pattern) {
				out = append(out, pattern+"="+v)
			}
			continue
		}
		for _, kv := range h.run.cfg.Env {
			name, _, ok := strings.Cut(kv, "=")
			if match, err := path.Match(pattern, name); ok && err == nil && match && !has(out, name) {
				out = append(out, kv)
			}
		}
	}
	return out[:min(len(out), maxEnv)]
}

func has(env []string, name string) bool {
	return slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
}

func mapKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// process is a remote command. It implements remote.Process.
type process struct {
	l        *link
	ch       ssh.Channel
	out, err *inbox
	close    func() error

	ended chan struct{} // closed once the channel is over and all output is here
	exit  error         // valid after ended
}

var _ remote.Process = (*process)(nil)

func (l *link) newProcess(ch ssh.Channel, reqs <-chan *ssh.Request) *process {
	p := &process{l: l, ch: ch, out: newInbox(), err: newInbox(), ended: make(chan struct{})}
	p.close = sync.OnceValue(func() error {
		p.out.close(net.ErrClosed)
		p.err.close(net.ErrClosed)
		if err := ch.Close(); err != nil && !isEnd(err) {
			return err
		}
		return nil
	})
	var pumps sync.WaitGroup
	pumps.Add(2)
	pump := func(b *inbox, r io.Reader) {
		if !l.spawn(func() { defer pumps.Done(); b.fill(r) }) {
			b.close(net.ErrClosed)
			pumps.Done()
		}
	}
	pump(p.out, ch)
	pump(p.err, ch.Stderr())
	if !l.spawn(func() { p.listen(reqs, &pumps) }) {
		p.exit = l.gone()
		close(p.ended)
	}
	return p
}

// listen follows the channel's requests to its end.
func (p *process) listen(reqs <-chan *ssh.Request, pumps *sync.WaitGroup) {
	defer close(p.ended)
	p.exit = &remote.ExitError{Status: -1}
	told := false
	for r := range reqs {
		var status exitStatus
		var signal exitSignal
		switch {
		case r.Type == "exit-status" && ssh.Unmarshal(r.Payload, &status) == nil:
			told, p.exit = true, nil
			if status.Status != 0 {
				p.exit = &remote.ExitError{Status: int(status.Status)}
			}
		case r.Type == "exit-signal" && ssh.Unmarshal(r.Payload, &signal) == nil:
			told, p.exit = true, &remote.ExitError{Status: -1, Signal: printable(signal.Signal, 32)}
		}
		_ = r.Reply(false, nil)
	}
	pumps.Wait()
	if why := p.l.why(); why != nil && !told {
		p.exit = why
	}
}

func (p *process) Stdin() io.WriteCloser { return processInput{p.ch} }
func (p *process) Stdout() io.Reader     { return p.out }
func (p *process) Stderr() io.Reader     { return p.err }
func (p *process) Close() error          { return p.close() }

// Wait returns once the command has ended and its output is here, which means that
// a command with more output than fits waits for its readers. Output that nobody
// read by then can still be read.
func (p *process) Wait() error {
	<-p.ended
	return p.exit
}

// processInput is a command's standard input.
type processInput struct{ ch ssh.Channel }

func (i processInput) Write(b []byte) (int, error) { return i.ch.Write(b) }

func (i processInput) Close() error {
	if err := i.ch.CloseWrite(); err != nil && !isEnd(err) {
		return err
	}
	return nil
}
