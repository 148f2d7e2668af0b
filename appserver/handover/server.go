package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"towline/config"
)

// Server is the daemon's end of the private socket. Besides an heir's "succeed" it
// answers
//
//	{"do":"offer"}               with the offer: whoever asks wants to know
//	{"do":"start","program":P}   by running P as an heir, with the daemon's own
//	                             arguments and environment, and its pid
//	{"do":"guest","guest":{…}}   with {"do":"welcome"}, and then the client's bytes
//	{"do":"note","note":{…}}     with {"do":"welcome"}, when it is recorded
type Server struct {
	ln   *net.UnixListener
	path string
	file os.FileInfo // of the socket, to know it again
	log  *slog.Logger

	given atomic.Bool // the name on disk is an heir's
	one   sync.Mutex  // held by the hand-over under way
	over  chan struct{}
	ended sync.Once
}

// Listen opens the socket at path, which lies in a folder of this user's alone. An
// heir that has taken over replaces its elder's.
func Listen(path string, heir bool, log *slog.Logger) (*Server, error) {
	ln, err := listenPrivate(path, heir)
	if err != nil {
		return nil, fmt.Errorf("listen for an heir: %w", err)
	}
	s := &Server{ln: ln, path: path, log: log, over: make(chan struct{})}
	s.file, _ = os.Lstat(path) // when it is gone by now, it is not removed
	return s, nil
}

// Close stops listening and removes the socket, unless it is an heir's by now.
func (s *Server) Close() error {
	err := s.ln.Close()
	if info, e := os.Lstat(s.path); e == nil && !s.given.Load() && s.file != nil && os.SameFile(info, s.file) {
		_ = os.Remove(s.path)
	}
	return err
}

// Serve answers until ctx ends or the daemon has been succeeded, and waits for
// what it has begun. Guests stay until they leave or ctx ends.
func (s *Server) Serve(ctx context.Context, d Daemon) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.ln.Close() })()
	stopped := make(chan struct{})
	defer close(stopped)
	wg.Go(func() {
		select {
		case <-s.over:
			_ = s.ln.Close()
		case <-stopped:
		}
	})
	places := make(chan struct{}, maxGuests)
	for {
		c, err := s.ln.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.log.Error("accept an heir", "err", err)
			select { // out of descriptors, mostly
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-places }()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			w, err := admit(c)
			if err == nil {
				err = s.answer(ctx, w, d)
				w.close()
			}
			if err != nil {
				s.log.Warn("a hand-over came to nothing", "err", err)
			}
		})
	}
}

// answer serves one connection.
func (s *Server) answer(ctx context.Context, w *wire, d Daemon) error {
	hello, cancel := context.WithTimeout(ctx, helloTime)
	m, files, err := w.receive(hello)
	cancel()
	closeAll(files) // none belong here
	if err != nil {
		return nil //nolint:nilerr // somebody looked whether anyone listens
	}
	reply := func(m message, err error) error {
		if err != nil {
			m = refusal(err)
		}
		ctx, cancel := context.WithTimeout(ctx, helloTime)
		defer cancel()
		return w.send(ctx, m)
	}
	switch m.Do {
	case doSucceed:
		return s.succeed(ctx, w, d, m)
	case doOffer:
		o, err := d.Offer()
		return reply(message{Offer: &o, Do: doOffer}, err)
	case doStart:
		if !filepath.IsAbs(m.Program) {
			return reply(message{}, errors.New("the program is not an absolute path"))
		}
		pid, err := d.Start(m.Program)
		return reply(message{Do: doStart, PID: pid}, err)
	case doGuest:
		if m.Guest == nil {
			return reply(message{}, errors.New("nobody is named"))
		}
		if err := reply(message{Do: doWelcome}, nil); err != nil {
			return nil //nolint:nilerr // who left is no guest
		}
		d.Guest(ctx, *m.Guest, w.c)
		return nil
	case doNote:
		if m.Note != nil {
			d.Note(*m.Note)
		}
		return reply(message{Do: doWelcome}, nil)
	}
	return reply(message{}, fmt.Errorf("%q is not known here", m.Do))
}

// refusal is an error as the other side is told it.
func refusal(err error) message {
	var p *config.Problem
	if errors.As(err, &p) {
		return message{Error: p.Err.Error(), Hints: p.Hints}
	}
	return message{Error: err.Error()}
}

var errBusy = &config.Problem{
	Stage: "upgrade", Err: errors.New("a successor is being started already"), Exit: config.ExitFailure,
	Hints: []string{"wait a moment; `towline status` shows which daemon runs"},
}

// succeed hands over to one heir.
func (s *Server) succeed(ctx context.Context, w *wire, d Daemon, hello message) error {
	tell := func(err error) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), helloTime)
		defer cancel()
		_ = w.send(ctx, refusal(err)) // one that is gone knows
		return err
	}
	if !s.one.TryLock() {
		return tell(errBusy)
	}
	defer s.one.Unlock()
	if hello.Format != Format {
		return tell(fmt.Errorf("the successor speaks format %d of a hand-over, this daemon %d", hello.Format, Format))
	}
	o, err := d.Offer()
	if err != nil {
		return tell(err)
	}
	s.log.Info("a successor is getting ready", "pid", w.peer, "version", hello.Version)
	if err := w.send(ctx, message{Do: doOffer, Offer: &o}); err != nil {
		return err
	}
	if _, _, err := w.expect(ctx, prepareTime, doClaim); err != nil {
		return tell(fmt.Errorf("the successor is not coming: %w", err))
	}

	o, files, err := d.Yield(ctx)
	if err != nil {
		return tell(err)
	}
	names := slices.Sorted(maps.Keys(files))
	list := make([]*os.File, 0, len(names))
	for _, n := range names {
		list = append(list, files[n])
	}
	err = w.send(ctx, message{Do: doOffer, Offer: &o, Files: names}, list...)
	closeAll(list)
	if err == nil {
		_, _, err = w.expect(ctx, readyTime, doReady)
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, helloTime)
		err = w.send(ctx, message{Do: doGo})
		cancel()
	}
	if err != nil {
		err = fmt.Errorf("the successor did not take over, and all goes on as before: %w", err)
		d.TakeBack(err)
		return tell(err)
	}
	s.given.Store(true)
	s.log.Info("the successor has taken over", "pid", w.peer, "version", hello.Version)
	d.Retire(w.peer)
	s.ended.Do(func() { close(s.over) })
	return nil
}
