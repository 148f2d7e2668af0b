package run

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"towline/appserver/protocol"
	"towline/config"
)

// finish makes the result of a verdict.
func (t *turn) finish(v verdict) (*Result, error) {
	r := &t.res
	r.Status = v.status
	r.Usage, r.ThreadUsage = t.spent, t.total
	for _, id := range slices.Sorted(maps.Keys(t.works)) { // what was left running
		r.Commands = append(r.Commands, t.works[id])
	}
	r.Approvals = t.asks.list()
	r.Truncated = r.Truncated || t.asks.more
	r.StartedAt = t.began.UnixMilli()
	if r.DurationMs == 0 {
		r.DurationMs = time.Since(t.began).Milliseconds()
	}
	if t.req.OutputSchema != nil && json.Valid([]byte(r.Message)) {
		r.Output = json.RawMessage(r.Message)
	}
	if v.err == nil {
		return r, nil
	}
	r.ExitCode, r.Error = config.ExitCode(v.err), faultOf(v.err)
	return r, v.err
}

// gone is the verdict on a connection that could not be had again.
func (t *turn) gone(err error) verdict {
	text := "it was lost, and could not be had again within " + t.cfg.Patience.String()
	if err != nil {
		text += ": " + config.OneLine(err.Error())
	}
	if t.id == "" {
		return verdict{StatusLost, t.problem("link", errors.New(text), config.ExitLost)}
	}
	return verdict{StatusLost, t.problem("link", errors.New(text), config.ExitLost, "the turn may go on there; wait for it: `"+t.command("wait")+"`")}
}

// refused is the verdict on an error that trying again does not mend.
func (t *turn) refused(err error) verdict {
	status := StatusNotStarted
	if t.id != "" {
		status = StatusLost
	}
	var p *config.Problem
	var pe *protocol.Error
	switch {
	case errors.As(err, &p):
		if p.Exit == config.ExitDenied {
			status = StatusDenied
		}
	case errors.As(err, &pe):
		if p = answered(pe); p.Exit == config.ExitDenied {
			status = StatusDenied
		}
	default:
		p = &config.Problem{Stage: "connect", Err: errors.New(config.OneLine(err.Error())), Exit: config.ExitUnavailable, Hints: []string{"check that an app-server answers there"}}
	}
	if t.id != "" {
		p = &config.Problem{Stage: p.Stage, Err: p.Err, Exit: p.Exit, Hints: append(p.Hints, "the turn may go on there; wait for it: `"+t.command("wait")+"`")}
	}
	return verdict{status, p}
}

// answered is a refusal of the server's for people.
func answered(pe *protocol.Error) *config.Problem {
	text := errors.New(config.OneLine(pe.Message))
	if raw := protocol.Field(pe.Data, "engine"); raw != nil {
		var st protocol.EngineState
		_ = json.Unmarshal(raw, &st) // what does not fit is empty
		if st.Problem != "" {
			text = errors.New(config.OneLine(st.Problem))
		}
		p := &config.Problem{Stage: "engine", Err: text, Exit: config.ExitUnavailable}
		for _, h := range st.Hints {
			p.Hints = append(p.Hints, config.OneLine(h))
		}
		return p
	}
	switch {
	case denial(pe):
		return &config.Problem{Stage: "server", Err: text, Exit: config.ExitDenied, Hints: []string{"use a credential that may, or ask whoever keeps the host"}}
	case strings.Contains(pe.Message, "no rollout found"), strings.Contains(pe.Message, "thread not found"), strings.Contains(pe.Message, "thread not loaded"):
		return &config.Problem{Stage: "thread", Err: text, Exit: config.ExitFailure, Hints: []string{"name a thread that is there; `towline exec resume --last` takes the newest"}}
	}
	return &config.Problem{Stage: "server", Err: text, Exit: config.ExitFailure}
}

// denial reports whether a refusal is about what the credential may do. The wire has
// no code for it: a gate says so in the text, see access.Principal.Denied.
func denial(pe *protocol.Error) bool {
	for _, words := range []string{" needs the role ", "this host does not allow", " scope ", "is not in the allowed set", "is not allowed by"} {
		if strings.Contains(pe.Message, words) {
			return true
		}
	}
	return false
}

func (t *turn) problem(stage string, err error, exit int, hints ...string) *config.Problem {
	return &config.Problem{Stage: stage, Err: err, Exit: exit, Hints: hints}
}

// command is what to type to reach this thread again.
func (t *turn) command(words string) string {
	if host, ok := strings.CutPrefix(t.cfg.Target, "--host "); ok && words == "attach" {
		return "towline " + host
	}
	return "towline " + words + " " + string(t.thread) + t.target()
}

// goOn is the advice for a turn that ended too early.
func (t *turn) goOn() string { return "go on with it: `" + t.command("exec resume") + " \"go on\"`" }

func (t *turn) target() string {
	if t.cfg.Target == "" {
		return ""
	}
	return " " + t.cfg.Target
}
