package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	maxMessage    = 2000        // bytes of an endpoint's own words we pass on
	maxRetryAfter = time.Minute // an endpoint that wants more is down as far as a turn is concerned
)

// Error is why a response did not complete.
type Error struct {
	Status  int             // of the HTTP answer; 0 when there was none or it was fine
	Code    string          // the endpoint's own, such as "context_length_exceeded"
	Message string          // one sentence for a person, free of secrets
	Retry   bool            // the same request may well work later
	After   time.Duration   // how long the endpoint asked us to wait; 0 when it did not
	Info    json.RawMessage // the codexErrorInfo of a turn that fails with this
	Err     error           // the cause, when there is one below us
	// Relogin is set when only a person who logs in can mend it, and closed when
	// the login has changed since the request was made.
	Relogin <-chan struct{}
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ContextFull reports whether the input was too long for the model's window.
func (e *Error) ContextFull() bool { return e.Code == "context_length_exceeded" }

// The codexErrorInfo values in use.
var (
	infoOther        = json.RawMessage(`"other"`)
	infoInternal     = json.RawMessage(`"internalServerError"`)
	infoUnauthorized = json.RawMessage(`"unauthorized"`)
	infoRate         = json.RawMessage(`"rateLimitExceeded"`)
	infoUsage        = json.RawMessage(`"usageLimitExceeded"`)
	infoContext      = json.RawMessage(`"contextWindowExceeded"`)
	infoOverloaded   = json.RawMessage(`"serverOverloaded"`)
	infoModel        = json.RawMessage(`"modelNotFound"`)
	infoCyber        = json.RawMessage(`"cyberPolicy"`)
)

// InfoDisconnected is the codexErrorInfo of an announced retry. status is 0
// when there was no HTTP error.
func InfoDisconnected(status int) json.RawMessage {
	return statusInfo("responseStreamDisconnected", status)
}

func statusInfo(kind string, status int) json.RawMessage {
	if status == 0 {
		return json.RawMessage(`{"` + kind + `":{"httpStatusCode":null}}`)
	}
	return json.RawMessage(`{"` + kind + `":{"httpStatusCode":` + strconv.Itoa(status) + `}}`)
}

// failed is the error of a response.failed event.
func failed(code, message string) *Error {
	e := &Error{Code: code, Message: message, Info: InfoDisconnected(0)}
	switch code {
	case "context_length_exceeded":
		e.Info = infoContext
	case "insufficient_quota", "usage_not_included", "usage_limit_reached":
		e.Info = infoUsage
	case "rate_limit_exceeded":
		e.Info, e.Retry, e.After = infoRate, true, statedWait(message)
	case "server_is_overloaded", "slow_down":
		e.Info, e.Retry = infoOverloaded, true
	case "invalid_prompt", "bio_policy":
		e.Info = infoOther
	case "cyber_policy":
		e.Info = infoCyber
	case "model_not_found":
		e.Info = infoModel
	default:
		e.Retry = true
	}
	if e.Message == "" {
		e.Message = "the response failed without saying why"
	}
	return e
}

func incomplete(reason string) *Error {
	if reason == "" {
		reason = "not given"
	}
	return &Error{Code: "incomplete", Info: infoOther, Message: "the response is incomplete, reason: " + reason}
}

// refuse turns an HTTP error into an [*Error] before the library reads its
// body, which the library would do without a bound.
func (c *Client) refuse(req *http.Request, next func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	res, err := next(req)
	if err != nil || res.StatusCode < 300 {
		return res, err
	}
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxErrorBytes)) // what arrived is enough
	_ = res.Body.Close()
	return nil, httpError(res.StatusCode, res.Header, body)
}

func httpError(status int, h http.Header, body []byte) *Error {
	var b struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
		Detail  json.RawMessage `json:"detail"`
	}
	_ = json.Unmarshal(body, &b) // anything may stand in an error page
	var we wireError
	if json.Unmarshal(b.Error, &we) != nil {
		_ = json.Unmarshal(b.Error, &we.Message)
	}
	if we.Message == "" {
		_ = json.Unmarshal(b.Detail, &b.Message)
		we.Message = b.Message
	}
	code := string(we.Code)
	if code == "" {
		code = we.Type
	}
	e := failed(code, we.Message)
	e.Status, e.Retry, e.Info = status, false, chosen(e.Info, infoOther)
	said := we.Message
	if said == "" {
		said = strings.ToLower(http.StatusText(status))
	}
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		e.Info = infoUnauthorized
		said = "the endpoint does not accept the credentials: " + said
	case status == http.StatusTooManyRequests:
		if !isInfo(e.Info, infoUsage) {
			e.Retry, e.Info = true, statusInfo("responseTooManyFailedAttempts", status)
			if w := retryAfter(h, time.Now()); w > 0 {
				e.After = w
			}
		}
	case status == http.StatusRequestTimeout || status == http.StatusConflict || status >= 500:
		e.Retry, e.After = true, retryAfter(h, time.Now())
		if !isInfo(e.Info, infoOverloaded) {
			e.Info = infoInternal
		}
	case status < 400:
		said = "the endpoint answered with a redirect"
	}
	e.Message = fmt.Sprintf("%s (HTTP %d)", said, status)
	return e
}

// chosen keeps what a code told us and replaces the catch-all.
func chosen(info, otherwise json.RawMessage) json.RawMessage {
	if isInfo(info, InfoDisconnected(0)) {
		return otherwise
	}
	return info
}

func isInfo(a, b json.RawMessage) bool { return string(a) == string(b) }

// retryAfter reads the wait an HTTP answer asks for; 0 when it asks for none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil {
		return bounded(ms / 1000)
	}
	v := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(v, 64); err == nil {
		return bounded(s)
	}
	if t, err := http.ParseTime(v); err == nil {
		return bounded(t.Sub(now).Seconds())
	}
	return 0
}

var wait = regexp.MustCompile(`(?i)try again in\s*(\d+(?:\.\d+)?)\s*(ms|s|seconds?)\b`)

// statedWait finds "try again in 1.5s" in a message, the only place where a
// failed stream says how long to wait.
func statedWait(message string) time.Duration {
	m := wait.FindStringSubmatch(message)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0
	}
	if strings.EqualFold(m[2], "ms") {
		n /= 1000
	}
	return bounded(n)
}

func bounded(seconds float64) time.Duration {
	if math.IsNaN(seconds) || seconds <= 0 {
		return 0
	}
	return time.Duration(math.Min(seconds, maxRetryAfter.Seconds()) * float64(time.Second))
}

// explain makes every failure an [*Error] or the caller's context error, and
// takes the secrets out. streaming tells a lost stream from one that never began.
func (c *Client) explain(ctx, sctx context.Context, err error, streaming bool, g grant) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		e = &Error{Status: e.Status, Code: e.Code, Message: e.Message, Retry: e.Retry, After: e.After, Info: e.Info, Err: e.Err}
	case errors.Is(context.Cause(sctx), errIdle):
		e = &Error{
			Retry: true, Info: InfoDisconnected(0), Err: errIdle,
			Message: fmt.Sprintf("%s said nothing for %s", c.cfg.Provider, c.cfg.IdleTimeout),
		}
	case errors.Is(err, errTooLong):
		e = &Error{Info: infoOther, Err: err, Message: fmt.Sprintf("%s sent an event of more than %d bytes", c.cfg.Provider, maxEventBytes)}
	case streaming:
		e = &Error{
			Retry: true, Info: InfoDisconnected(0), Err: err,
			Message: fmt.Sprintf("the stream from %s broke off: %v", c.cfg.Provider, plainCause(err)),
		}
	default:
		e = &Error{
			Retry: true, Info: statusInfo("httpConnectionFailed", 0), Err: err,
			Message: fmt.Sprintf("cannot reach %s: %v", c.cfg.Provider, plainCause(err)),
		}
	}
	e.Message = c.clean(e.Message, g.Token)
	if e.Err != nil {
		// The cause goes to the log as a string that was cleaned as well.
		e.Err = cleaned{err: e.Err, text: c.clean(plainCause(e.Err).Error(), g.Token)}
	}
	c.cfg.Log.Warn("model request failed", "provider", c.cfg.Provider, "status", e.Status, "code", c.clean(e.Code, g.Token), "retry", e.Retry, "err", e.Message)
	return e
}

// plainCause drops the URL net/http puts around transport errors: a base URL
// may hold credentials.
func plainCause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// cleaned keeps a cause's identity and replaces its words.
type cleaned struct {
	err  error
	text string
}

func (c cleaned) Error() string        { return c.text }
func (c cleaned) Is(target error) bool { return errors.Is(c.err, target) }

var keyLike = regexp.MustCompile(`\b(sk-|at-|rt[-_.]|eyJ)[A-Za-z0-9_*.-]{6,}`)

// clean makes an endpoint's words fit to show: endpoints echo keys, whole or
// in part, and may send anything of any length.
func (c *Client) clean(s, key string) string {
	if len(key) >= 4 {
		s = strings.ReplaceAll(s, key, "[redacted]")
	}
	s = keyLike.ReplaceAllString(s, "[redacted]")
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, s)
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}
