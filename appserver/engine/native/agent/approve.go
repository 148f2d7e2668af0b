package agent

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"towline/appserver/protocol"
)

// Bounds of what an answer may carry.
const (
	maxReason    = 4000 // bytes of a refusal's reason that reach the model
	maxAllowed   = 1000 // remembered rules per thread; the oldest go first
	maxRuleWords = 32
)

type verdictKind uint8

const (
	verdictBroken  verdictKind = iota // no answer that can be understood: the item fails, the turn goes on
	verdictAllow                      // go ahead
	verdictDecline                    // not this, but the turn goes on
	verdictCancel                     // the turn ends
	verdictAborted                    // the turn ended while the question was open
)

// verdict is an answer to an approval, understood.
type verdict struct {
	kind    verdictKind
	session bool     // and the same again without asking
	prefix  []string // and whatever starts with these words
	reason  string   // of a refusal: what the person said; of a broken answer: why
}

// because is the person's reason as the model reads it.
func (v verdict) because() string {
	if v.reason == "" {
		return ""
	}
	return ": " + v.reason
}

// understand reads {"decision": …}. Towline's own "reason" next to it tells the
// model why something was refused.
func understand(raw json.RawMessage, err error) verdict {
	if err != nil {
		var pe *protocol.Error
		if errors.As(err, &pe) {
			return verdict{kind: verdictBroken, reason: cut(pe.Message, maxReason)}
		}
		return verdict{kind: verdictBroken, reason: err.Error()}
	}
	var a struct {
		Decision json.RawMessage `json:"decision"`
		Reason   string          `json:"reason"`
	}
	if json.Unmarshal(raw, &a) != nil {
		return verdict{reason: "the answer is not understood"}
	}
	reason := cut(strings.TrimSpace(a.Reason), maxReason)
	var word string
	if json.Unmarshal(a.Decision, &word) == nil {
		switch word {
		case protocol.DecisionAccept:
			return verdict{kind: verdictAllow}
		case protocol.DecisionAcceptSession:
			return verdict{kind: verdictAllow, session: true}
		case protocol.DecisionDecline:
			return verdict{kind: verdictDecline, reason: reason}
		case protocol.DecisionCancel:
			return verdict{kind: verdictCancel, reason: reason}
		}
		return verdict{reason: "the answer is not understood"}
	}
	var amend struct {
		Accept *struct {
			Prefix []string `json:"execpolicy_amendment"`
		} `json:"acceptWithExecpolicyAmendment"`
	}
	if json.Unmarshal(a.Decision, &amend) == nil && amend.Accept != nil {
		return verdict{kind: verdictAllow, prefix: amend.Accept.Prefix}
	}
	return verdict{reason: "the answer is not understood"}
}

// allowed is what the person agreed to for the rest of the session. It lives
// and dies with the loaded thread: nothing is written down.
type allowed struct {
	commands []commandRule
	prefixes []prefixRule
	paths    map[string]bool // patches of these files
}

// commandRule is one exact command. One that may leave the sandbox may also
// run inside it, not the other way round.
type commandRule struct {
	argv      string
	cwd       string
	escalated bool
}

type prefixRule struct {
	words     []string
	escalated bool
}

// mustAsk reports whether the rules want a person to see the command first.
func (t *turn) mustAsk(c *command, escalated bool) bool {
	switch t.Approval {
	case protocol.ApproveNever:
		return false
	case protocol.ApproveUntrusted:
		return !t.allowedCommand(c, escalated)
	default:
		return escalated && !t.allowedCommand(c, true)
	}
}

// allowedCommand reports whether the person already agreed to the command.
func (t *turn) allowedCommand(c *command, escalated bool) bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	a := &t.s.allowed
	for _, r := range a.commands {
		if r.argv == c.body.Command && r.cwd == c.body.Cwd && (r.escalated || !escalated) {
			return true
		}
	}
	parts, ok := plainCommands(*c.args.Cmd)
	if !ok || c.args.Shell != "" { // a shell of the model's choosing may read the words differently
		return false
	}
	for _, words := range parts {
		if !slices.ContainsFunc(a.prefixes, func(r prefixRule) bool {
			return (r.escalated || !escalated) && len(words) >= len(r.words) && slices.Equal(words[:len(r.words)], r.words)
		}) {
			return false
		}
	}
	return true
}

// approveCommand asks about c and remembers what the answer is good for.
func (t *turn) approveCommand(c *command, reason *string, escalated bool) verdict {
	prefix := proposal(c.args, escalated)
	decisions := []json.RawMessage{protocol.StringID(protocol.DecisionAccept), protocol.StringID(protocol.DecisionAcceptSession)}
	if prefix != nil {
		decisions = append(decisions, mustJSON(map[string]any{
			"acceptWithExecpolicyAmendment": map[string]any{"execpolicy_amendment": prefix},
		}))
	}
	decisions = append(decisions, protocol.StringID(protocol.DecisionDecline), protocol.StringID(protocol.DecisionCancel))
	local := "local"
	raw, err := t.ask(protocol.FlagWaitingOnApproval, protocol.ReqCommandApproval, protocol.CommandApproval{
		Kind: "command", ThreadID: t.s.cfg.ThreadID, TurnID: t.ID, ItemID: c.item.ID, StartedAtMs: c.item.StartedAtMs,
		EnvironmentID: &local, Reason: reason, Command: &c.body.Command, Cwd: &c.body.Cwd, CommandActions: c.body.CommandActions,
		ProposedExecpolicyAmendment: prefix, AvailableDecisions: decisions,
	})
	if t.ctx.Err() != nil {
		return verdict{kind: verdictAborted}
	}
	v := understand(raw, err)
	if v.kind != verdictAllow {
		return v
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	a := &t.s.allowed
	if v.session {
		a.commands = append(a.commands, commandRule{c.body.Command, c.body.Cwd, escalated})
		a.commands = a.commands[max(0, len(a.commands)-maxAllowed):]
	}
	if n := len(v.prefix); n > 0 && n <= maxRuleWords {
		a.prefixes = append(a.prefixes, prefixRule{v.prefix, escalated})
		a.prefixes = a.prefixes[max(0, len(a.prefixes)-maxAllowed):]
	}
	return v
}

// proposal is the prefix a person may agree to: the model's own when it fits
// the command, else the whole of a single plain command. Nothing is proposed
// that would allow everything.
func proposal(a execArgs, escalated bool) []string {
	parts, ok := plainCommands(*a.Cmd)
	if !ok || len(parts) != 1 || a.Shell != "" {
		return nil
	}
	words := parts[0]
	if escalated && len(a.PrefixRule) > 0 && len(a.PrefixRule) <= len(words) && slices.Equal(words[:len(a.PrefixRule)], a.PrefixRule) {
		words = a.PrefixRule
	}
	if len(words) > maxRuleWords || tooBroad(words) {
		return nil
	}
	return words
}

// tooBroad reports whether a prefix stands for "anything at all": a bare
// interpreter or launcher, which would run whatever follows it.
func tooBroad(words []string) bool {
	name := words[0][strings.LastIndexByte(words[0], '/')+1:]
	switch name {
	case "sudo", "doas", "su", "env", "xargs", "nohup", "time", "timeout", "nice", "eval", "exec", "command", "ssh", "docker", "podman":
		return len(words) < 3
	case "bash", "sh", "zsh", "dash", "ksh", "fish", "python", "python3", "node", "ruby", "perl", "php", "lua", "deno", "bun", "osascript", "pwsh":
		return len(words) < 2 || len(words) == 2 && strings.HasPrefix(words[1], "-")
	}
	return false
}
