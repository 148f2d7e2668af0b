package gate

import (
	"bytes"
	"encoding/json"
	"strings"

	"towline/appserver/protocol"
)

// what tells apart the engine's messages the gate looks into.
type what uint8

const (
	whatOther         what = iota
	whatItemStarted        // item/started
	whatItemEvent          // a delta of an item, or another event with an itemId
	whatItemCompleted      // item/completed
	whatTurnCompleted      // turn/completed
	whatStatus             // thread/status/changed
	whatThreadStarted      // thread/started
	whatSettings           // thread/settings/updated
	whatThreadClosed       // thread/closed, thread/deleted, thread/archived
	whatResolved           // serverRequest/resolved
	whatRequest            // a question of the engine's
	whatReply              // result or error
)

// event is one message from the engine, looked at once. Its slices point into
// msg, which nobody changes after it was read.
type event struct {
	protocol.Envelope
	msg  []byte
	what what
	// The text of threadId, turnId and itemId where the message has them.
	thread, turn, item []byte
	// join is set on the reply that starts a late join, q on a question, and
	// unseen with it when its item started before this connection watched.
	join   *join
	q      *question
	unseen bool
}

// classify reads as little of the message as its kind allows; deltas are by far
// the most frequent and cost three looks at a small object.
func classify(env protocol.Envelope, msg []byte) event {
	ev := event{Envelope: env, msg: msg}
	switch env.Kind {
	case protocol.KindResponse, protocol.KindError:
		ev.what = whatReply
		return ev
	case protocol.KindRequest:
		ev.what = whatRequest
		ev.ids()
		return ev
	}
	switch env.Method {
	case "item/started", "item/completed":
		ev.what = whatItemStarted
		if env.Method == "item/completed" {
			ev.what = whatItemCompleted
		}
		ev.thread = text(protocol.Field(env.Params, "threadId"))
		ev.turn = text(protocol.Field(env.Params, "turnId"))
		ev.item = text(protocol.Field(protocol.Field(env.Params, "item"), "id"))
	case "turn/completed":
		ev.what = whatTurnCompleted
		ev.thread = text(protocol.Field(env.Params, "threadId"))
		ev.turn = text(protocol.Field(protocol.Field(env.Params, "turn"), "id"))
	case "thread/status/changed":
		ev.what = whatStatus
		ev.thread = text(protocol.Field(env.Params, "threadId"))
	case "thread/started":
		ev.what = whatThreadStarted
		ev.thread = text(protocol.Field(protocol.Field(env.Params, "thread"), "id"))
	case "thread/settings/updated":
		ev.what = whatSettings
		ev.thread = text(protocol.Field(env.Params, "threadId"))
	case "thread/closed", "thread/deleted", "thread/archived":
		ev.what = whatThreadClosed
		ev.thread = text(protocol.Field(env.Params, "threadId"))
	case "serverRequest/resolved":
		ev.what = whatResolved
		ev.thread = text(protocol.Field(env.Params, "threadId"))
	default:
		if strings.HasPrefix(env.Method, "item/") {
			if ev.ids(); len(ev.item) > 0 {
				ev.what = whatItemEvent
			}
		}
	}
	return ev
}

func (ev *event) ids() {
	ev.thread = text(protocol.Field(ev.Params, "threadId"))
	ev.turn = text(protocol.Field(ev.Params, "turnId"))
	ev.item = text(protocol.Field(ev.Params, "itemId"))
}

// key names the item of the event within its thread. The turn is part of it
// because a model may use an item id again in a later turn.
func (ev *event) key(buf []byte) []byte {
	return append(append(append(buf[:0], ev.turn...), 0), ev.item...)
}

func (ev *event) isItem() bool {
	return ev.what == whatItemStarted || ev.what == whatItemEvent || ev.what == whatItemCompleted
}

// text returns what a raw JSON string says, without copying in the usual case.
func text(raw json.RawMessage) []byte {
	if len(raw) < 2 || raw[0] != '"' {
		return nil
	}
	if in := raw[1 : len(raw)-1]; bytes.IndexByte(in, '\\') < 0 {
		return in
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return nil
	}
	return []byte(s)
}
