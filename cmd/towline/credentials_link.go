package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"towline/config"
	"towline/forward/custody"
	"towline/launcher"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// doorReceive is the command of Towline's own SSH door that receives credentials.
const doorReceive = "credentials receive"

// maxComplaint bounds what is kept of a program's standard error.
const maxComplaint = 4 << 10

// reachOptions are the flags of the commands that bring something to a host.
type reachOptions struct {
	hostOptions
	install bool
	asJSON  bool
}

// reach connects to a host as far as what is there. Where nothing is, it offers to
// put this program there, as connect does.
func (o *reachOptions) reach(ctx context.Context, host string, errOut io.Writer) (*launcher.Reached, error) {
	lc, err := o.launcher(host, errOut)
	if err != nil {
		return nil, err
	}
	lc.Fresh = true // what is there decides how it is done
	if !o.asJSON {  // a script answers nothing
		lc = through(lc, o.lines(errOut))
	}
	lc.Install = launcher.InstallAsk
	if o.install {
		lc.Install = launcher.InstallAlways
	}
	return launcher.Reach(ctx, lc)
}

// receiver is the program on a host that credentials are given to.
type receiver struct {
	at *launcher.Reached
}

// hasTowline reports whether there is a Towline to receive them.
func (r receiver) hasTowline() bool {
	return r.at.Report.Door || path.IsAbs(r.at.Program(bootstrap.Towline))
}

// open starts the receiving program and gives its streams.
func (r receiver) open(ctx context.Context) (*stream, error) {
	var p remote.Process
	var err error
	if r.at.Report.Door {
		p, err = r.at.Conn.Exec(ctx, doorReceive, remote.ExecOptions{})
	} else {
		p, err = r.at.Run(ctx, bootstrap.Program{
			Path: r.at.Program(bootstrap.Towline), Args: []string{"credentials", "receive"}, Input: bootstrap.InputAll,
		})
	}
	if err != nil {
		var known *config.Problem
		if lost := r.at.Lost(); lost != nil && !errors.As(err, &known) {
			return nil, lost
		}
		return nil, err
	}
	return newStream(p), nil
}

// stream is a running program's input and output as one, with the end of what it
// said besides.
type stream struct {
	remote.Process
	said  tail
	wg    sync.WaitGroup
	once  sync.Once
	over  atomic.Bool // it says no more
	ended error       // how, once closed
}

// lastWords is how long a program that says no more may take to end.
const lastWords = 3 * time.Second

func newStream(p remote.Process) *stream {
	s := &stream{Process: p}
	s.wg.Go(func() { _, _ = io.Copy(&s.said, p.Stderr()) }) // ends with the program
	return s
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stdout().Read(b)
	if err != nil {
		s.over.Store(true)
	}
	return n, err
}

func (s *stream) Write(b []byte) (int, error) { return s.Stdin().Write(b) }

// Close ends the program. One that ended by itself is heard out first.
func (s *stream) Close() error {
	s.once.Do(func() {
		if s.over.Load() {
			drop := time.AfterFunc(lastWords, func() { _ = s.Process.Close() })
			s.ended = s.Wait()
			s.wg.Wait()
			drop.Stop()
		}
		_ = s.Process.Close()
		s.wg.Wait()
	})
	return nil
}

// complaint is what the program said on standard error, on one line.
func (s *stream) complaint() string {
	if p, ok := s.Process.(interface{ LastWords() string }); ok {
		return config.OneLine(p.LastWords())
	}
	return config.OneLine(s.said.String())
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.b = append(t.b, p...); len(t.b) > maxComplaint {
		t.b = append(t.b[:0], t.b[len(t.b)-maxComplaint:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// explain adds what the program said to an error that it ended before it was
// ready, and what helps against a program that is too old.
func (r receiver) explain(err error, s *stream) error {
	if !errors.Is(err, custody.ErrTooOld) {
		return err
	}
	if lost := r.at.Lost(); lost != nil {
		return lost
	}
	_ = s.Close() // all it said is here then
	said := strings.TrimPrefix(strings.TrimPrefix(s.complaint(), "towline: "), "error: ")
	var exit *remote.ExitError
	if errors.As(s.ended, &exit) && exit.Status == config.ExitDenied {
		return &config.Problem{
			Stage: custody.StageStore, Err: fmt.Errorf("%s: %s", printable(r.at.Host), said), Exit: config.ExitDenied,
			Hints: []string{"see what your key may do there: `ssh " + r.at.Host + " help`", "use a key of an admin's, or ask one"},
		}
	}
	text := "the towline there cannot receive credentials"
	if said != "" {
		text += ": " + said
	}
	p := &config.Problem{Stage: custody.StageVersion, Err: fmt.Errorf("%s: %w", config.OneLine(text), custody.ErrTooOld), Exit: config.ExitUnavailable}
	if r.at.Report.Door {
		p.Hints = []string{"update the towline that serves there; `ssh " + r.at.Host + " help` says what it knows"}
		return p
	}
	p.Hints = []string{"put this version there: `towline connect " + r.at.Host + " --install`"}
	return p
}
