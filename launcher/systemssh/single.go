package systemssh

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"

	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// Without multiplexing one ssh is one channel, and its command must be named
// when it logs in, before anybody knows what to run. So it is told to run a line
// of sh that says it is there, reads the real command from its input, and becomes
// it: one login, whose stages are the same, for one Exec.

// waiter is what ssh is told to run. It holds no single quote and no backslash,
// so every login shell reads it the same way. printf %b undoes encodeCommand.
const waiter = `/bin/sh -c 'echo %s; IFS= read -r towline_c && exec "${SHELL:-/bin/sh}" -c "$(printf %%b "$towline_c")"'`

// noise bounds, in bytes, what a login shell may say before the marker.
const noise = 1 << 20

// Why what needs multiplexing does not work without.
var (
	errSingle  = errors.New("the system ssh carries one channel here, which is in use: there is no control master on this machine")
	errForward = errors.New("the system ssh cannot forward here: there is no control master on this machine")
)

// single is a connection of one channel.
type single struct {
	target sshconfig.Target
	server string
	login  *login
	in     *os.File
	out    *os.File
	lines  *bufio.Reader // of out
	errs   *spool

	used atomic.Bool
	wg   sync.WaitGroup
	end  sync.Once
	done chan struct{}
	mu   sync.Mutex // guards err
	err  error
}

var (
	_ remote.Conn    = (*single)(nil)
	_ remote.Process = (*onlyProcess)(nil)
)

// dialSingle logs in with a command that waits to be told what it is.
func dialSingle(ctx context.Context, l *login) (*single, error) {
	s := &single{target: l.c.Target, login: l, errs: newSpool(), done: make(chan struct{})}
	marker := "towline-" + rand.Text()
	l.last, l.apart = remote.StageShell, s.errs
	var theirs []*os.File
	err := l.start(singleArgs(l.c, l.r, l.scratch, fmt.Sprintf(waiter, marker)), func(cmd *exec.Cmd) error {
		// Not exec's own pipes: Wait closes those, with what is still in them.
		in, w, err := os.Pipe()
		if err != nil {
			return err
		}
		r, out, err := os.Pipe()
		if err != nil {
			_, _ = in.Close(), w.Close()
			return err
		}
		cmd.Stdin, cmd.Stdout = in, out
		s.in, s.out, theirs = w, r, []*os.File{in, out}
		return nil
	})
	for _, f := range theirs {
		_ = f.Close()
	}
	if err != nil {
		s.closeFiles()
		return nil, err
	}
	s.lines = bufio.NewReader(s.out)
	there := make(chan error, 1)
	s.wg.Go(func() { // ends with ssh's output
		if err := s.await(marker); !errors.Is(err, io.EOF) {
			there <- err
		}
	})
	err = l.run(ctx, func() (bool, error) {
		select {
		case err := <-there:
			if err != nil {
				l.drain()
				err = l.failed(err)
			}
			return err == nil, err
		default:
			return false, nil
		}
	})
	if err != nil {
		s.closeFiles()
		s.wg.Wait()
		return nil, err
	}
	s.server = l.track.server
	s.wg.Go(func() {
		<-l.child.done
		s.finish(nil)
	})
	return s, nil
}

// await reads past what the login shell says, to the marker. It returns io.EOF
// when ssh ended instead: ssh's own words say why.
func (s *single) await(marker string) error {
	for left := noise; left > 0; {
		line, err := s.lines.ReadSlice('\n')
		left -= len(line)
		if strings.Contains(string(line), marker) {
			return nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return io.EOF
		}
	}
	return errors.New("the login shell says too much before it runs a command")
}

func (s *single) closeFiles() {
	for _, f := range []*os.File{s.in, s.out} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// finish ends the connection: because of err, or of what ssh said last.
func (s *single) finish(err error) {
	s.end.Do(func() {
		_ = s.in.Close()
		s.login.child.stop()
		s.errs.end()
		if err == nil {
			err = s.login.after.reason(s.login.child.err)
		}
		s.login.dir.remove()
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		close(s.done)
	})
}

func (s *single) Server() string        { return s.server }
func (s *single) Done() <-chan struct{} { return s.done }

func (s *single) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *single) Close() error {
	s.finish(net.ErrClosed)
	s.wg.Wait()
	_ = s.out.Close()
	return nil
}

// Exec works once: the connection is the command's.
func (s *single) Exec(ctx context.Context, command string, _ remote.ExecOptions) (remote.Process, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	if !s.used.CompareAndSwap(false, true) {
		return nil, errSingle
	}
	if _, err := io.WriteString(s.in, encodeCommand(command)); err != nil {
		return nil, err
	}
	return &onlyProcess{s}, nil
}

// DialUnix says why it does not work.
func (s *single) DialUnix(context.Context, string) (net.Conn, error) { return nil, errForward }

// DialTCP says why it does not work.
func (s *single) DialTCP(context.Context, string) (net.Conn, error) { return nil, errForward }

// onlyProcess is the one command of a single.
type onlyProcess struct{ s *single }

func (p *onlyProcess) Stdin() io.WriteCloser { return p.s.in }
func (p *onlyProcess) Stdout() io.Reader     { return p.s.lines }
func (p *onlyProcess) Stderr() io.Reader     { return p.s.errs }

// Close ends the connection too: there is nothing else to it.
func (p *onlyProcess) Close() error { return p.s.Close() }

func (p *onlyProcess) Wait() error {
	<-p.s.done
	var exit *exec.ExitError
	err := p.s.login.child.err
	switch {
	case errors.Is(p.s.Err(), net.ErrClosed):
		return &remote.ExitError{Status: -1}
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	case errors.As(err, &exit) && exit.ExitCode() >= 0 && !(exit.ExitCode() == 255 && len(p.s.login.after.all()) > 0):
		return &remote.ExitError{Status: exit.ExitCode()}
	}
	return p.s.Err()
}

// encodeCommand writes a command as one line that printf %b turns back.
func encodeCommand(c string) string {
	return strings.NewReplacer(`\`, `\0134`, "\n", `\0012`, "\r", `\0015`).Replace(c) + "\n"
}
