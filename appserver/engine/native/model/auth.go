package model

import (
	"context"
	"errors"
	"net/http"

	"github.com/openai/openai-go/v3/option"

	"towline/appserver/account"
	"towline/config"
	"towline/config/secret"
)

// # Authorisation
//
// Measured with Codex 0.169.0: a ChatGPT login sends
//
//	Authorization: Bearer ACCESS_TOKEN
//	ChatGPT-Account-Id: WORKSPACE
//	originator: CLIENT, session-id and thread-id: THREAD
//
// to {chatgpt_base_url}/codex/responses, an API key sends Authorization alone to
// https://api.openai.com/v1/responses. A 401 is answered by a refresh and one more
// try.

// Endpoints that belong to a login rather than to a configuration.
const (
	OpenAIURL  = "https://api.openai.com/v1"
	ChatGPTURL = "https://chatgpt.com/backend-api/codex"
)

// originator names this program to ChatGPT's backend, as Codex's clients name
// themselves.
const originator = "towline"

// Auth is where requests get their authorisation. *account.Manager is one.
type Auth interface {
	// Token is what to send now; an account.ErrNotLoggedIn or
	// account.ErrLoginExpired is for a person to mend.
	Token(ctx context.Context) (account.Bearer, error)
	// Rejected gives another token after a 401, or says that there is none.
	Rejected(ctx context.Context, used account.Bearer) (account.Bearer, error)
	// Changed is closed when the login next changes.
	Changed() <-chan struct{}
}

var _ Auth = (*account.Manager)(nil)

// grant is what one request is authorised with.
type grant struct {
	account.Bearer
	login   bool            // from Auth
	changed <-chan struct{} // closed when the login has changed since; nil without one
}

// authorise finds the authorisation of a request: the configured key, else the
// login.
func (c *Client) authorise(ctx context.Context) (grant, error) {
	if key := c.cfg.APIKey(); key != "" || c.cfg.Auth == nil {
		return grant{Bearer: account.Bearer{Token: key, Mode: secret.ModeAPIKey}}, nil
	}
	g := grant{login: true, changed: c.cfg.Auth.Changed()} // before the question, or a login in between is missed
	var err error
	g.Bearer, err = c.cfg.Auth.Token(ctx)
	return g, err
}

// again finds another authorisation after a 401.
func (c *Client) again(ctx context.Context, g grant) (grant, error) {
	changed := c.cfg.Auth.Changed()
	b, err := c.cfg.Auth.Rejected(ctx, g.Bearer)
	return grant{Bearer: b, login: true, changed: changed}, err
}

// options are the parts of a request that depend on its authorisation.
func (c *Client) options(g grant, thread string) []option.RequestOption {
	base := c.cfg.BaseURL
	mine := g.login && g.Mode != secret.ModeAPIKey
	if base == "" {
		if base = OpenAIURL; mine {
			base = c.cfg.AccountURL
		}
	}
	opts := []option.RequestOption{option.WithBaseURL(base), option.WithAPIKey(g.Token)}
	if mine {
		opts = append(opts, option.WithHeader("originator", originator))
		if thread != "" {
			opts = append(opts, option.WithHeader("session-id", thread), option.WithHeader("thread-id", thread))
		}
	}
	if g.AccountID != "" {
		opts = append(opts, option.WithHeader("ChatGPT-Account-Id", g.AccountID))
	}
	return opts
}

// unauthorised is the error of a request there is no authorisation for.
func (c *Client) unauthorised(ctx context.Context, g grant, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	said := err
	var p *config.Problem
	if errors.As(err, &p) {
		said = p.Err // the stage means nothing to who waits for an answer
	}
	e := &Error{Status: http.StatusUnauthorized, Code: "login_required", Info: infoUnauthorized, Err: err, Message: c.clean(said.Error(), g.Token)}
	switch {
	case errors.Is(err, account.ErrUnavailable):
		e.Status, e.Code, e.Retry, e.Info = 0, "", true, statusInfo("httpConnectionFailed", 0)
	case errors.Is(err, account.ErrNotLoggedIn), errors.Is(err, account.ErrLoginExpired):
		e.Relogin = g.changed
	}
	e.Err = cleaned{err: err, text: e.Message}
	c.cfg.Log.Warn("model request not authorised", "provider", c.cfg.Provider, "retry", e.Retry, "err", e.Message)
	return e
}

// rejected reports whether err is the endpoint's 401 to a request that a login
// authorised.
func rejected(g grant, err error) bool {
	var e *Error
	return g.login && errors.As(err, &e) && e.Status == http.StatusUnauthorized
}
