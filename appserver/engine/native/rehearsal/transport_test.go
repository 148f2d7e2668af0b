package rehearsal

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func ask2(prompt string) string {
	return `{"model":"gpt-5.5","stream":true,"input":[{"role":"user","content":"` + prompt + `"}]}`
}

func newRequest(t *testing.T, ctx context.Context, url, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/responses", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// TestEveryWay runs the same behaviour in memory and over loopback HTTP.
func TestEveryWay(t *testing.T) {
	ways := map[string]func(t *testing.T) (*http.Client, string){
		"in memory": func(*testing.T) (*http.Client, string) {
			return &http.Client{Transport: New(Config{})}, "http://rehearsal.invalid/v1"
		},
		"loopback": func(t *testing.T) (*http.Client, string) {
			s, err := Listen(t.Context(), "127.0.0.1:0", Config{})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx) }()
			tr := &http.Transport{}
			t.Cleanup(func() {
				tr.CloseIdleConnections()
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
			return &http.Client{Transport: tr}, s.URL()
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Run("streams as it is written", func(t *testing.T) {
				c, url := way(t)
				resp, err := c.Do(newRequest(t, t.Context(), url, ask2("count to 2 slowly")))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				var seen string
				start := time.Now()
				for buf := make([]byte, 512); !strings.Contains(seen, "output_text.delta"); {
					n, err := resp.Body.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					seen += string(buf[:n])
				}
				if d := time.Since(start); strings.Contains(seen, "response.completed") || d > time.Minute {
					t.Errorf("the first delta came with the end, after %v", d)
				}
				rest, err := io.ReadAll(resp.Body)
				if err != nil || !strings.Contains(string(rest), "response.completed") {
					t.Errorf("the stream ends with %v, %q", err, rest[max(0, len(rest)-80):])
				}
			})
			t.Run("ends with its request", func(t *testing.T) {
				c, url := way(t)
				ctx, cancel := context.WithCancelCause(t.Context())
				resp, err := c.Do(newRequest(t, ctx, url, ask2("wait 50 seconds")))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				start := time.Now()
				cancel(errors.New("enough"))
				if _, err := io.ReadAll(resp.Body); err == nil {
					t.Error("a cancelled answer ended well")
				}
				if d := time.Since(start); d > 10*time.Second {
					t.Errorf("it took %v to end", d)
				}
			})
			t.Run("ends when the body is closed", func(t *testing.T) {
				c, url := way(t)
				resp, err := c.Do(newRequest(t, t.Context(), url, ask2("stream slowly")))
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				_ = resp.Body.Close()
				if d := time.Since(start); d > 5*time.Second {
					t.Errorf("closing took %v", d)
				}
			})
			t.Run("disconnects once", func(t *testing.T) {
				c, url := way(t)
				resp, err := c.Do(newRequest(t, t.Context(), url, ask2("disconnect")))
				if err != nil {
					t.Fatal(err)
				}
				first, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(string(first), "cut on") {
					t.Errorf("first attempt: %v, %q", err, first)
				}
				resp, err = c.Do(newRequest(t, t.Context(), url, ask2("disconnect")))
				if err != nil {
					t.Fatal(err)
				}
				second, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || !strings.Contains(string(second), "response.completed") {
					t.Errorf("second attempt: %v, %q", err, second)
				}
			})
			t.Run("fails in many ways", func(t *testing.T) {
				c, url := way(t)
				for prompt, want := range map[string]struct {
					status int
					text   string
				}{
					"fail": {200, `"code":"invalid_prompt"`}, "fail with a rate limit": {200, `"code":"rate_limit_exceeded"`},
					"fail quota": {200, `"code":"insufficient_quota"`}, "fail context": {200, `"code":"context_length_exceeded"`},
					"fail 429": {429, `"code":"too_many_requests"`}, "fail 503": {503, `"code":"service_unavailable"`},
				} {
					resp, err := c.Do(newRequest(t, t.Context(), url, ask2(prompt)))
					if err != nil {
						t.Fatal(err)
					}
					b, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err != nil || resp.StatusCode != want.status || !strings.Contains(string(b), want.text) || strings.Contains(string(b), "response.completed") {
						t.Errorf("%s: status %d, %v, %s", prompt, resp.StatusCode, err, b)
					}
				}
			})
			t.Run("lists itself", func(t *testing.T) {
				c, url := way(t)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/models", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if b, _ := io.ReadAll(resp.Body); !strings.Contains(string(b), Slug) {
					t.Errorf("models: %s", b)
				}
			})
		})
	}
}

func TestListenRefusesOtherAddresses(t *testing.T) {
	if s, err := Listen(t.Context(), "0.0.0.0:0", Config{}); err == nil {
		_ = s.Close()
		t.Error("listens on every address without authentication")
	}
}

func TestBadRequests(t *testing.T) {
	m := New(Config{})
	for name, tc := range map[string]struct {
		method, path, body string
		status             int
	}{
		"no JSON":     {"POST", "/v1/responses", "x", 400},
		"no input":    {"POST", "/v1/responses", "{}", 400},
		"wrong types": {"POST", "/v1/responses", `{"input":1,"tools":{}}`, 400},
		"elsewhere":   {"POST", "/v1/chat/completions", "{}", 404},
		"method":      {"DELETE", "/v1/responses", "", 404},
		"odd input":   {"POST", "/v1/responses", `{"input":17}`, 200},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			m.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), tc.method, tc.path, strings.NewReader(tc.body)))
			if w.Code != tc.status {
				t.Errorf("status %d, want %d: %s", w.Code, tc.status, w.Body)
			}
		})
	}
}

// FuzzRespond: whatever the request, the answer is whole and the same twice.
func FuzzRespond(f *testing.F) {
	for _, s := range []string{
		ask2("hello"), ask2("run `ls`"), ask2("plan a, b"), ask2("fail once"), `{"input":"help"}`, `{"input":[{"type":"function_call_output","call_id":"x","output":{"output":"y"}}]}`,
		`{"input":[{"role":"user","content":"change a to b in c"},{"type":"function_call","call_id":"1","name":"exec_command","arguments":"{}"},{"type":"function_call_output","call_id":"1","output":"\nProcess exited with code 0\nOutput:\na\n"}],"tools":[{"type":"function","name":"exec_command"},{"type":"custom","name":"apply_patch"}]}`,
		`{"input":"x","text":{"format":{"type":"json_schema","schema":{"type":"object","properties":{"a":{"anyOf":[{}]}}}}},"stream":true}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if strings.Contains(string(body), "wait") || strings.Contains(string(body), "sl") || strings.Contains(string(body), "count") {
			return // what takes its time is tested above
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var answers []string
		for range 2 {
			resp, err := New(Config{}).RoundTrip(newRequest(t, ctx, "http://x/v1", string(body)))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			if s := string(b); err == nil && resp.StatusCode == http.StatusOK && strings.HasPrefix(s, "event:") &&
				!strings.Contains(s, "event: response.completed\n") && !strings.Contains(s, "event: response.failed\n") {
				t.Fatalf("the stream has no end: %s", s)
			}
			answers = append(answers, string(b))
		}
		if answers[0] != answers[1] {
			t.Fatalf("two answers to one request:\n%s\n%s", answers[0], answers[1])
		}
	})
}
