package systemssh

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxLine    = 4 << 10 // bytes of one line of ssh's stderr
	stopGrace  = 3 * time.Second
	stopAgain  = 100 * time.Millisecond
	afterGrace = time.Second // for those who hold ssh's output open after it ended
)

// child is a running ssh.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended and its words were read
	err  error         // how it ended; valid after done
	once sync.Once     // of stop
}

// startChild runs ssh in a process group of its own, with its stderr going to
// line, one line a call. What it reads and writes otherwise is nothing, unless
// pipes is given.
func startChild(program string, args, env []string, line func(string), pipes func(*exec.Cmd) error) (*child, error) {
	c := &child{cmd: exec.Command(program, args...), done: make(chan struct{})}
	c.cmd.Env = env
	c.cmd.WaitDelay = afterGrace
	words := &lines{line: line}
	c.cmd.Stderr = words
	isolate(c.cmd)
	if pipes != nil {
		if err := pipes(c.cmd); err != nil {
			return nil, err
		}
	}
	started := make(chan error, 1)
	go func() { // ends with the process; stop waits for it
		// The kernel ends a child whose parent died when the thread that made it
		// does, so that thread must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.done)
		err := c.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		c.err = c.cmd.Wait()
		if errors.Is(c.err, exec.ErrWaitDelay) { // a ProxyCommand that did not go by itself
			killGroup(c.cmd.Process)
		}
		words.flush()
	}()
	return c, <-started
}

// stop ends ssh and waits until it is gone.
func (c *child) stop() {
	c.once.Do(func() {
		limit := time.NewTimer(stopGrace)
		defer limit.Stop()
		// Again and again: a signal that comes just before ssh goes to sleep is
		// only noticed when it wakes up.
		again := time.NewTicker(stopAgain)
		defer again.Stop()
		for {
			terminate(c.cmd.Process)
			select {
			case <-c.done:
				return
			case <-again.C:
			case <-limit.C:
				killGroup(c.cmd.Process)
				_ = c.cmd.Process.Kill()
				return
			}
		}
	})
	<-c.done
}

// environ is our environment for ssh, with these put in.
func environ(extra ...string) []string {
	mine := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.ContainsFunc(extra, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	})
	return append(mine, extra...)
}

// lines splits what is written to it into lines, and long ones into pieces of
// maxLine. They keep their line ends.
type lines struct {
	line func(string)
	buf  []byte
}

var _ io.Writer = (*lines)(nil)

func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		m := min(len(p), maxLine-len(l.buf))
		if i := bytes.IndexByte(p[:m], '\n'); i >= 0 {
			m = i + 1
		}
		l.buf, p = append(l.buf, p[:m]...), p[m:]
		if len(l.buf) == maxLine || l.buf[len(l.buf)-1] == '\n' {
			l.flush()
		}
	}
	return n, nil
}

func (l *lines) flush() {
	if len(l.buf) > 0 {
		l.line(string(l.buf))
	}
	l.buf = l.buf[:0]
}
