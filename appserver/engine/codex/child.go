package codex

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"time"
)

const (
	// hurryTimeout is how long an app-server told to skip its drain may take.
	hurryTimeout = 3 * time.Second
	// pipeTimeout is how long a dead server's descendants may hold its output.
	pipeTimeout = 2 * time.Second
)

// child is an app-server of ours, in a process group of its own.
type child struct {
	cmd    *exec.Cmd
	said   tail          // the end of its standard error
	proxy  string        // the one in its environment that a Network named
	exited chan struct{} // closed when it is gone and reaped
	err    error         // how it ended; valid once exited
}

// startChild runs `codex app-server --listen url`. The caller must stop it.
func startChild(c Config, path, url string) (*child, error) {
	ch := &child{cmd: exec.Command(path, append(append([]string{"app-server"}, c.Args...), "--listen", url)...), exited: make(chan struct{})} //nolint:noctx // stop ends it, in steps
	ch.cmd.Env, ch.cmd.Dir, ch.cmd.Stderr = c.environ(), c.Cwd, &ch.said
	if proxy, bypass, _ := c.wanted(); proxy != "" {
		ch.cmd.Env, ch.proxy = withProxy(ch.cmd.Env, proxy, bypass), proxy
	}
	ch.cmd.WaitDelay = pipeTimeout
	ownGroup(ch.cmd)
	endWithParent(ch.cmd)
	started := make(chan error, 1)
	go func() {
		// The kernel ties "end with the parent" to the thread that started the
		// process. Locked and never unlocked, this one lives exactly as long as
		// the child is waited for.
		runtime.LockOSThread()
		defer close(ch.exited)
		if err := ch.cmd.Start(); err != nil {
			ch.err = err
			started <- err
			return
		}
		started <- nil
		reapGroup(ch.cmd.Process.Pid)
		ch.err = ch.cmd.Wait()
		if errors.Is(ch.err, exec.ErrWaitDelay) {
			ch.err = nil // it ended well; something it started still holds its output
		}
	}()
	return ch, <-started
}

// stop ends the child and waits for that: it may finish running turns for
// drain, then is told to hurry, then killed with all it started.
func (ch *child) stop(drain time.Duration) {
	for _, step := range []struct {
		act  func() error
		wait time.Duration
	}{
		{func() error { return terminate(ch.cmd.Process) }, drain},
		{func() error { return interrupt(ch.cmd.Process) }, hurryTimeout},
	} {
		if err := step.act(); errors.Is(err, os.ErrProcessDone) {
			<-ch.exited
			return
		} else if err != nil {
			break // beyond gentle reach
		}
		t := time.NewTimer(step.wait)
		select {
		case <-ch.exited:
			t.Stop()
			return
		case <-t.C:
		}
	}
	select {
	case <-ch.exited:
	default:
		_ = killGroup(ch.cmd.Process.Pid) // gone is as good
		<-ch.exited
	}
}
