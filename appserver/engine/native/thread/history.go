package thread

import (
	"encoding/json"

	"towline/appserver/protocol"
)

// History is a whole thread in memory.
type History struct {
	Head   Head
	Turns  []protocol.Turn   // oldest first, items complete; the last may be inProgress
	Input  []json.RawMessage // what the model is replayed, oldest first
	Usage  *protocol.ThreadTokenUsage
	Queue  []Queued
	Unread Unread
	Goal   *Goal // nil without one
	// Skipped counts lines that were no records: a sign of a damaged disk.
	Skipped int

	index map[string]int // turn id -> index in Turns
	began []int64        // Unix milliseconds, parallel to Turns
}

// Interrupt marks a turn that has no end as interrupted and returns its id, ""
// when there is none.
func (h *History) Interrupt() string {
	if n := len(h.Turns); n > 0 && h.Turns[n-1].Status == protocol.TurnInProgress {
		h.Turns[n-1].Status = protocol.TurnInterrupted
		return h.Turns[n-1].ID
	}
	return ""
}

// apply adds one record. Records come in file order.
func (h *History) apply(r *Record) {
	h.Head.apply(r)
	switch r.Type {
	case recTurn:
		h.Interrupt() // a turn only begins when the one before is over
		h.turn(r.TurnID, r.AtMs)
	case recItem:
		t := &h.Turns[h.turn(r.TurnID, r.AtMs)]
		for i := range t.Items {
			if t.Items[i].ID == r.Item.ID && t.Items[i].Type() == r.Item.Type() {
				t.Items[i] = *r.Item
				return
			}
		}
		t.Items = append(t.Items, *r.Item)
	case recEnd:
		i := h.turn(r.TurnID, r.AtMs)
		t := &h.Turns[i]
		t.Status, t.Error = r.Status, r.Error
		done, took := r.AtMs/1000, max(r.AtMs-h.began[i], 0)
		t.CompletedAt, t.DurationMs = &done, &took
	case recInput:
		h.Input = append(h.Input, r.Input)
	case recHistory:
		h.Input = append([]json.RawMessage(nil), *r.History...)
	case recUsage:
		h.Usage = r.Usage
	case recQueue:
		h.Queue = *r.Queue
	case recUnread:
		h.Unread = *r.Unread
	case recGoal:
		h.Goal = nil
		if r.Goal.Objective != "" {
			goal := *r.Goal
			h.Goal = &goal
		}
	}
}

// turn finds a turn's index, or makes the turn: an item may name one whose
// first line was lost.
func (h *History) turn(id string, atMs int64) int {
	if i, ok := h.index[id]; ok {
		return i
	}
	if h.index == nil {
		h.index = make(map[string]int)
	}
	h.index[id] = len(h.Turns)
	h.began = append(h.began, atMs)
	sec := atMs / 1000
	h.Turns = append(h.Turns, protocol.Turn{
		ID: id, RootTurnID: &id, ItemsView: protocol.ViewFull, Status: protocol.TurnInProgress, StartedAt: &sec,
	})
	return len(h.Turns) - 1
}

// Records returns what makes a new thread continue from this history: its
// turns, items, replay and token count, with the times they had.
func (h *History) Records() []Record {
	var out []Record
	at := func(r Record, ms int64) { r.AtMs = ms; out = append(out, r) }
	for i := range h.Turns {
		t, ms := &h.Turns[i], h.began[i]
		at(TurnStarted(t.ID), ms)
		for _, it := range t.Items {
			at(ItemDone(t.ID, it), ms)
		}
		if t.Status == protocol.TurnInProgress {
			at(TurnEnded(t.ID, protocol.TurnInterrupted, nil), ms)
			continue
		}
		if t.DurationMs != nil {
			ms += *t.DurationMs
		}
		at(TurnEnded(t.ID, t.Status, t.Error), ms)
	}
	if len(h.Input) > 0 {
		at(Replaced(h.Input), h.Head.UpdatedAtMs)
	}
	if h.Usage != nil {
		at(UsageNow(*h.Usage), h.Head.UpdatedAtMs)
	}
	return out
}

// Add applies a record as reading it from a file would: for threads that are
// kept in memory only, and for those open for writing.
func (h *History) Add(r Record) { h.apply(&r) }

// NewHistory is the history of a thread that begins with recs. It is what Read
// returns for a thread Created with the same arguments.
func NewHistory(m Meta, s Settings, recs ...Record) *History {
	h := new(History)
	h.apply(&Record{Type: recThread, Thread: &m, AtMs: m.CreatedAtMs})
	set := SetSettings(s)
	set.AtMs = m.CreatedAtMs
	h.apply(&set)
	for i := range recs {
		h.apply(&recs[i])
	}
	return h
}
