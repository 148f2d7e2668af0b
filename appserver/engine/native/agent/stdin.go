package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"towline/appserver/engine/native/tool/exec"
)

// stdinArgs are the arguments of write_stdin.
type stdinArgs struct {
	SessionID json.RawMessage `json:"session_id"`
	Chars     string          `json:"chars"`
	Yield     float64         `json:"yield_time_ms"`
	MaxTokens float64         `json:"max_output_tokens"`
}

// writeStdin types into a command that still runs, or just waits for it.
func (t *turn) writeStdin(call *call) result {
	var a stdinArgs
	if err := call.decode(&a); err != nil {
		return text("%v", err)
	}
	id := sessionID(a.SessionID)
	if id == "" {
		return text("failed to parse function arguments: `session_id` must be a number")
	}
	t.s.mu.Lock()
	c := t.s.commands[id]
	t.s.mu.Unlock()
	if c == nil {
		return text("write_stdin failed: Unknown process id %s", id)
	}
	yield := yieldTime(a.Yield, 5*time.Second, 5*time.Second, 5*time.Minute)
	if a.Chars != "" {
		yield = yieldTime(a.Yield, minYield, minYield, maxYield)
		switch err := c.typeIn(t, a.Chars); {
		case err == nil, errors.Is(err, exec.ErrExited): // what it said last follows
		case errors.Is(err, exec.ErrNoStdin):
			return text("write_stdin failed: stdin is closed for this session; rerun exec_command with tty=true to keep it open")
		default:
			return text("write_stdin failed: %v", err)
		}
	}
	began := t.s.cfg.Clock()
	got, exited := c.proc.Take(t.ctx, yield, 0)
	took := t.s.cfg.Clock().Sub(began)
	if t.ctx.Err() != nil {
		return text("Wall time: %.1f seconds\n%s", took.Seconds(), abortedByUser)
	}
	if !exited {
		return text("%s", report(took, nil, id, got, a.MaxTokens))
	}
	<-c.ended
	t.s.mu.Lock()
	delete(t.s.commands, id)
	t.s.mu.Unlock()
	code := c.proc.ExitCode()
	return text("%s", report(took, &code, "", got, a.MaxTokens))
}

// typeIn sends input to the process and tells clients of it.
func (c *command) typeIn(t *turn, chars string) error {
	c.typing.Lock()
	defer c.typing.Unlock()
	if err := c.proc.Write([]byte(chars)); err != nil {
		return err
	}
	t.notify("item/commandExecution/terminalInteraction", map[string]any{
		"threadId": t.s.cfg.ThreadID, "turnId": c.t.ID, "itemId": c.item.ID, "processId": c.proc.ID(), "stdin": chars,
	})
	return nil
}

// sessionID reads a number, or the same number as a string.
func sessionID(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		if _, err := strconv.ParseInt(s, 10, 64); err != nil {
			return ""
		}
		return s
	}
	var f float64
	if len(raw) == 0 || json.Unmarshal(raw, &f) != nil || f != float64(int64(f)) {
		return ""
	}
	return fmt.Sprint(int64(f))
}

func yieldTime(ms float64, unset, least, most time.Duration) time.Duration {
	if !(ms > 0) { // absent, nonsense or NaN
		return unset
	}
	return time.Duration(min(max(ms, float64(least.Milliseconds())), float64(most.Milliseconds()))) * time.Millisecond
}
