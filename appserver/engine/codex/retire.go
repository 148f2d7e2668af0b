package codex

import "context"

// When another process takes over from this one, it joins the app-server that runs
// here, as any Towline joins one. The kernel ends a server with the process that
// started it, so that one stays, for as long as the server does: it is its keeper
// and nothing more. A server that a keeper had is not started again; the successor
// starts its own.

// Retire makes the engine a keeper.
func (e *Engine) Retire() { e.setRetired(true) }

// Return undoes Retire.
func (e *Engine) Return() { e.setRetired(false) }

func (e *Engine) setRetired(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retired = on
}

func (e *Engine) isRetired() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.retired
}

// keeps notes whether a server of ours runs.
func (e *Engine) keeps(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.owns = on
	close(e.changed)
	e.changed = make(chan struct{})
}

// Finish waits until no server of ours runs any more, or ctx ends.
func (e *Engine) Finish(ctx context.Context) error {
	for {
		e.mu.Lock()
		owns, changed := e.owns, e.changed
		e.mu.Unlock()
		if !owns {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
