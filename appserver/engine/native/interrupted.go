package native

import (
	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
)

// Interrupted is how many threads, but for archived ones, have a last turn that the
// end of a process cut short and nobody has gone on with.
func (e *Engine) Interrupted() int {
	page, err := e.store.List(thread.Query{})
	if err != nil {
		e.log.Warn("threads are not listed", "err", err)
		return 0
	}
	n := 0
	for i := range page.Heads {
		h := &page.Heads[i]
		if h.Interrupted() != "" && e.statusOf(h.ID).Type != protocol.StatusActive {
			n++
		}
	}
	return n
}
