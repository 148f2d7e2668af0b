package systemssh

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"

	"towline/launcher/remote"
)

// several makes a connection of many channels out of many logins, where nothing
// else is possible and the caller agreed (Config.MoreLogins).
type several struct {
	c Config
	r release

	wg   sync.WaitGroup
	end  sync.Once
	done chan struct{}

	mu   sync.Mutex // guards what follows
	err  error
	idle *single // the first login, until its Exec
	open map[*single]struct{}
}

var _ remote.Conn = (*several)(nil)

// moreLoginsText is what people should know who see their host log many logins,
// or are asked for a second code.
const moreLoginsText = "this machine's ssh has no multiplexing, so it logs in again for each command; a key in an agent spares the questions"

// newSeveral takes the first login over. Later ones tell nobody of their stages:
// the connection is made already.
func newSeveral(c Config, r release, first *single) *several {
	c.Events(remote.Event{Stage: remote.StageAuth, Detail: true, Text: moreLoginsText})
	if c.Ask != nil {
		c.Ask.Notice(destination(c.Target), moreLoginsText)
	}
	c.Events = func(remote.Event) {}
	s := &several{c: c, r: r, done: make(chan struct{}), idle: first, open: map[*single]struct{}{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch(first)
	return s
}

// watch notices when the link of one channel is lost, which is the end of all.
// That its command ended is not. mu is held.
func (s *several) watch(one *single) {
	s.open[one] = struct{}{}
	s.wg.Go(func() {
		<-one.done
		var e *Error
		if err := one.Err(); errors.As(err, &e) && len(e.Said) > 0 {
			s.finish(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, one)
		if s.idle == one {
			s.idle = nil
		}
	})
}

func (s *several) finish(err error) {
	s.end.Do(func() {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		close(s.done)
	})
}

func (s *several) Server() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.open {
		return one.Server()
	}
	return ""
}

func (s *several) Done() <-chan struct{} { return s.done }

func (s *several) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *several) Close() error {
	s.finish(net.ErrClosed)
	s.mu.Lock()
	var all []*single
	for one := range s.open {
		all = append(all, one)
	}
	s.mu.Unlock()
	for _, one := range all {
		_ = one.Close()
	}
	s.wg.Wait()
	return nil
}

// Exec uses the first login, and then one of its own for each command.
func (s *several) Exec(ctx context.Context, command string, o remote.ExecOptions) (remote.Process, error) {
	s.mu.Lock()
	one, err := s.idle, s.err
	s.idle = nil
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if one == nil {
		if one, err = s.again(ctx); err != nil {
			return nil, err
		}
	}
	return one.Exec(ctx, command, o)
}

func (s *several) again(ctx context.Context) (*single, error) {
	l, err := newLogin(s.c, s.r)
	if err != nil {
		return nil, err
	}
	one, err := dialSingle(ctx, l)
	if err != nil {
		return nil, err
	}
	s.c.Log.Debug("one more login for one more channel", slog.String("host", destination(s.c.Target)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil { // closed meanwhile
		_ = one.Close()
		return nil, s.err
	}
	s.watch(one)
	return one, nil
}

// DialUnix says why it does not work.
func (s *several) DialUnix(context.Context, string) (net.Conn, error) { return nil, errForward }

// DialTCP says why it does not work.
func (s *several) DialTCP(context.Context, string) (net.Conn, error) { return nil, errForward }
