package audit

import (
	"errors"
	"log/slog"

	"towline/appserver/access"
)

// aside is where entries go while another process has the files.
type aside struct {
	on      bool
	waiting []entry
	to      func(event string, p access.Principal, facts []slog.Attr) // nil: they wait
}

// Suspend closes the files, so that another process may go on with them. What is
// recorded meanwhile waits, until Resume or Forward.
func (l *Log) Suspend() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.aside.on || l.f == nil {
		return nil
	}
	late := l.catchUp()
	l.aside.on = true
	return errors.Join(late, l.f.Sync(), l.closeFiles())
}

// Resume opens the files again and goes on where they end by now.
func (l *Log) Resume() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	on := l.aside.on
	l.mu.Unlock()
	if !on {
		return nil
	}
	n, err := Open(l.path, l.o)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.f, l.head, l.size, l.seq, l.prev = n.f, n.head, n.size, n.seq, n.prev
	waiting := append(n.pending, l.aside.waiting...)
	l.aside = aside{}
	for _, e := range waiting {
		if err := l.append(e); err != nil {
			l.fail(err)
			l.keep(e)
		}
	}
	return nil
}

// Forward gives what waits, and from then on all that is recorded, to whoever has
// the files now. to is called from any goroutine.
func (l *Log) Forward(to func(event string, p access.Principal, facts []slog.Attr)) {
	if l == nil {
		return
	}
	l.mu.Lock()
	waiting := l.aside.waiting
	l.aside.waiting, l.aside.to = nil, to
	l.mu.Unlock()
	for _, e := range waiting {
		to(e.event, e.who, e.facts)
	}
}

// put takes an entry while the files are another process's; to, where not nil, is
// who must be given it. l.mu is held.
func (a *aside) put(e entry) (taken bool, to func(string, access.Principal, []slog.Attr)) {
	switch {
	case !a.on:
		return false, nil
	case a.to != nil:
		return true, a.to
	case len(a.waiting) < maxPending:
		a.waiting = append(a.waiting, e)
	}
	return true, nil
}
