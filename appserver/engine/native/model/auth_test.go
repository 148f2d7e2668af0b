package model

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"towline/appserver/account"
	"towline/config"
	"towline/config/secret"
)

// login is a scripted one.
type login struct {
	tokens   []account.Bearer // given one after the other, the last for ever
	rejected int
	err      error
	changed  chan struct{}
}

func (l *login) Token(context.Context) (account.Bearer, error) {
	if len(l.tokens) == 0 {
		return account.Bearer{}, l.err
	}
	return l.tokens[0], nil
}

func (l *login) Rejected(_ context.Context, used account.Bearer) (account.Bearer, error) {
	l.rejected++
	if l.tokens = l.tokens[1:]; len(l.tokens) == 0 {
		return account.Bearer{}, l.err
	}
	if used.Token == l.tokens[0].Token {
		panic("the same again")
	}
	return l.tokens[0], nil
}

func (l *login) Changed() <-chan struct{} { return l.changed }

// endpoint accepts the bearer "good" and echoes what it refuses.
func endpoint(t *testing.T) (url string, seen *[]*http.Request) {
	t.Helper()
	seen = new([]*http.Request)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		*seen = append(*seen, r)
		if got := r.Header.Get("Authorization"); !strings.HasPrefix(got, "Bearer good") {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprintf(w, `{"error":{"message":"%s is wrong"}}`, got)
			return
		}
		_, _ = io.WriteString(w, "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\"}}\n\n")
	}))
	t.Cleanup(srv.Close)
	return srv.URL, seen
}

func TestAuthorisation(t *testing.T) {
	chatgpt := func(token string) account.Bearer {
		return account.Bearer{Token: token, AccountID: "acct", Mode: secret.ModeChatGPT}
	}
	expired := &config.Problem{Stage: "refresh", Err: fmt.Errorf("%w: used elsewhere", account.ErrLoginExpired)}
	away := &config.Problem{Stage: "refresh", Err: fmt.Errorf("dial: %w", account.ErrUnavailable)}
	for name, tc := range map[string]struct {
		key     string
		login   *login
		base    string // "" leaves it to the login
		path    string // of the last request
		sent    []string
		err     string
		relogin bool
		retry   bool
	}{
		"a key stands before a login":  {key: "good-key", login: &login{tokens: []account.Bearer{chatgpt("good")}}, base: "/v1", path: "/v1/responses", sent: []string{"good-key"}},
		"a key that is refused":        {key: "secret-key", login: &login{}, base: "/v1", path: "/v1/responses", sent: []string{"secret-key"}, err: "[redacted] is wrong (HTTP 401)"},
		"a login":                      {login: &login{tokens: []account.Bearer{chatgpt("good")}}, path: "/backend-api/codex/responses", sent: []string{"good"}},
		"a login for an endpoint":      {login: &login{tokens: []account.Bearer{chatgpt("good")}}, base: "/v1", path: "/v1/responses", sent: []string{"good"}},
		"refused once":                 {login: &login{tokens: []account.Bearer{chatgpt("secret"), chatgpt("good")}}, path: "/backend-api/codex/responses", sent: []string{"secret", "good"}},
		"refused twice":                {login: &login{tokens: []account.Bearer{chatgpt("secret1"), chatgpt("secret2"), chatgpt("good")}}, sent: []string{"secret1", "secret2"}, err: "is wrong (HTTP 401)"},
		"refused and expired":          {login: &login{tokens: []account.Bearer{chatgpt("secret")}, err: expired}, sent: []string{"secret"}, err: "the login has expired: used elsewhere", relogin: true},
		"expired":                      {login: &login{err: expired}, err: "the login has expired: used elsewhere", relogin: true},
		"nobody is logged in":          {login: &login{err: account.ErrNotLoggedIn}, err: "not logged in", relogin: true},
		"the issuer is away":           {login: &login{err: away}, err: "not available", retry: true},
		"something else, with a token": {login: &login{err: errors.New("odd eyJhbGciOiJub25lIn0.abc.def")}, err: "odd [redacted]"},
	} {
		t.Run(name, func(t *testing.T) {
			url, seen := endpoint(t)
			tc.login.changed = make(chan struct{})
			base := tc.base
			if base != "" {
				base = url + base
			}
			c := New(Config{BaseURL: base, AccountURL: url + "/backend-api/codex", APIKey: func() string { return tc.key }, Auth: tc.login})
			defer c.Close()
			err := c.Stream(t.Context(), Request{Model: "m", CacheKey: "thread"}, func(Event) {})
			if len(*seen) != len(tc.sent) {
				t.Fatalf("%d requests, want %d (%v)", len(*seen), len(tc.sent), err)
			}
			for i, want := range tc.sent {
				r := (*seen)[i]
				if r.Header.Get("Authorization") != "Bearer "+want {
					t.Errorf("request %d carries %q", i, r.Header.Get("Authorization"))
				}
				if mine := tc.key == ""; (r.Header.Get("ChatGPT-Account-Id") == "acct") != mine || (r.Header.Get("thread-id") == "thread") != mine {
					t.Errorf("request %d carries %v", i, r.Header)
				}
			}
			if n := len(*seen); tc.path != "" && (*seen)[n-1].URL.Path != tc.path {
				t.Errorf("it went to %s", (*seen)[n-1].URL.Path)
			}
			if tc.err == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(e.Message, tc.err) {
				t.Fatalf("%v, want %q", err, tc.err)
			}
			if (e.Relogin != nil) != tc.relogin || e.Retry != tc.retry {
				t.Errorf("relogin %v, retry %v", e.Relogin != nil, e.Retry)
			}
			if all := fmt.Sprintf("%v %+v %v", err, e, e.Err); strings.Contains(all, "secret") {
				t.Errorf("the error holds the token: %s", all)
			}
		})
	}
}
