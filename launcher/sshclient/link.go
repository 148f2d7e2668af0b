package sshclient

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/launcher/remote"
)

// How a dead peer is noticed when ServerAliveInterval and ServerAliveCountMax say
// nothing: within 45 seconds.
const (
	keepaliveInterval = 15 * time.Second
	keepaliveCount    = 3
)

// link is the connection to one hop, logged in. It owns every goroutine that works
// on it, and ends when the connection does.
type link struct {
	h    *hop
	w    *wire
	conn ssh.Conn

	agentAsked atomic.Bool   // an Exec asked for agent forwarding
	hadSession atomic.Bool   // an Exec opened a session, or tried to
	agents     chan struct{} // a slot for each agent connection served

	done chan struct{} // closed once conn has ended

	mu    sync.Mutex // guards what follows
	cause error      // why it ended, once known
	over  bool       // no more goroutines are begun
	wg    sync.WaitGroup
}

func newLink(h *hop, w *wire, conn ssh.Conn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) *link {
	l := &link{h: h, w: w, conn: conn, done: make(chan struct{}), agents: make(chan struct{}, maxAgentChannels)}
	l.spawn(func() { ssh.DiscardRequests(reqs) }) // says no to all, as a keepalive wants
	l.spawn(func() { l.serveChannels(chans) })
	l.spawn(l.watch)
	l.spawn(l.keepalive)
	return l
}

// spawn runs f in a goroutine that close waits for. False: the link is closed.
func (l *link) spawn(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.wg.Go(f)
	return true
}

// watch waits for the end.
func (l *link) watch() {
	err := l.conn.Wait()
	if words, ok := disconnected(err); ok {
		err = fmt.Errorf("the server ended the connection: %s", printable(words, maxWords))
	} else if err == nil || isEnd(err) {
		err = errHungUp
	}
	if lost := l.lostBelow(); lost != nil {
		err = lost
	}
	l.fail(err)
	close(l.done)
}

// fail ends the link because of why. The first cause stays.
func (l *link) fail(why error) {
	l.mu.Lock()
	if l.cause == nil {
		l.cause = why
	}
	l.mu.Unlock()
	l.w.abort(why)
}

// lostBelow is why one of the hops that carry this link ended; nil while all live.
func (l *link) lostBelow() error {
	via := l.h.via
	if via == nil {
		return nil
	}
	if lost := via.link.lostBelow(); lost != nil {
		return lost
	}
	if why := via.link.why(); why != nil {
		return why
	}
	if via.link.w.broken() != nil { // it has not come round to saying so
		return via.link.lost(errHungUp)
	}
	return nil
}

// lost is the error of a link that ended because of cause.
func (l *link) lost(cause error) error {
	return l.h.problem(remote.StageReady, cause, l.h.proxyWords(), config.ExitUnavailable, "connect again: `towline "+l.h.run.name()+"`")
}

// why is the cause of the link's end; nil while it lives.
func (l *link) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		return nil
	}
	return l.lost(l.cause)
}

// gone is why, for a link that has ended.
func (l *link) gone() error {
	if err := l.why(); err != nil {
		return err
	}
	return net.ErrClosed
}

// close ends the link and waits for its goroutines.
func (l *link) close() {
	l.fail(net.ErrClosed)
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.wg.Wait()
}

// keepalive notices a peer that is gone without a word. Whatever arrives counts as
// a sign of life; when nothing does, an answer is asked for once an interval.
func (l *link) keepalive() {
	interval, count := keepaliveInterval, keepaliveCount
	if i := l.h.target.ServerAliveInterval; i > 0 {
		interval = i
		if n := l.h.target.ServerAliveCountMax; n > 0 {
			count = n
		}
	}
	limit := time.Duration(count) * interval
	timer := time.NewTimer(interval)
	defer timer.Stop()
	var asking atomic.Bool
	for {
		select {
		case <-l.done:
			return
		case <-timer.C:
		}
		idle := l.w.idle()
		if idle >= limit {
			l.fail(&described{fmt.Sprintf("nothing was heard from it for %s", limit), errDeadPeer})
			return
		}
		if idle >= interval && asking.CompareAndSwap(false, true) {
			l.spawn(func() {
				defer asking.Store(false)
				_, _, _ = l.conn.SendRequest("keepalive@openssh.com", true, nil)
			})
		}
		timer.Reset(interval - idle%interval)
	}
}

// errDeadPeer is the cause when keepalives stay unanswered.
var errDeadPeer = errors.New("dead peer")

// serveChannels answers what the server opens towards us.
func (l *link) serveChannels(chans <-chan ssh.NewChannel) {
	for nc := range chans {
		if nc.ChannelType() == channelAgent && l.agentAsked.Load() {
			l.serveAgent(nc)
			continue
		}
		_ = nc.Reject(ssh.Prohibited, "nothing of this kind was asked for")
	}
}
