package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"towline/appserver/rpc"
	"towline/appserver/supervisor"
	"towline/appserver/transport"
	"towline/config"
	"towline/launcher"
)

// execPlace are the flags that say where a run works: here, on a host, or on a
// server that is named by its address.
type execPlace struct {
	hostOptions
	hostName string
	at       remoteFlags
	set      *pflag.FlagSet
}

func (o *execPlace) flags(f *pflag.FlagSet) {
	f.StringVar(&o.hostName, "host", "", "work on a `HOST` of your ssh configuration")
	o.set = f
	o.at.flags(f)
	f.StringVar(&o.transport, "transport", "", "`HOW` SSH is carried for --host: auto, builtin or system")
	f.StringVarP(&o.sshConfig, "ssh-config", "F", "", "read this `FILE` in place of ~/.ssh/config")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show every step of a connection")
}

// here reports whether this machine's daemon is meant.
func (o *execPlace) here() bool { return o.hostName == "" && !o.at.given() }

func (o *execPlace) check() error {
	if o.hostName != "" && o.at.given() {
		return wrongUse("exec", "--host and --remote both say where", "leave one of them out")
	}
	return o.at.check(o.set)
}

// execServer is the app-server of a run.
type execServer struct {
	dial func(ctx context.Context) (rpc.Stream, error)
	// target is how to say in a command line where it is.
	target string
	// folder is the folder to work in: asked is what was said, here what it means on
	// this machine.
	folder func(asked, here string) (string, error)
	// close ends what was opened for the run. A server of our own may wait for the
	// work of others first.
	close func(ctx context.Context, patiently bool)
}

// open finds the server, or makes the connection to its host. stays asks for one
// that outlives the run.
func (o *execPlace) open(ctx context.Context, errOut io.Writer, cwd string, stays bool) (execServer, error) {
	switch {
	case o.hostName != "":
		return o.onHost(ctx, errOut, stays)
	case o.at.given():
		return o.onRemote()
	}
	return o.onThis(ctx, errOut, cwd, stays)
}

// thereFolder checks a folder of another machine, where nothing here is expanded.
func thereFolder(asked, home string) (string, error) {
	dir := remotePath(asked, home)
	if dir != "" && !path.IsAbs(dir) {
		return "", wrongUse("exec", fmt.Sprintf("%s is a folder of the other machine", printable(asked)), "name it from its root: -C /srv/shop")
	}
	return dir, nil
}

func (o *execPlace) onHost(ctx context.Context, errOut io.Writer, stays bool) (execServer, error) {
	lc, err := o.launcher(o.hostName, errOut)
	if err != nil {
		return execServer{}, err
	}
	s, err := launcher.Connect(ctx, through(lc, o.lines(errOut)))
	if err != nil {
		return execServer{}, err
	}
	if stays && s.Info().Opened.CutEndsTurn {
		return execServer{}, errors.Join(&config.Problem{
			Stage: "detach", Err: fmt.Errorf("a turn on %s ends with the connection: its app-server is a child of it", o.hostName), Exit: config.ExitUnavailable,
			Hints: []string{"put Towline there: `towline connect " + o.hostName + " --install`", "or leave --detach out"},
		}, s.Close())
	}
	target := "--host " + shellWord(o.hostName)
	if o.sshConfig != "" {
		target += " -F " + shellWord(o.sshConfig)
	}
	return execServer{
		dial: s.Dial, target: target,
		folder: func(asked, _ string) (string, error) {
			if asked == "" {
				asked = o.host.Project
			}
			return thereFolder(asked, s.Info().Report.Home)
		},
		close: func(context.Context, bool) { _ = s.Close() }, // the run is over
	}, nil
}

// onThis is this machine's daemon; without one, a server of our own for as long as
// the run takes. One that shall stay is started as a daemon.
func (o *execPlace) onThis(ctx context.Context, errOut io.Writer, cwd string, stays bool) (execServer, error) {
	paths, cfg, err := setup()
	if err != nil {
		return execServer{}, err
	}
	if stays {
		started, err := startDaemon(ctx, paths, cwd)
		if err != nil {
			return execServer{}, err
		}
		if started {
			fmt.Fprintln(errOut, "no daemon ran: one was started, and stays; `towline app-server stop` ends it")
		}
	}
	own := &ownServer{paths: paths, cfg: cfg, project: cwd, tell: errOut, verbose: o.verbose}
	return execServer{dial: own.dial, folder: func(_, here string) (string, error) { return here, nil }, close: own.close}, nil
}

// ownServer joins this home's daemon, or is one while none runs.
type ownServer struct {
	paths   config.Paths
	cfg     config.Config
	project string
	tell    io.Writer
	verbose bool

	mu     sync.Mutex // guards what follows
	joined bool       // a daemon was there once
	missed time.Time  // since when it is not
	h      *host
	end    context.CancelFunc
	over   chan struct{}
	log    io.Closer
	served sync.WaitGroup
	life   context.Context
}

const (
	// comesBack is how long a daemon that was there may be away before its place is
	// taken: what keeps it running starts it again.
	comesBack = 10 * time.Second
	// makesWay is how long one that has the home, and does not answer yet, may take.
	makesWay = 15 * time.Second
)

func (s *ownServer) dial(ctx context.Context) (rpc.Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.h != nil {
		return s.pipe()
	}
	for end := time.Now().Add(makesWay); ; {
		st, err := transport.Dial(ctx, "unix://"+s.paths.FindSocket())
		if err == nil {
			s.joined, s.missed = true, time.Time{}
			return st, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
		if s.joined {
			if s.missed.IsZero() {
				s.missed = time.Now()
			}
			if time.Since(s.missed) < comesBack {
				return nil, err
			}
		}
		if _, held := s.paths.Holder(); !held {
			if err = s.start(ctx); err == nil {
				return s.pipe()
			}
			if _, held = s.paths.Holder(); !held { // nobody was faster: it does not start
				return nil, err
			}
		}
		if time.Now().After(end) {
			return nil, err
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// start makes this process the home's daemon, on its unix socket alone, so that the
// run can be watched. What it logs goes where a daemon's log goes.
func (s *ownServer) start(ctx context.Context) error {
	if err := s.paths.Ensure(); err != nil {
		return err
	}
	var out io.Writer = s.tell
	if !s.verbose {
		log, _, err := supervisor.OpenLog(s.paths.Log())
		if err != nil {
			return err
		}
		out, s.log = log, log
	}
	cfg := s.cfg
	cfg.AppServer.Listen = nil
	h, err := openHost(ctx, serveOptions{sshListen: "off", project: s.project, verbose: s.verbose}, s.paths, cfg, out)
	if err != nil {
		s.closeLog()
		return err
	}
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	s.h, s.over = h, make(chan struct{})
	go func() {
		defer close(s.over)
		if err := h.run(s.life); err != nil {
			h.log.Error("the server of a run failed", "err", err)
		}
	}()
	return nil
}

func (s *ownServer) closeLog() {
	if s.log != nil {
		_ = s.log.Close()
		s.log = nil
	}
}

func (s *ownServer) pipe() (rpc.Stream, error) {
	select {
	case <-s.over:
		return nil, &config.Problem{Stage: "daemon", Err: errors.New("the server of this run has ended"), Hints: []string{"see why: " + s.paths.Log()}, Exit: config.ExitUnavailable}
	default:
	}
	near, far := rpc.Pipe(256)
	s.served.Go(func() { _ = s.h.server.Serve(s.life, far, transport.LocalUser(), "stdio", "stdio") }) // the gate has logged why
	return near, nil
}

// close ends our own server. Others may have joined it: patiently, their turns are
// waited for.
func (s *ownServer) close(ctx context.Context, patiently bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.h == nil {
		return
	}
	told := false
	for patiently && ctx.Err() == nil {
		busy, _ := isBusy(ctx, s.paths)
		if !busy {
			break
		}
		if !told {
			told = true
			fmt.Fprintln(s.tell, "another run works on the server of this one: waiting until it is done")
		}
		select {
		case <-time.After(10 * lookAgain):
		case <-ctx.Done():
		}
	}
	s.end()
	<-s.over
	s.served.Wait()
	s.h.close()
	s.closeLog()
}

// onRemote is a server by its address.
func (o *execPlace) onRemote() (execServer, error) {
	paths, err := config.Locate(os.Getenv)
	if err != nil {
		return execServer{}, err
	}
	at, err := o.at.open(paths)
	if err != nil {
		return execServer{}, err
	}
	return execServer{
		dial: at.dial, target: o.at.args(),
		folder: func(asked, _ string) (string, error) { return thereFolder(asked, "") },
		close:  func(context.Context, bool) {},
	}, nil
}
