package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Outlet is how a host gets to the network: through the laptops that lend theirs,
// for what they lend, and on its own for everything else. The zero value is not
// usable; see NewOutlet. Its methods may be called from any goroutine.
type Outlet struct {
	own DialFunc
	via func(Target) DialFunc // the machine's own proxy, see Via; may be nil
	gap time.Duration

	mu      sync.Mutex // guards what follows
	ups     []*uplink  // newest last
	past    []Target   // lent until a link broke
	until   time.Time  // when past is forgotten
	from    string
	changed chan struct{}
}

// NewOutlet makes an outlet. own dials what is not lent; nil is a net.Dialer. via
// is for what ServeProxy's clients want that is not lent, where this machine has
// to ask a proxy itself; nil is for one that has not.
func NewOutlet(own DialFunc, via func(Target) DialFunc) *Outlet {
	if own == nil {
		own = new(net.Dialer).DialContext
	}
	return &Outlet{own: own, via: via, gap: Gap, changed: make(chan struct{})}
}

// Join lends over rw, whose handshake is done, until the loan is over, and says
// whether the laptop left in good order. ctx ends it too. begun, when not nil, runs
// beside it once the laptop has said what it lends, until its ctx ends; tell sends
// the laptop a status. Join closes rw and returns when begun has.
func (o *Outlet) Join(ctx context.Context, rw io.ReadWriteCloser, begun func(ctx context.Context, l Lease, tell func(Status))) (bye bool, err error) {
	hello, cancel := context.WithTimeout(ctx, offerTime)
	u, err := begin(hello, rw)
	cancel()
	if err != nil {
		return false, err
	}
	defer u.close()
	stop := context.AfterFunc(ctx, func() { _ = u.rw.Close() })
	defer stop()
	o.mu.Lock()
	o.ups, o.past, o.from = append(o.ups, u), nil, u.lease.From
	o.tell()
	o.mu.Unlock()
	lent, end := context.WithCancelCause(ctx)
	var beside sync.WaitGroup
	if begun != nil {
		beside.Go(func() { begun(lent, u.lease, func(st Status) { u.tell(lent, st) }) })
	}
	bye = u.wait()
	o.mu.Lock()
	o.ups = slices.DeleteFunc(o.ups, func(x *uplink) bool { return x == u })
	if len(o.ups) > 0 {
		o.from = o.ups[len(o.ups)-1].lease.From
	} else if !bye && ctx.Err() == nil {
		o.past, o.until = u.allow, time.Now().Add(o.gap)
	}
	o.tell()
	o.mu.Unlock()
	end(ErrGone)
	beside.Wait()
	return bye, nil
}

func (o *Outlet) tell() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// Loan is what is lent now.
type Loan struct {
	// Active: a laptop is there.
	Active bool
	// Waiting: the link of one broke a moment ago, and it may come back.
	Waiting bool
	From    string
	Targets []Target
}

// Loan is what is lent now, and a channel that is closed when that changes.
func (o *Outlet) Loan() (Loan, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := Loan{Active: len(o.ups) > 0}
	switch {
	case l.Active:
		l.From = o.from
		for _, u := range o.ups {
			l.Targets = append(l.Targets, u.allow...)
		}
	case time.Now().Before(o.until) && len(o.past) > 0:
		l.Waiting, l.From, l.Targets = true, o.from, slices.Clone(o.past)
	}
	return l, o.changed
}

// DialContext implements DialFunc. A target that is lent goes through a laptop;
// when its link is broken at the moment, the call waits a while for it.
func (o *Outlet) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	t, err := ParseTarget(addr)
	if err != nil || network != "tcp" && network != "tcp4" && network != "tcp6" {
		return o.own(ctx, network, addr)
	}
	waited, cancel := context.WithTimeout(ctx, gapDial)
	defer cancel()
	for {
		u, wait, changed := o.way(t)
		if u == nil && !wait {
			return o.own(ctx, network, addr)
		}
		if u != nil {
			c, err := u.dial(ctx, t)
			if !errors.Is(err, ErrGone) {
				return c, err
			}
			// It has not been noticed yet, or has just been.
		}
		select {
		case <-changed:
		case <-waited.Done():
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, &dialError{kind: ErrGone, target: t.String()}
		}
	}
}

// way is how to reach t: a laptop, or by waiting for one, or neither.
func (o *Outlet) way(t Target) (u *uplink, wait bool, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, u := range slices.Backward(o.ups) {
		if u.lends(t) {
			return u, false, o.changed
		}
	}
	return nil, time.Now().Before(o.until) && slices.Contains(o.past, t), o.changed
}
