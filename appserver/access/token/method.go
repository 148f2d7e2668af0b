package token

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"unicode"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
)

// Method answers a towline/token/* request. The gate has checked the role.
type Method func(ctx context.Context, by access.Principal, params json.RawMessage) (result any, err error)

// Extensions are the methods for a gate, by name.
func (m *Manager) Extensions() map[string]Method {
	return map[string]Method{
		protocol.ExtTokenCreate: method(protocol.ExtTokenCreate, func(ctx context.Context, by access.Principal, p CreateParams) (any, error) {
			return m.Create(ctx, by, p)
		}),
		protocol.ExtTokenList: method(protocol.ExtTokenList, func(ctx context.Context, _ access.Principal, _ struct{}) (any, error) {
			all, err := m.List(ctx)
			return List{Data: all}, err
		}),
		protocol.ExtTokenShow: method(protocol.ExtTokenShow, func(ctx context.Context, _ access.Principal, p ShowParams) (any, error) {
			return m.Show(ctx, p)
		}),
		protocol.ExtTokenRotate: method(protocol.ExtTokenRotate, func(ctx context.Context, by access.Principal, p RotateParams) (any, error) {
			return m.Rotate(ctx, by, p)
		}),
		protocol.ExtTokenRevoke: method(protocol.ExtTokenRevoke, func(ctx context.Context, by access.Principal, p IDParams) (any, error) {
			return m.Revoke(ctx, by, p.ID)
		}),
	}
}

func method[P any](name string, answer func(context.Context, access.Principal, P) (any, error)) Method {
	return func(ctx context.Context, by access.Principal, params json.RawMessage) (any, error) {
		var p P
		if len(params) > 0 && json.Unmarshal(params, &p) != nil {
			return nil, protocol.Errorf("%s: params have another form", name)
		}
		result, err := answer(ctx, by, p)
		if err != nil {
			return nil, toWire(err)
		}
		return result, nil
	}
}

// wireProblem is the data member of an error that people read.
type wireProblem struct {
	Stage string   `json:"stage"`
	Hints []string `json:"hints"`
	Exit  int      `json:"exit"`
}

// toWire is an error for a client. What is not for people passes as it is: the gate
// logs it, and tells the client that there was one.
func toWire(err error) error {
	var p *config.Problem
	if !errors.As(err, &p) {
		return err
	}
	data, no := json.Marshal(struct {
		Problem wireProblem `json:"problem"`
	}{wireProblem{p.Stage, append([]string{}, config.Hints(err)...), config.ExitCode(err)}})
	if no != nil {
		return no
	}
	return &protocol.Error{Code: protocol.CodeInvalidRequest, Message: p.Err.Error(), Data: data}
}

// FromWire is the *config.Problem that a host answered with, or err.
func FromWire(err error) error {
	var e *protocol.Error
	if !errors.As(err, &e) {
		return err
	}
	var data struct {
		Problem *wireProblem `json:"problem"`
	}
	if json.Unmarshal(e.Data, &data) != nil || data.Problem == nil {
		return err
	}
	p := &config.Problem{Stage: plain(data.Problem.Stage), Err: errors.New(plain(e.Message)), Exit: data.Problem.Exit}
	for _, h := range data.Problem.Hints {
		p.Hints = append(p.Hints, plain(h))
	}
	return p
}

// plain is text of a host without what a terminal would act on.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}
