package session

import (
	"context"
	"errors"
	"testing"

	"charm.land/ssh"
)

// connection stands for what all sessions of one share.
type connection struct {
	ssh.Context
	values map[any]any
}

func (c connection) Value(k any) any   { return c.values[k] }
func (c connection) SetValue(k, v any) { c.values[k] = v }

// Wish notes "has an emulated terminal" and "asked for an agent" in the context
// it is given. In a session's own they stay there.
func TestDefect04ValuesStayInTheirSession(t *testing.T) {
	conn := connection{values: map[any]any{"user": "ana"}}
	ctx, cancel := context.WithCancelCause(context.Background())
	a := &sessionCtx{Context: conn, own: ctx, values: map[any]any{}}
	b := &sessionCtx{Context: conn, own: context.Background(), values: map[any]any{}}
	a.SetValue("terminal", true)
	if b.Value("terminal") != nil || conn.Value("terminal") != nil || a.Value("terminal") != true {
		t.Error("what one session stores reaches another")
	}
	if a.Value("user") != "ana" {
		t.Error("what the connection knows is lost")
	}
	cancel(ErrInterrupted)
	if a.Err() == nil || !errors.Is(context.Cause(a), ErrInterrupted) || b.Err() != nil {
		t.Errorf("ended with %v because %v", a.Err(), context.Cause(a))
	}
}
