// Package rehearsal is a deterministic offline stand-in for a language model.
//
// It answers the Responses API (POST …/responses with server-sent events, GET
// …/models) the way a model would: it reads the conversation it is sent, and on
// plain words runs commands, edits files, plans, asks, thinks, streams slowly and
// fails, through the tools it was offered. Every answer says that it is a
// rehearsal. It knows nothing and must never be chosen silently in the place of
// a real model: it exists for tests, for trying the UI and for a first run
// without an account.
//
// A [Model] is an http.Handler (loopback HTTP, for a real Codex as its client) and
// an http.RoundTripper (in memory, no socket, for the native engine):
//
//	client := &http.Client{Transport: rehearsal.New(rehearsal.Config{})}
//
// # Wire
//
// A request body is JSON with model, input (items of type message,
// function_call, function_call_output, custom_tool_call, custom_tool_call_output,
// reasoning), tools, text.format and stream. The answer is a sequence of
// "event: TYPE\ndata: JSON\n\n" frames: response.created, for each item
// response.output_item.added, its deltas and response.output_item.done, and then
// response.completed with id and usage, or response.failed.
package rehearsal

import (
	"log/slog"
	"net/http"
	"time"
)

// Slug is the model name the rehearsal prefers: clients that know it offer the
// full set of tools for it.
const Slug = "gpt-5.5"

// DefaultDelay is the pause between words that reads like a model writing.
const DefaultDelay = 12 * time.Millisecond

// Config configures a Model; the zero value answers without delay.
type Config struct {
	Delay time.Duration // pause between deltas; 0 in tests
	Log   *slog.Logger  // nil: discarded; never given prompt text
}

// Model is the rehearsal model. It may be used concurrently.
type Model struct{ cfg Config }

// New makes a Model. It starts nothing.
func New(cfg Config) *Model { return &Model{cfg: cfg} }

// Handler is New with DefaultDelay, as a handler.
func Handler() http.Handler { return New(Config{Delay: DefaultDelay}) }

// Transport is New with DefaultDelay, as a transport.
func Transport() http.RoundTripper { return New(Config{Delay: DefaultDelay}) }

// ServeHTTP answers POST …/responses and GET …/models.
func (m *Model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	http.Error(w, "not yet", http.StatusNotImplemented)
}

// RoundTrip calls ServeHTTP in memory. The body streams as it is written; ending
// the request's context or closing the body ends the handler.
func (m *Model) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, http.ErrNotSupported
}
