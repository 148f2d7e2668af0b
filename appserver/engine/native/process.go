package native

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"towline/appserver/engine/native/tool/exec"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// process is a program that belongs to its connection and dies with it.
type process struct {
	kind, id string
	mgr      *exec.Manager // of this process alone
	proc     *exec.Process
	// writes are done by one goroutine, so that input keeps its order and a
	// process that does not read holds up nobody.
	writes chan func()
}

// launch starts a process. wait blocks until it ended, forgets it, and returns
// its exit code; it must be called.
func (c *conn) launch(l *launch) (pr *process, wait func() int, err error) {
	if len(l.Command) == 0 || l.Command[0] == "" {
		return nil, nil, protocol.Errorf("command must not be empty")
	}
	pr = &process{kind: l.kind, id: l.id, writes: make(chan func(), writesWaiting)}
	pr.mgr = exec.NewManager(exec.Config{Sandbox: c.e.box, Env: c.e.envWithout(l.Env), Log: c.e.log})
	if err := c.remember(pr); err != nil {
		return nil, nil, err
	}
	cmd := exec.Command{
		Argv: l.Command, Cwd: l.cwd, TTY: l.TTY, Policy: l.policy, KeepStdin: l.StreamStdin,
		OutputCap: outputCap(l),
	}
	if l.Size != nil {
		cmd.Rows, cmd.Cols = l.Size.Rows, l.Size.Cols
	}
	for k, v := range l.Env {
		if v != nil {
			cmd.Env = append(cmd.Env, k+"="+*v)
		}
	}
	if l.TTY || l.StreamOutput {
		cmd.OnOutput = c.streamer(l)
	}
	ctx, cancel := c.ctx, context.CancelFunc(func() {})
	if !l.unlimited {
		limit := defaultTimeout
		if l.TimeoutMs != nil {
			limit = time.Duration(*l.TimeoutMs) * time.Millisecond
		}
		ctx, cancel = context.WithTimeout(c.ctx, limit)
	}
	proc, err := pr.mgr.Start(ctx, cmd)
	if err != nil {
		late := ctx.Err() != nil
		cancel()
		c.forget(pr)
		if late {
			return nil, nil, protocol.Errorf("%s: no time was given to run", l.kind)
		}
		return nil, nil, protocol.Internalf("failed to spawn command: %v", err)
	}
	c.mu.Lock()
	pr.proc = proc
	c.mu.Unlock()
	c.work.Go(func() { pr.feed(proc) })
	return pr, func() int {
		<-proc.Done()
		code := proc.ExitCode()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			code = timedOut
		}
		cancel()
		c.forget(pr)
		return code
	}, nil
}

func outputCap(l *launch) int64 {
	switch {
	case l.uncapped:
		return noOutputCap
	case l.OutputCap != nil:
		return min(max(*l.OutputCap, 1), noOutputCap)
	}
	return exec.DefaultOutputCap
}

// streamer sends output as it comes, up to the cap the client named.
func (c *conn) streamer(l *launch) func(stream string, chunk []byte) {
	limit := int64(-1)
	if l.OutputCap != nil {
		limit = *l.OutputCap
	}
	sent := make(map[string]int64)
	return func(stream string, chunk []byte) {
		reached := false
		if limit >= 0 {
			left := limit - sent[stream]
			if left < 0 {
				return
			}
			if reached = int64(len(chunk)) > left; reached {
				chunk = chunk[:left]
				sent[stream]++ // nothing more after this one
			}
		}
		sent[stream] += int64(len(chunk))
		method := "process/outputDelta"
		if l.kind == kindExec {
			method = "command/exec/outputDelta"
		}
		c.notify(method, map[string]any{
			l.key: l.id, "stream": stream, "deltaBase64": base64.StdEncoding.EncodeToString(chunk), "capReached": reached,
		})
	}
}

// envWithout is the environment commands start from, less what the client unset.
func (e *Engine) envWithout(env map[string]*string) func() []string {
	unset := make(map[string]bool)
	for k, v := range env {
		if v == nil {
			unset[k] = true
		}
	}
	if e.cfg.Environ == nil || len(unset) == 0 {
		return e.env()
	}
	return func() []string {
		out := make([]string, 0, len(e.cfg.Environ))
		for _, kv := range e.cfg.Environ {
			if k, _, _ := strings.Cut(kv, "="); !unset[k] {
				out = append(out, kv)
			}
		}
		return out
	}
}

// remember admits a process under its id.
func (c *conn) remember(pr *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.procs) >= maxProcesses {
		return protocol.Errorf("this connection runs %d processes already", maxProcesses)
	}
	key := pr.kind + "\x00" + pr.id
	if pr.id == "" {
		key = fmt.Sprintf("%s\x00\x00%p", pr.kind, pr)
	} else if c.procs[key] != nil {
		if pr.kind == kindExec {
			return protocol.Errorf("duplicate active command/exec process id: %q", pr.id)
		}
		return protocol.Errorf("duplicate active process handle: %q", pr.id)
	}
	c.procs[key] = pr
	return nil
}

// forget ends a process that may still run and gives its id free.
func (c *conn) forget(pr *process) {
	pr.mgr.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, p := range c.procs {
		if p == pr {
			delete(c.procs, key)
		}
	}
}

func (c *conn) process(kind, id string) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pr := c.procs[kind+"\x00"+id]; pr != nil && pr.proc != nil {
		return pr, nil
	}
	if kind == kindExec {
		return nil, protocol.Errorf("no active command/exec for process id %q", id)
	}
	return nil, protocol.Errorf("no active process for process handle %q", id)
}

// feed does the process's writes until it ends.
func (pr *process) feed(proc *exec.Process) {
	for {
		select {
		case f := <-pr.writes:
			f()
		case <-proc.Done():
			pr.drain()
			return
		}
	}
}

// drain lets whoever waits for a write learn that the process is gone.
func (pr *process) drain() {
	for {
		select {
		case f := <-pr.writes:
			f()
		default:
			return
		}
	}
}

// write queues input for a process and answers when it was taken.
func (c *conn) write(r *rpc.Request, kind, id, data string, closeStdin bool) error {
	pr, err := c.process(kind, id)
	if err != nil {
		return err
	}
	b, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return protocol.Errorf("%s requires valid base64 deltaBase64: %v", r.Method, err)
	}
	if len(b) == 0 && !closeStdin {
		return protocol.Errorf("%s requires deltaBase64 or closeStdin", r.Method)
	}
	job := func() {
		if len(b) > 0 {
			if err := pr.proc.Write(b); err != nil {
				r.Fail(protocol.Errorf("%v", err))
				return
			}
		}
		if closeStdin {
			pr.proc.CloseStdin()
		}
		r.Reply(nil)
	}
	select {
	case pr.writes <- job:
	default:
		return protocol.Errorf("%v", exec.ErrStuck)
	}
	select {
	case <-pr.proc.Done():
		pr.drain() // feed may have looked for the last time before
	default:
	}
	return errLater
}

func (c *conn) resize(kind, id string, size terminalSize) error {
	pr, err := c.process(kind, id)
	if err != nil {
		return err
	}
	if size.Rows == 0 || size.Cols == 0 {
		return protocol.Errorf("terminal size must not be zero")
	}
	if err := pr.proc.Resize(size.Rows, size.Cols); err != nil {
		return osError(err)
	}
	return nil
}

func (c *conn) kill(kind, id string) error {
	pr, err := c.process(kind, id)
	if err == nil {
		pr.proc.Kill()
	}
	return err
}
