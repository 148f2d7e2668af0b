package appserver

import (
	"context"
	"encoding/json"

	"towline/appserver/access/token"
	"towline/appserver/gate"
	"towline/config/managed"
)

// newTokens makes what issues access tokens and says whether they count.
func (s *Server) newTokens() (*token.Manager, error) {
	return token.New(token.Config{
		Store: s.store, Log: s.cfg.Log, Audit: s.audit.Record,
		Policy: func() (managed.Policy, error) { return managed.Load(managed.Options{}) },
	})
}

// tokenMethods are the gate's further methods that are about tokens.
func (s *Server) tokenMethods() map[string]gate.Extension {
	out := make(map[string]gate.Extension)
	for name, answer := range s.tokens.Extensions() {
		out[name] = func(ctx context.Context, who gate.Client, params json.RawMessage) (any, error) {
			return answer(ctx, who.Principal, params)
		}
	}
	return out
}
