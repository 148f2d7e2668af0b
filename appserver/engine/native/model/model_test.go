package model_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/engine/native/model"
	"towline/appserver/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "sk-very-secret-key-0123456789"

// endpoint serves one answer and remembers the request.
type endpoint struct {
	*httptest.Server
	header http.Header
	path   string
	body   []byte
}

func serve(t *testing.T, answer http.HandlerFunc) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.header, e.path = r.Header.Clone(), r.URL.Path
		e.body, _ = io.ReadAll(r.Body)
		answer(w, r)
	}))
	t.Cleanup(e.Close)
	return e
}

func stream(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

// run streams one request and returns what was said.
func run(t *testing.T, url string, change func(*model.Config)) (got []model.Event, logged string, err error) {
	t.Helper()
	var log bytes.Buffer
	cfg := model.Config{
		BaseURL: url + "/v1", APIKey: func() string { return key }, Provider: "Test",
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	c := model.New(cfg)
	defer c.Close()
	err = c.Stream(t.Context(), request(), func(ev model.Event) { got = append(got, ev) })
	return got, log.String(), err
}

func request() model.Request {
	return model.Request{
		Model: "m1", CacheKey: "thread", ParallelToolCalls: true, Effort: "high", Summary: "auto",
		Input: []json.RawMessage{
			json.RawMessage(`{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"a<b>&\u00e9","future":{"x":12345678901234567890.10}}`),
			json.RawMessage(`{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]}`),
		},
		Tools:        []json.RawMessage{json.RawMessage(`{"type":"custom","name":"apply_patch","format":{"type":"grammar","syntax":"lark","definition":"a: \"<b>\""}}`)},
		OutputSchema: json.RawMessage(`{"type":"object","z":1,"a":2}`),
	}
}

func TestRequestIsWhatCodexSends(t *testing.T) {
	e := serve(t, stream(`data: {"type":"response.completed","response":{"id":"r1"}}`+"\n\n"))
	if _, _, err := run(t, e.URL, nil); err != nil {
		t.Fatal(err)
	}
	if e.path != "/v1/responses" {
		t.Errorf("path = %s", e.path)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer " + key, "Accept": "text/event-stream", "Content-Type": "application/json", "User-Agent": "towline",
	} {
		if got := e.header.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	req := request()
	for _, raw := range append(req.Input, req.Tools...) {
		if !bytes.Contains(e.body, raw) {
			t.Errorf("not sent byte for byte: %s\nin %s", raw, e.body)
		}
	}
	var body map[string]any
	if err := json.Unmarshal(e.body, &body); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"model": "m1", "stream": true, "store": false, "tool_choice": "auto", "parallel_tool_calls": true,
		"include": []any{"reasoning.encrypted_content"}, "prompt_cache_key": "thread",
		"reasoning": map[string]any{"effort": "high", "summary": "auto"},
		"text": map[string]any{"format": map[string]any{
			"type": "json_schema", "name": "codex_output_schema", "strict": true, "schema": map[string]any{"type": "object", "z": 1.0, "a": 2.0},
		}},
	} {
		if !reflect.DeepEqual(body[name], want) {
			t.Errorf("%s = %v, want %v", name, body[name], want)
		}
	}
	if _, ok := body["instructions"]; ok {
		t.Error("instructions sent: they belong into the input")
	}
}

func TestNoKeyNoAuthorization(t *testing.T) {
	e := serve(t, stream(`data: {"type":"response.completed","response":{"id":"r1"}}`+"\n\n"))
	if _, _, err := run(t, e.URL, func(c *model.Config) { c.APIKey = nil }); err != nil {
		t.Fatal(err)
	}
	if got, ok := e.header["Authorization"]; ok {
		t.Errorf("Authorization = %q", got)
	}
}

const untidy = ": a comment\r\n" +
	"retry: 10\r\n" +
	"id: 7\r\n" +
	"event: response.output_item.added\r\n" +
	`data: {"type":"response.output_item.added","item":{"type":"message","id":"m1","role":"assistant"}}` + "\r\n\r\n" +
	`data: this is not JSON` + "\n\n" +
	`data: [1,2]` + "\n\n" +
	`data:{"type":"response.output_text.delta",` + "\n" + `data:"item_id":"m1","delta":"he"}` + "\n\n" +
	`data: {"type":"response.something.new","delta":{"not":"text"}}` + "\n\n" +
	`data: [DONE]` + "\n\n" +
	`data: {"type":"response.output_text.delta","item_id":"m1","delta":"y"}` + "\n\n" +
	`data: {"type":"response.reasoning_summary_part.added","item_id":"r","summary_index":1}` + "\n\n" +
	`data: {"type":"response.reasoning_summary_text.delta","item_id":"r","summary_index":1,"delta":"hm"}` + "\n\n" +
	`data: {"type":"response.output_item.done","item":{"type":"message","id":"m1","role":"assistant","content":[ {"type":"output_text","text":"hey"} ]}}` + "\n\n" +
	`data: {"type":"response.completed","response":{"id":"r1","usage":{"input_tokens":5,"output_tokens":2,"total_tokens":7,"input_tokens_details":{"cached_tokens":3},"output_tokens_details":{"reasoning_tokens":1}}}}`

func TestUntidyStream(t *testing.T) {
	// No blank line at the end, on purpose.
	e := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("X-Codex-Primary-Used-Percent", "41.6")
		w.Header().Set("X-Codex-Primary-Window-Minutes", "300")
		for rest := untidy; rest != ""; { // pieces that respect no boundary
			n := min(7, len(rest))
			_, _ = io.WriteString(w, rest[:n])
			w.(http.Flusher).Flush()
			rest = rest[n:]
		}
	})
	got, _, err := run(t, e.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	mins := int64(300)
	want := []model.Event{
		{Kind: model.RateLimits, Limits: &model.Limits{Primary: &model.Window{UsedPercent: 42, DurationMins: &mins}}},
		{Kind: model.ItemAdded, ItemID: "m1", Item: json.RawMessage(`{"type":"message","id":"m1","role":"assistant"}`)},
		{Kind: model.TextDelta, ItemID: "m1", Delta: "he"},
		{Kind: model.TextDelta, ItemID: "m1", Delta: "y"},
		{Kind: model.ReasoningPart, ItemID: "r", Index: 1},
		{Kind: model.ReasoningDelta, ItemID: "r", Index: 1, Delta: "hm"},
		{Kind: model.ItemDone, ItemID: "m1", Item: json.RawMessage(`{"type":"message","id":"m1","role":"assistant","content":[ {"type":"output_text","text":"hey"} ]}`)},
		{Kind: model.Completed, ResponseID: "r1", Usage: &protocol.TokenUsage{TotalTokens: 7, InputTokens: 5, OutputTokens: 2, CachedInputTokens: 3, ReasoningOutputTokens: 1}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestFailures(t *testing.T) {
	failed := func(code, message string) http.HandlerFunc {
		return stream(fmt.Sprintf(`data: {"type":"response.failed","response":{"error":{"code":%q,"message":%q}}}`+"\n\n", code, message))
	}
	status := func(code int, body string, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   model.Error // Err is not compared; Message is a part of the message
		full   bool
	}{
		"ended without completing": {
			answer: stream(`data: {"type":"response.created"}` + "\n\n"),
			want:   model.Error{Message: "broke off", Retry: true, Info: json.RawMessage(`{"responseStreamDisconnected":{"httpStatusCode":null}}`)},
		},
		"done marker is no completion": {
			answer: stream("data: [DONE]\n\n"),
			want:   model.Error{Message: "broke off", Retry: true, Info: json.RawMessage(`{"responseStreamDisconnected":{"httpStatusCode":null}}`)},
		},
		"completed without id": {
			answer: stream(`data: {"type":"response.completed","response":{}}` + "\n\n"),
			want:   model.Error{Message: "broke off", Retry: true, Info: json.RawMessage(`{"responseStreamDisconnected":{"httpStatusCode":null}}`)},
		},
		"window full": {
			answer: failed("context_length_exceeded", "too long"), full: true,
			want: model.Error{Code: "context_length_exceeded", Message: "too long", Info: json.RawMessage(`"contextWindowExceeded"`)},
		},
		"window full as HTTP error": {
			answer: status(400, `{"error":{"code":"context_length_exceeded","message":"too long"}}`), full: true,
			want: model.Error{Status: 400, Code: "context_length_exceeded", Message: "too long (HTTP 400)", Info: json.RawMessage(`"contextWindowExceeded"`)},
		},
		"rate limit says when": {
			answer: failed("rate_limit_exceeded", "Limit reached. Please try again in 1.5s."),
			want:   model.Error{Code: "rate_limit_exceeded", Message: "try again", Retry: true, After: 1500 * time.Millisecond, Info: json.RawMessage(`"rateLimitExceeded"`)},
		},
		"quota": {
			answer: failed("insufficient_quota", "pay"),
			want:   model.Error{Code: "insufficient_quota", Message: "pay", Info: json.RawMessage(`"usageLimitExceeded"`)},
		},
		"invalid prompt": {
			answer: failed("invalid_prompt", "no"),
			want:   model.Error{Code: "invalid_prompt", Message: "no", Info: json.RawMessage(`"other"`)},
		},
		"overloaded": {
			answer: failed("server_is_overloaded", "busy"),
			want:   model.Error{Code: "server_is_overloaded", Message: "busy", Retry: true, Info: json.RawMessage(`"serverOverloaded"`)},
		},
		"unknown failure": {
			answer: failed("", ""),
			want:   model.Error{Message: "without saying why", Retry: true, Info: json.RawMessage(`{"responseStreamDisconnected":{"httpStatusCode":null}}`)},
		},
		"error event": {
			answer: stream(`data: {"type":"error","error":{"type":"x","code":42,"message":"odd"}}` + "\n\n"),
			want:   model.Error{Code: "42", Message: "odd", Retry: true, Info: json.RawMessage(`{"responseStreamDisconnected":{"httpStatusCode":null}}`)},
		},
		"incomplete": {
			answer: stream(`data: {"type":"response.incomplete","response":{"incomplete_details":{"reason":"max_output_tokens"}}}` + "\n\n"),
			want:   model.Error{Code: "incomplete", Message: "max_output_tokens", Info: json.RawMessage(`"other"`)},
		},
		"500": {
			answer: status(500, `{"error":{"message":"boom"}}`),
			want:   model.Error{Status: 500, Message: "boom (HTTP 500)", Retry: true, Info: json.RawMessage(`"internalServerError"`)},
		},
		"503 with a date": {
			answer: status(503, `<html>`, "Retry-After", "2"),
			want:   model.Error{Status: 503, Message: "service unavailable (HTTP 503)", Retry: true, After: 2 * time.Second, Info: json.RawMessage(`"internalServerError"`)},
		},
		"429": {
			answer: status(429, `{"error":{"message":"slow"}}`, "Retry-After-Ms", "50"),
			want:   model.Error{Status: 429, Message: "slow (HTTP 429)", Retry: true, After: 50 * time.Millisecond, Info: json.RawMessage(`{"responseTooManyFailedAttempts":{"httpStatusCode":429}}`)},
		},
		"429 for good": {
			answer: status(429, `{"error":{"code":"insufficient_quota","message":"pay"}}`),
			want:   model.Error{Status: 429, Code: "insufficient_quota", Message: "pay (HTTP 429)", Info: json.RawMessage(`"usageLimitExceeded"`)},
		},
		"401": {
			answer: status(401, `{"error":{"message":"wrong key: `+key+`"}}`),
			want:   model.Error{Status: 401, Message: "credentials: wrong key: [redacted] (HTTP 401)", Info: json.RawMessage(`"unauthorized"`)},
		},
		"404": {
			answer: status(404, `{"error":{"code":"model_not_found","message":"no such model"}}`),
			want:   model.Error{Status: 404, Code: "model_not_found", Message: "no such model", Info: json.RawMessage(`"modelNotFound"`)},
		},
		"400 of another shape": {
			answer: status(400, `{"detail":"bad"}`),
			want:   model.Error{Status: 400, Message: "bad (HTTP 400)", Info: json.RawMessage(`"other"`)},
		},
		"redirect elsewhere": {
			answer: status(302, "", "Location", "http://other.invalid/"),
			want:   model.Error{Message: "", Retry: true, Info: json.RawMessage(`{"httpConnectionFailed":{"httpStatusCode":null}}`)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := serve(t, tc.answer)
			_, log, err := run(t, e.URL, nil)
			var got *model.Error
			if !errors.As(err, &got) {
				t.Fatalf("err = %v", err)
			}
			if got.Status != tc.want.Status || got.Code != tc.want.Code || got.Retry != tc.want.Retry || got.After != tc.want.After ||
				string(got.Info) != string(tc.want.Info) || !strings.Contains(got.Message, tc.want.Message) {
				t.Errorf("got  %+v\nwant %+v", *got, tc.want)
			}
			if got.ContextFull() != tc.full {
				t.Errorf("ContextFull = %v", got.ContextFull())
			}
			if strings.Contains(log, key) || strings.Contains(fmt.Sprintf("%v %+v", err, errors.Unwrap(err)), key) {
				t.Error("the key is in the log or the error")
			}
		})
	}
}

func TestUnreachableNamesNoURL(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	url := strings.Replace(srv.URL, "http://", "http://user:hunter2@", 1)
	srv.Close()
	_, log, err := run(t, url, nil)
	var me *model.Error
	if !errors.As(err, &me) || !me.Retry || !strings.Contains(string(me.Info), "httpConnectionFailed") {
		t.Fatalf("err = %v", err)
	}
	if strings.Contains(log+err.Error()+errors.Unwrap(err).Error(), "hunter2") {
		t.Errorf("the base URL's password is in %q", log)
	}
}

func TestSilentEndpoint(t *testing.T) {
	for name, say := range map[string]string{"no headers": "", "nothing after headers": ": hello\n"} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			e := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if say != "" {
					_, _ = io.WriteString(w, say)
					w.(http.Flusher).Flush()
				}
				select {
				case <-release:
				case <-r.Context().Done():
				}
			})
			defer close(release)
			_, _, err := run(t, e.URL, func(c *model.Config) { c.IdleTimeout = 50 * time.Millisecond })
			var me *model.Error
			if !errors.As(err, &me) || !me.Retry || !strings.Contains(me.Message, "said nothing for 50ms") {
				t.Fatalf("err = %v", err)
			}
		})
	}
}

func TestCancelIsNotAFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	e := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
	})
	c := model.New(model.Config{BaseURL: e.URL})
	defer c.Close()
	if err := c.Stream(ctx, request(), func(model.Event) {}); !errors.Is(err, context.Canceled) {
		t.Fatalf("err = %v", err)
	}
}

func TestEndlessEventIsRefused(t *testing.T) {
	e := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		chunk := bytes.Repeat([]byte("x"), 1<<20)
		_, _ = io.WriteString(w, "data: ")
		for range 32 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	_, _, err := run(t, e.URL, nil)
	var me *model.Error
	if !errors.As(err, &me) || me.Retry || !strings.Contains(me.Message, "more than") {
		t.Fatalf("err = %v", err)
	}
}

func TestHugeErrorPageIsCut(t *testing.T) {
	e := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(500)
		_, _ = w.Write(append([]byte(`{"error":{"message":"`), append(bytes.Repeat([]byte("a\x1b"), 10<<20), '"')...))
	})
	_, _, err := run(t, e.URL, nil)
	var me *model.Error
	if !errors.As(err, &me) || len(me.Message) > 4000 || strings.Contains(me.Message, "\x1b") {
		t.Fatalf("err = %.200v", err)
	}
}
