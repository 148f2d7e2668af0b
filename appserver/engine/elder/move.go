package elder

import (
	"context"
	"encoding/json"
	"time"

	"towline/appserver/engine/native"
	"towline/appserver/protocol"
)

// handedOver is told by an elder's connection: the thread is the new engine's from
// here on. A client that watched it there watches it here.
func (c *client) handedOver(o *old, id protocol.ThreadID) {
	c.write.Lock() // nothing of the client's about the thread goes before this
	defer c.write.Unlock()
	c.mu.Lock()
	was, watched := o.held[id], o.watched[id]
	delete(o.held, id)
	delete(o.watched, id)
	c.mu.Unlock()
	if !was {
		return
	}
	if watched {
		c.call("thread/resume", resumeParams{ThreadID: id, ExcludeTurns: true}, func(env protocol.Envelope) {
			if env.Kind != protocol.KindResponse {
				c.e.cfg.Log.Warn("a thread that changed hands cannot be watched here", "thread", id, "err", string(env.Error))
			}
			c.e.watch(o.elder, id, -1)
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.releaseLocked(id)
}

// compare asks an elder, once it tells this connection everything, what it holds:
// it may have given something up after this process was told and before that.
func (c *client) compare(o *old) {
	id := protocol.StringID("towline-held")
	msg, err := protocol.NewRequest(id, methodHeld, struct{}{})
	if err != nil {
		return
	}
	c.mu.Lock()
	o.pending[string(id)] = append(o.pending[string(id)], &pending{then: func(env protocol.Envelope) {
		var held struct {
			Threads []native.Held `json:"threads"`
		}
		if env.Kind != protocol.KindResponse || json.Unmarshal(env.Result, &held) != nil {
			return
		}
		still := make(map[protocol.ThreadID]bool, len(held.Threads))
		for _, h := range held.Threads {
			still[h.ID] = true
		}
		c.mu.Lock()
		var given []protocol.ThreadID
		for id := range o.held {
			if !still[id] {
				given = append(given, id)
			}
		}
		c.mu.Unlock()
		for _, id := range given {
			c.handedOver(o, id)
		}
	}})
	c.mu.Unlock()
	_ = o.s.Write(context.Background(), msg) // its reader notices a broken stream
}

type resumeParams struct {
	ThreadID     protocol.ThreadID `json:"threadId"`
	ExcludeTurns bool              `json:"excludeTurns"`
	InitialPage  *struct {
		Limit     int    `json:"limit"`
		Direction string `json:"sortDirection"`
	} `json:"initialTurnsPage,omitempty"`
}

// ended cleans up after an elder's connection. When the elder had given up
// everything, nothing is left to do; else it has died, and so have its turns.
func (c *client) ended(o *old) {
	var again []*pending
	defer func() {
		for _, p := range again {
			c.e.settled(context.Background(), []*elder{o.elder}, p.thread)
			c.write.Lock()
			_ = c.fresh.Write(context.Background(), p.msg) // its reader notices a broken stream
			c.write.Unlock()
		}
	}()
	c.write.Lock()
	defer c.write.Unlock()
	c.mu.Lock()
	o.gone = true
	for key, ps := range o.pending {
		for _, p := range ps {
			switch {
			case p.mark != nil:
				c.passedLocked(p.mark)
			case p.msg != nil && !o.held[p.thread]:
				again = append(again, p) // the news came, and the answer did not: it was never looked at
			case p.msg != nil:
				c.putLocked(protocol.NewError(json.RawMessage(key), protocol.Internalf("the process that worked on thread %s has ended; its turn was interrupted", p.thread)))
			}
		}
	}
	clear(o.pending)
	var lost, watched []protocol.ThreadID
	for id := range o.held {
		lost = append(lost, id)
	}
	for id := range o.watched {
		watched = append(watched, id)
	}
	c.mu.Unlock()
	select {
	case <-c.over: // it is the client that left
		c.mu.Lock()
		for _, id := range watched {
			c.unwatchLocked(o, id)
		}
		c.mu.Unlock()
		return
	default:
	}
	for _, id := range lost {
		c.lost(o, id)
	}
}

// lost tells the client how the turn of a thread ended whose elder has died. The
// new engine marks it when it opens the thread.
func (c *client) lost(o *old, id protocol.ThreadID) {
	c.mu.Lock()
	watched := o.watched[id]
	delete(o.held, id)
	delete(o.watched, id)
	if !watched {
		c.statusLocked(id, protocol.StatusNotLoaded)
		c.releaseLocked(id)
	}
	c.mu.Unlock()
	if !watched {
		return
	}
	p := resumeParams{ThreadID: id, ExcludeTurns: true}
	p.InitialPage = &struct {
		Limit     int    `json:"limit"`
		Direction string `json:"sortDirection"`
	}{1, "desc"}
	c.call("thread/resume", p, func(env protocol.Envelope) {
		c.e.watch(o.elder, id, -1)
		c.mu.Lock()
		defer c.mu.Unlock()
		var got struct {
			Page struct {
				Data []json.RawMessage `json:"data"`
			} `json:"initialTurnsPage"`
		}
		if env.Kind == protocol.KindResponse && json.Unmarshal(env.Result, &got) == nil && len(got.Page.Data) > 0 {
			turn := got.Page.Data[0]
			c.statusLocked(id, protocol.StatusIdle)
			if protocol.StringField(turn, "status") == protocol.TurnInterrupted {
				c.noteLocked("turn/completed", map[string]any{"threadId": id, "turn": turn})
			}
		} else {
			c.statusLocked(id, protocol.StatusNotLoaded)
		}
		c.releaseLocked(id)
	})
}

func (c *client) statusLocked(id protocol.ThreadID, status string) {
	c.noteLocked("thread/status/changed", map[string]any{"threadId": id, "status": protocol.ThreadStatus{Type: status}})
}

func (c *client) noteLocked(method string, params any) {
	if msg, err := protocol.NewNotification(method, params, time.Now().UnixMilli()); err == nil {
		c.putLocked(msg)
	}
}
