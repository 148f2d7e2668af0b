// Package rehearsal is a deterministic offline stand-in for a language model.
//
// It answers the Responses API (POST …/responses with server-sent events, GET
// …/models) the way a model would: it reads the conversation it is sent, and on
// plain words runs commands, edits files, plans, asks, thinks, streams slowly and
// fails, through the tools it was offered (say "help" to it for the list). Every
// answer says that it is a rehearsal. It knows nothing and must never be chosen
// silently in the place of a real model: it exists for tests, for trying the UI
// and for a first run without an account.
//
// A [Model] is an http.Handler (loopback HTTP, for a real Codex as its client) and
// an http.RoundTripper (in memory, no socket, for the native engine):
//
//	client := &http.Client{Transport: rehearsal.New(rehearsal.Config{})}
//
// The same request body gets the same bytes back, with one exception: "fail once"
// and "disconnect" are remembered, so that the retry succeeds.
//
// # Wire
//
// A request body is JSON with model, input (items of type message,
// function_call, function_call_output, custom_tool_call, custom_tool_call_output,
// reasoning), tools, text.format and stream. The answer is a sequence of
// "event: TYPE\ndata: JSON\n\n" frames: response.created, for each item
// response.output_item.added, its deltas and response.output_item.done, and then
// response.completed with id and usage, or response.failed. With "stream":false
// it is the response object alone.
package rehearsal

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Slug is the model name the rehearsal prefers: Codex offers the full set of
// tools, the freeform apply_patch among them, only for slugs it knows.
const Slug = "gpt-5.5"

// DefaultDelay is the pause between words that reads like a model writing.
const DefaultDelay = 12 * time.Millisecond

// Limits.
const (
	maxBody     = 64 << 20         // a request: whole conversations with images inline
	maxRemember = 1024             // requests whose first attempt was made to fail
	maxWait     = 60 * time.Second // "wait 9999" waits this long
)

// Config configures a Model; the zero value answers without delay.
type Config struct {
	Delay time.Duration // pause between deltas; 0 in tests. What is asked to be slow is slow anyway
	Log   *slog.Logger  // nil: discarded; never given prompt text
}

// Model is the rehearsal model. It may be used concurrently.
type Model struct {
	cfg Config

	mu     sync.Mutex
	failed map[string]bool // requests failed on purpose once
}

// New makes a Model. It starts nothing.
func New(cfg Config) *Model {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Model{cfg: cfg, failed: make(map[string]bool)}
}

// Handler is New with DefaultDelay, as a handler.
func Handler() http.Handler { return New(Config{Delay: DefaultDelay}) }

// Transport is New with DefaultDelay, as a transport.
func Transport() http.RoundTripper { return New(Config{Delay: DefaultDelay}) }

// ServeHTTP answers POST …/responses and GET …/models.
func (m *Model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/models"):
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"`+Slug+`","object":"model","created":0,"owned_by":"rehearsal"}]}`)
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/responses"):
		m.respond(w, r)
	default:
		refuse(w, http.StatusNotFound, "not_found", "the rehearsal model serves POST /responses and GET /models only")
	}
}

func (m *Model) respond(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		status := http.StatusBadRequest
		if tooBig := new(http.MaxBytesError); errors.As(err, &tooBig) {
			status = http.StatusRequestEntityTooLarge
		}
		refuse(w, status, "invalid_request", "the request body could not be read: "+err.Error())
		return
	}
	req, err := decode(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	conv := req.conversation()
	rep := answer(conv)
	m.cfg.Log.Debug("rehearsal answers", "items", conv.items, "calls", len(rep.calls), "text_bytes", len(rep.text))

	if f := rep.fail; f != nil && (!f.once || m.firstTime(conv.key)) {
		m.failOnPurpose(r.Context(), w, req, conv, rep.fail)
		return
	}
	e := newEmitter(r.Context(), w, conv, m.cfg.Delay, req.Stream)
	if err := e.run(rep); err != nil {
		m.cfg.Log.Debug("rehearsal stopped", "cause", err)
	}
}

// firstTime is true once for a request.
func (m *Model) firstTime(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed[key] {
		return false
	}
	if len(m.failed) >= maxRemember {
		clear(m.failed)
	}
	m.failed[key] = true
	return true
}

// failOnPurpose shows one of the ways in which a real endpoint lets a client down.
func (m *Model) failOnPurpose(ctx context.Context, w http.ResponseWriter, req *request, conv *conversation, f *failure) {
	if f.status != 0 {
		if f.status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "1")
		}
		refuse(w, f.status, f.code, f.message)
		return
	}
	e := newEmitter(ctx, w, conv, m.cfg.Delay, req.Stream)
	if f.cut {
		_ = e.begin(f.after)
		panic(http.ErrAbortHandler) // how net/http cuts a connection without a word
	}
	_ = e.failed(f.code, f.message)
}

// refuse answers with the API's error object.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": message, "type": code, "code": code, "param": nil}})
}
