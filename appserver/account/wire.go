package account

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"towline/config"
)

// defaultHTTP asks issuers: with time limits, never sent elsewhere by a redirect.
func defaultHTTP() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 2
	t.IdleConnTimeout = 30 * time.Second
	t.ResponseHeaderTimeout = askTimeout
	return &http.Client{Transport: t}
}

// answer is what an issuer said.
type answer struct {
	status int
	body   []byte
	retry  time.Duration // Retry-After, when it said so
}

func (a answer) ok() bool { return a.status >= 200 && a.status < 300 }

// into decodes a good answer. What was in a bad one is not quoted.
func (a answer) into(v any) error {
	if err := json.Unmarshal(a.body, v); err != nil {
		return errors.New("its answer is not the JSON it should be")
	}
	return nil
}

// ask sends one request and reads a bounded answer. An error means there was no
// usable answer, and is an ErrUnavailable unless ctx ended.
func (m *Manager) ask(ctx context.Context, method, to, contentType string, body []byte, bearer string) (answer, error) {
	if err := safeURL(to); err != nil {
		return answer{}, err
	}
	limited, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, method, to, bytes.NewReader(body))
	if err != nil {
		return answer{}, errors.New("the address makes no request")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", m.cfg.UserAgent)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	c := *m.cfg.HTTP
	// A redirect would carry a token or a code to an address nobody chose.
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, unreachable(ctx, to, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, unreachable(ctx, to, err)
	}
	if len(raw) > maxAnswer {
		return answer{}, fmt.Errorf("%s answers with more than %d bytes: %w", host(to), maxAnswer, ErrUnavailable)
	}
	a := answer{status: resp.StatusCode, body: raw}
	if s, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s"); err == nil && s > 0 {
		a.retry = min(s, 5*time.Minute)
	}
	return a, nil
}

func (m *Manager) postForm(ctx context.Context, to string, form url.Values) (answer, error) {
	return m.ask(ctx, http.MethodPost, to, "application/x-www-form-urlencoded", []byte(form.Encode()), "")
}

func (m *Manager) postJSON(ctx context.Context, to string, v any) (answer, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return answer{}, err
	}
	return m.ask(ctx, http.MethodPost, to, "application/json", raw, "")
}

// unreachable drops the URL from an error of net/http: only the host is told.
func unreachable(ctx context.Context, to string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s did not answer within %s: %w", host(to), askTimeout, ErrUnavailable)
	}
	return fmt.Errorf("%s: %w: %w", host(to), err, ErrUnavailable)
}

// host names an address without what might be secret in it.
func host(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Host == "" {
		return "the issuer"
	}
	return config.OneLine(u.Host)
}

// safeURL refuses to send a secret in the clear to another machine.
func safeURL(to string) error {
	u, err := url.Parse(to)
	if err != nil || u.Host == "" {
		return errors.New("the issuer's address is no URL")
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme == "https" || u.Scheme == "http" && loopback {
		return nil
	}
	return fmt.Errorf("%s is not reached over https; plain http is for this machine only", host(to))
}

// refusal is what an issuer answered instead of what was asked for. Its text is
// safe to show: see safeText.
type refusal struct {
	host   string
	status int
	code   string // OAuth's "error", or Codex's "error.code"
	text   string
}

func (r *refusal) Error() string {
	s := fmt.Sprintf("%s answered %d", r.host, r.status)
	if r.code != "" {
		s += " " + r.code
	}
	if r.text != "" {
		s += ": " + r.text
	}
	return s
}

// Unwrap makes failures of the issuer itself an ErrUnavailable.
func (r *refusal) Unwrap() error {
	if r.status >= 500 || r.status == http.StatusTooManyRequests || r.status == http.StatusRequestTimeout {
		return ErrUnavailable
	}
	return nil
}

// refused reads a bad answer, in any of the shapes issuers use.
func refused(to string, a answer) *refusal {
	r := &refusal{host: host(to), status: a.status}
	var flat struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
		Code        string          `json:"code"`
		Message     string          `json:"message"`
	}
	if json.Unmarshal(a.body, &flat) != nil {
		return r
	}
	var deep struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	var code string
	if json.Unmarshal(flat.Error, &code) != nil && json.Unmarshal(flat.Error, &deep) == nil {
		code = deep.Code
	}
	for _, c := range []string{code, flat.Code} {
		if errorCode.MatchString(c) && r.code == "" {
			r.code = c
		}
	}
	for _, t := range []string{flat.Description, deep.Message, flat.Message} {
		if r.text == "" {
			r.text = safeText(t)
		}
	}
	return r
}

var (
	errorCode = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,47}$`)
	tokenLike = regexp.MustCompile(`[A-Za-z0-9_\-+/=.~]{20,}`)
)

// safeText makes an issuer's sentence fit to show: printable, short, and without
// anything long enough to be a token.
func safeText(s string) string {
	if len(s) > 4<<10 {
		s = s[:4<<10]
	}
	return config.OneLine(tokenLike.ReplaceAllString(strings.ToValidUTF8(s, ""), "[…]"))
}
