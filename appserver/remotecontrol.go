package appserver

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"

	"towline/appserver/gate"
	"towline/appserver/protocol"
	"towline/config"
)

// RemoteControl is the switch of remote control in a daemon: whether the listeners
// that other machines reach are open. It is kept in the home, so that it outlives
// the daemon; `towline remote-control` and clients with the admin role turn it. It
// may be used from many goroutines. Make it with NewRemoteControl.
type RemoteControl struct {
	paths config.Paths
	may   func() error

	turn sync.Mutex     // one change at a time
	work sync.WaitGroup // changes that are under way

	mu      sync.Mutex // guards what follows
	on      bool
	open    func(ctx context.Context, on bool) error // a server's listeners; nil before there are any
	watches []func()
}

// NewRemoteControl reads the switch. may is what the owner of the machine has to
// say about it; nil is nothing. explicit: somebody named a listener for other
// machines on the command line, which opens it as long as nobody switched remote
// control off. An error is of a switch that cannot be read, and counts as off.
func NewRemoteControl(paths config.Paths, may func() error, explicit bool) (*RemoteControl, error) {
	if may == nil {
		may = func() error { return nil }
	}
	kept, err := paths.RemoteControl()
	r := &RemoteControl{paths: paths, may: may, on: kept.Enabled() || kept.Switch == config.SwitchUnset && explicit}
	if r.on {
		if no := may(); no != nil {
			r.on, err = false, errors.Join(err, no)
		}
	}
	return r, err
}

// Enabled reports whether the listeners are open, or are to be.
func (r *RemoteControl) Enabled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.on
}

// Watch has f called after each change. f must not turn the switch.
func (r *RemoteControl) Watch(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches = append(r.watches, f)
}

// Set turns the switch, for good with keep, and opens or closes what there is to
// open or close; closing comes before everything else. The error of an opening
// says what is not open; the rest is.
//
// Turned off by somebody who came through one of those listeners, it ends the
// connection that asked before it is done: then it is done all the same, and the
// error is the cause of ctx's end.
func (r *RemoteControl) Set(ctx context.Context, on, keep bool) error {
	done := make(chan error, 1)
	r.work.Add(1)
	go func() { // waited for by wait
		defer r.work.Done()
		done <- r.set(context.WithoutCancel(ctx), on, keep)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *RemoteControl) set(ctx context.Context, on, keep bool) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	if on {
		if err := r.may(); err != nil {
			return err
		}
	}
	r.mu.Lock()
	open, was := r.open, r.on
	r.on = on
	r.mu.Unlock()
	var errs []error
	if open != nil {
		errs = append(errs, open(ctx, on))
	}
	if keep {
		errs = append(errs, r.paths.SetRemoteControl(on))
	}
	if was != on {
		r.mu.Lock()
		watches := r.watches
		r.mu.Unlock()
		for _, f := range watches {
			f()
		}
	}
	return errors.Join(errs...)
}

// wait returns when no change is under way.
func (r *RemoteControl) wait() {
	if r != nil {
		r.work.Wait()
	}
}

// serves gives the switch the listeners to turn.
func (r *RemoteControl) serves(open func(ctx context.Context, on bool) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = open
}

// remoteMethods are what clients turn the switch with.
func (s *Server) remoteMethods(to map[string]gate.Extension) map[string]gate.Extension {
	r := s.cfg.Remote
	if r == nil {
		return to
	}
	r.serves(s.SetRemote)
	s.cfg.Listeners.RemoteOff = !r.Enabled()
	if to == nil {
		to = map[string]gate.Extension{}
	}
	to[protocol.ExtRemoteControl] = func(ctx context.Context, who gate.Client, params json.RawMessage) (any, error) {
		var p struct {
			Enabled *bool `json:"enabled"`
		}
		if json.Unmarshal(params, &p) != nil || p.Enabled == nil {
			return nil, protocol.Errorf("%s takes {enabled: true or false}", protocol.ExtRemoteControl)
		}
		err := r.Set(ctx, *p.Enabled, true)
		s.Record("remote_control", who.Principal, slog.Bool("enabled", r.Enabled()))
		if err != nil {
			return nil, protocol.Errorf("%s", config.OneLine(err.Error()))
		}
		return map[string]bool{"enabled": r.Enabled()}, nil
	}
	return to
}
