package gate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"towline/appserver/protocol"
)

// maxID bounds a request id; books keep it until the answer comes.
const maxID = 256

// ambiguous reports why the engine could take a client's message for something
// else than the gate does. What is decided here must be what happens there:
//
//   - Codex tries the shapes of a message one after the other. A request it
//     cannot read as one (a member is repeated, "trace" is no object) and that
//     holds a "result" is an answer to it, to whatever question has that id, from
//     whoever sent it. So every message has one shape, and no member twice.
//   - The native engine finds members whatever the case of their names. So a
//     name the gate reads may not come in another spelling.
func ambiguous(env protocol.Envelope, msg []byte) error {
	if err := protocol.Strict(msg); err != nil {
		return err
	}
	if len(env.ID) > maxID {
		return fmt.Errorf("the id is longer than %d bytes", maxID)
	}
	answer := env.Kind == protocol.KindResponse || env.Kind == protocol.KindError
	switch {
	case !answer && (env.Result != nil || env.Error != nil):
		return errors.New("the message is both a request and an answer")
	case answer && (protocol.Field(msg, "method") != nil || env.Params != nil):
		return errors.New("the message is both an answer and a request")
	case env.Kind == protocol.KindError && env.Result != nil:
		return errors.New("the message is both a result and an error")
	}
	for name := range protocol.Members(env.Params) {
		if name != "threadId" && strings.EqualFold(name, "threadId") {
			return fmt.Errorf("the parameter %q must be spelled threadId", clip(name, 40))
		}
	}
	return nil
}

// answerMembers is what the answer to a question to a person consists of.
var answerMembers = map[string][]string{
	protocol.ReqCommandApproval:     {"decision", "reason"}, // a reason is Towline's: see protocol.Decision
	protocol.ReqFileApproval:        {"decision", "reason"},
	"applyPatchApproval":            {"decision"},
	"execCommandApproval":           {"decision"},
	protocol.ReqPermissionsApproval: {"permissions", "scope", "strictAutoReview"},
	protocol.ReqUserInput:           {"answers"},
	protocol.ReqElicitation:         {"action", "content", "_meta"},
}

// plainAnswer is an answer without what is no part of it: only what was
// validated and recorded goes to the engine. Nil when it is no object.
func plainAnswer(method string, result json.RawMessage) json.RawMessage {
	if r := bytes.TrimSpace(result); len(r) == 0 || r[0] != '{' {
		return nil
	}
	return plainMembers(result, answerMembers[method]...)
}

// plainMembers copies the named members of an object, as they are.
func plainMembers(obj json.RawMessage, names ...string) json.RawMessage {
	out := []byte{'{'}
	for _, name := range names {
		if v := protocol.Field(obj, name); v != nil {
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = append(append(append(out, '"'), name...), '"', ':')
			out = append(out, v...)
		}
	}
	return append(out, '}')
}

// ownAmendment reports whether d is an amendment of the person's own making, in
// the engine's spelling.
func ownAmendment(d json.RawMessage) bool {
	n, ok := 0, false
	for name, v := range protocol.Members(d) {
		n++
		switch name {
		case "acceptWithExecpolicyAmendment":
			var prefix []string
			ok = json.Unmarshal(protocol.Field(v, "execpolicy_amendment"), &prefix) == nil && len(prefix) > 0
		case "applyNetworkPolicyAmendment":
			rule := protocol.Field(v, "network_policy_amendment")
			ok = len(rule) > 0 && rule[0] == '{'
		}
	}
	return n == 1 && ok
}
