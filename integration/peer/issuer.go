package peer

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/appserver/engine/native/rehearsal"
)

// Issuer is the issuer of OpenAI's logins as some machines see it: by its own
// name, with a certificate they trust. The stock `codex login`, which knows no
// other, completes against it; on all other machines that name leads nowhere.
type Issuer struct {
	*issuertest.Issuer
	*Web

	mu      sync.Mutex // guards what follows
	extra   *http.ServeMux
	bearers []string
}

// The names of OpenAI that a login or a model request asks for.
var openAI = []string{"auth.openai.com", "chatgpt.com", "api.openai.com"}

// StartIssuer starts one for the machines, until the end of the test.
func StartIssuer(t testing.TB, o issuertest.Options, machines ...*Machine) *Issuer {
	t.Helper()
	if o.URL == "" {
		o.URL = "https://" + openAI[0]
	}
	i := &Issuer{Issuer: issuertest.New(o), Web: NewWeb(t)}
	i.Serve(i, openAI, machines...)
	t.Cleanup(func() { i.Release("") }) // before the sites close
	return i
}

// ServeModel has the rehearsal model answer where a ChatGPT login's requests go,
// to who brings an access token of this issuer that is good now.
func (i *Issuer) ServeModel() {
	model := rehearsal.Handler()
	i.Handle("POST /backend-api/codex/responses", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || !i.Valid(token) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":{"message":"this token is not good","code":"token_expired"}}`)
			return
		}
		i.mu.Lock()
		i.bearers = append(i.bearers, token)
		i.mu.Unlock()
		r.URL.Path = "/v1/responses"
		model.ServeHTTP(w, r)
	}))
}

// Bearers are the access tokens the model answered to, in order.
func (i *Issuer) Bearers() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.bearers...)
}

// Handle has another handler answer a pattern of [http.ServeMux], on every name:
// a model below chatgpt.com, an account check that says no.
func (i *Issuer) Handle(pattern string, h http.Handler) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.extra == nil {
		i.extra = http.NewServeMux()
	}
	i.extra.Handle(pattern, h)
}

// ServeHTTP answers for all the names.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	extra := i.extra
	i.mu.Unlock()
	if extra != nil {
		if h, pattern := extra.Handler(r); pattern != "" {
			h.ServeHTTP(w, r)
			return
		}
	}
	// Where the real one has what issuertest has at the root.
	if path, ok := strings.CutPrefix(r.URL.Path, "/api/accounts/v1/"); ok {
		r.URL.Path = "/v1/" + path
	}
	i.Issuer.ServeHTTP(w, r)
}
