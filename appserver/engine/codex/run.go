package codex

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"towline/appserver/protocol"
	"towline/config"
)

const (
	// startTimeout is how long a fresh app-server may take to answer.
	startTimeout = 30 * time.Second
	// stableAfter makes the next death the first of a new row.
	stableAfter = time.Minute
	// failedAfter starts that end before they answer, the engine counts as failed:
	// clients are refused at once rather than kept waiting. It is still retried.
	failedAfter = 4
	// absentRetry is how often a missing or too old program is looked for again,
	// so that installing it is all a person has to do.
	absentRetry = 15 * time.Second
	// loginPoll is how often a Codex without an account is asked again: one who
	// types `codex login` in a shell changes a file, which no notification tells.
	loginPoll = 2 * time.Second
)

// fault is why there is no server: what people read, and how to go on.
type fault struct {
	err    error
	hints  []string
	detail string
	absent bool // no program to start: waiting will not help, installing will
	served bool // it had been answering
	renew  bool // it was well, and is started anew at once
}

func (f *fault) Error() string { return f.err.Error() }

// Run keeps an app-server at hand until ctx ends, then stops the one it owns:
// running turns may end first, for DrainTimeout. It may be called once.
func (e *Engine) Run(ctx context.Context) error {
	defer e.set(protocol.EngineState{State: stateFailed, Problem: "the engine was stopped"}, "")
	early := 0 // starts in a row that never answered
	for {
		began := time.Now()
		f := e.serve(ctx)
		if ctx.Err() != nil || e.isRetired() {
			return nil
		}
		if time.Since(began) >= stableAfter {
			e.retry.reset()
		}
		if f.renew {
			e.cfg.Log.Info("codex is started anew", "why", f.Error())
			e.retry.reset()
			early = 0
			e.set(protocol.EngineState{State: stateRestarting, Problem: f.Error()}, "")
			continue
		}
		delay := e.retry.next()
		st := protocol.EngineState{State: stateRestarting, Problem: f.Error(), Hints: f.hints, Detail: f.detail}
		if f.served {
			early = 0
		} else {
			early++
		}
		switch {
		case f.absent:
			st.State, delay = stateFailed, absentRetry
		case early >= failedAfter:
			st.State = stateFailed
		}
		st.RetryInMs = delay.Milliseconds()
		e.set(st, "")
		e.cfg.Log.Warn("codex is not there", "problem", st.Problem, "state", st.State, "retry_in", delay)
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// serve joins or starts a server and returns when it is gone.
func (e *Engine) serve(ctx context.Context) *fault {
	if f := e.cfg.homeless(); f != nil {
		return f
	}
	for _, socket := range e.running() {
		w, err := attach(ctx, socket)
		if err != nil {
			e.cfg.Log.Debug("nothing to join", "socket", socket, "err", err)
			continue
		}
		e.cfg.Log.Info("joined a running codex", "socket", socket, "version", w.version)
		return e.joined(ctx, w, socket)
	}
	if ctx.Err() != nil {
		return &fault{err: ctx.Err()}
	}
	path, _, err := find(ctx, e.cfg)
	if err != nil {
		return &fault{err: bare(err), hints: config.Hints(err), absent: true}
	}
	url, socket := "unix://", e.cfg.controlSocket()
	if !e.cfg.ShareControlSocket || len(e.cfg.Args) > 0 {
		if err := config.PrivateDir(e.cfg.RuntimeDir); err != nil {
			return &fault{err: bare(err), hints: config.Hints(err), absent: true}
		}
		socket = e.cfg.privateSocket()
		url += socket
	}
	return e.own(ctx, path, url, socket)
}

// homeless reports a home that Codex would refuse: it makes the usual one
// itself, but not one that somebody has named.
func (c Config) homeless() *fault {
	if c.home() == "" {
		return &fault{
			err: errors.New("where Codex keeps its things is unknown: neither CODEX_HOME nor HOME is set"), absent: true,
			hints: []string{"set `home` under [engine.codex] in config.toml"},
		}
	}
	if c.CodexHome == "" && getenv(c.Environ, "CODEX_HOME") == "" {
		return nil
	}
	if _, err := os.Stat(c.home()); errors.Is(err, fs.ErrNotExist) {
		return &fault{
			err: fmt.Errorf("CODEX_HOME is %s, and there is no such folder", c.home()), absent: true,
			hints: []string{"run `mkdir -p " + c.home() + "`, or leave CODEX_HOME unset to use ~/.codex"},
		}
	}
	return nil
}

// running lists where a server may already answer: Codex's daemon, or one of
// ours that outlived us.
func (e *Engine) running() []string {
	if len(e.cfg.Args) > 0 {
		return nil
	}
	sockets := []string{e.cfg.controlSocket()}
	if !e.cfg.ShareControlSocket && e.cfg.RuntimeDir != "" {
		sockets = append(sockets, e.cfg.privateSocket())
	}
	return sockets
}

// joined uses a server that is not ours until it ends.
func (e *Engine) joined(ctx context.Context, w *watch, socket string) *fault {
	defer w.close()
	if older(w.version, e.cfg.MinVersion) {
		return &fault{
			err:    fmt.Errorf("the Codex daemon that runs here is %s: Towline needs %s or newer", w.version, e.cfg.MinVersion),
			hints:  []string{"update Codex: `npm install -g @openai/codex@latest`", "then stop the daemon: `codex app-server daemon stop`"},
			absent: true,
		}
	}
	defer e.setProxy(ProxyNone)
	e.follow(ctx, w, socket, nil)
	return &fault{err: errors.New("the Codex daemon that Towline had joined is gone"), served: true}
}

// own starts a server, uses it until it ends, and makes sure that it has.
func (e *Engine) own(ctx context.Context, path, url, socket string) *fault {
	ch, err := startChild(e.cfg, path, url)
	if err != nil {
		return &fault{err: fmt.Errorf("codex cannot be started: %w", err), hints: []string{"run `" + path + " --version` to see what is wrong with it"}}
	}
	e.keeps(true)
	defer e.keeps(false)
	defer ch.stop(e.cfg.DrainTimeout)
	w, f := e.await(ctx, ch, socket)
	if f != nil {
		if len(f.hints) == 0 {
			f.hints = []string{"run `" + path + " app-server --listen " + url + "` to see what it says"}
		}
		return f
	}
	defer w.close()
	e.cfg.Log.Info("started codex", "path", path, "pid", ch.cmd.Process.Pid, "socket", socket, "version", w.version)
	defer e.setProxy(ProxyNone)
	renew := e.follow(ctx, w, socket, ch)
	if ctx.Err() != nil {
		return &fault{err: ctx.Err()}
	}
	if renew {
		// Nobody is to be given the one that goes.
		e.set(protocol.EngineState{State: stateRestarting, Problem: errRenewed.Error()}, "")
		return &fault{err: errRenewed, served: true, renew: true}
	}
	// A server closes its connections before it ends.
	ch.stop(e.cfg.DrainTimeout)
	return &fault{err: fmt.Errorf("codex ended (%s)", ch.ending()), detail: ch.said.String(), served: true}
}

// await connects until the fresh server answers.
func (e *Engine) await(ctx context.Context, ch *child, socket string) (*watch, *fault) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		w, err := attach(ctx, socket)
		if err == nil {
			return w, nil
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ch.exited:
			t.Stop()
			return nil, &fault{err: fmt.Errorf("codex ended while it started: %s", ch.ending()), detail: ch.said.String()}
		case <-ctx.Done():
			t.Stop()
			return nil, &fault{err: fmt.Errorf("codex did not answer within %v: %w", startTimeout, bare(err)), detail: ch.said.String()}
		}
	}
}

// tell sets the state of a server that answers. The channel, which may be nil,
// says when to ask it again.
func (e *Engine) tell(ctx context.Context, w *watch, socket string) (again <-chan time.Time) {
	usable, model := w.facts(ctx)
	st := protocol.EngineState{State: stateReady, Version: w.version, Model: model}
	if !usable {
		st.Problem = "Codex has no account yet"
		st.Hints = []string{"log in: `codex login`, or without a browser `codex login --device-auth`"}
		again = time.After(loginPoll)
	}
	e.set(st, socket)
	return again
}

// ending says how the process ended and, when it said so, why.
func (ch *child) ending() string {
	how := "exit status 0"
	if ch.err != nil {
		how = ch.err.Error()
	}
	if why := verdict(ch.said.String()); why != "" && ch.err != nil {
		return how + ": " + why
	}
	return how
}

// bare drops the stage a Problem adds, which a sentence of its own does not need.
func bare(err error) error {
	var p *config.Problem
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
