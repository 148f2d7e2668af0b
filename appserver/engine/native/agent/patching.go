package agent

import (
	"encoding/json"
	"math"

	"towline/appserver/engine/native/sandbox"
	"towline/appserver/engine/native/tool/patch"
	"towline/appserver/protocol"
)

// applyPatch edits files. The change is written with this process's own rights,
// which is why it stays within the writable roots unless a person agreed.
func (t *turn) applyPatch(call *call) result {
	began := t.s.cfg.Clock()
	body := call.input
	if !call.custom {
		body = patchArgument(call.input)
	}
	p, err := patch.Parse(body)
	if err != nil {
		return text("apply_patch verification failed: %v", err)
	}
	change, err := p.Resolve(t.Cwd, patch.ReadFile)
	if err != nil {
		return text("apply_patch verification failed: %v", err)
	}
	paths := change.Paths()
	inside := true
	for _, path := range paths {
		inside = inside && sandbox.Writable(t.Sandbox, t.Cwd, path)
	}
	if !inside && t.Approval == protocol.ApproveNever {
		return text("patch rejected: it writes outside of the writable roots, and the approval policy does not allow asking")
	}
	it := protocol.Item{ID: call.id, Body: &protocol.FileChange{Changes: change.Updates, Status: protocol.ItemInProgress}}
	t.started(&it)
	end := func(status string) {
		it.Body = &protocol.FileChange{Changes: change.Updates, Status: status}
		t.completed(&it)
	}
	if t.Approval == protocol.ApproveUntrusted || !inside {
		v := t.approvePatch(it, paths)
		switch v.kind {
		case verdictAllow:
		case verdictDecline:
			end(protocol.ItemDeclined)
			return text("patch rejected by user%s", v.because())
		case verdictCancel:
			end(protocol.ItemDeclined)
			t.cancel(errCancelled)
			return text(abortedByUser)
		case verdictAborted:
			end(protocol.ItemFailed)
			return text(abortedByUser)
		default:
			end(protocol.ItemFailed)
			return text("patch not applied: the approval request was not answered: %s", v.reason)
		}
	}
	// Within the roots the writing itself is held to them: a link that somebody
	// swaps in meanwhile must not lead out.
	var roots []string
	if inside {
		roots, _ = sandbox.Roots(t.Sandbox, t.Cwd)
	}
	if err := change.Apply(roots); err != nil {
		end(protocol.ItemFailed)
		return text("apply_patch failed: %v", err)
	}
	end(protocol.ItemCompleted)
	t.diff.Add(change) // patches run one at a time
	t.notify("turn/diff/updated", map[string]any{
		"threadId": t.s.cfg.ThreadID, "turnId": t.ID, "diff": t.diff.Diff(patch.DiffRoot(t.Cwd)),
	})
	tenths := math.Round(t.s.cfg.Clock().Sub(began).Seconds()*10) / 10
	return text("Exit code: 0\nWall time: %v seconds\nOutput:\n%s", tenths, change.Summary())
}

// patchArgument finds the patch in JSON arguments: endpoints without freeform
// tools call apply_patch as a function.
func patchArgument(args string) string {
	var a struct {
		Input string `json:"input"`
		Patch string `json:"patch"`
	}
	if json.Unmarshal([]byte(args), &a) != nil {
		return args
	}
	if a.Input == "" {
		return a.Patch
	}
	return a.Input
}

// approvePatch asks about a patch whose item was announced.
func (t *turn) approvePatch(it protocol.Item, paths []string) verdict {
	t.s.mu.Lock()
	known := len(t.s.allowed.paths) > 0
	for _, path := range paths {
		known = known && t.s.allowed.paths[path]
	}
	t.s.mu.Unlock()
	if known {
		return verdict{kind: verdictAllow}
	}
	raw, err := t.ask(protocol.FlagWaitingOnApproval, protocol.ReqFileApproval, protocol.FileApproval{
		ThreadID: t.s.cfg.ThreadID, TurnID: t.ID, ItemID: it.ID, StartedAtMs: it.StartedAtMs,
	})
	if t.ctx.Err() != nil {
		return verdict{kind: verdictAborted}
	}
	v := understand(raw, err)
	if v.kind == verdictAllow && v.session {
		t.s.mu.Lock()
		if t.s.allowed.paths == nil || len(t.s.allowed.paths) > maxAllowed {
			t.s.allowed.paths = map[string]bool{}
		}
		for _, path := range paths {
			t.s.allowed.paths[path] = true
		}
		t.s.mu.Unlock()
	}
	return v
}
