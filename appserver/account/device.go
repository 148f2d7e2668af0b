package account

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"towline/config"
)

// How long and how often a device code is waited for.
const (
	deviceLife     = 15 * time.Minute // Codex's, when the issuer does not say
	deviceLongest  = time.Hour        // whatever it says
	deviceInterval = 5 * time.Second  // RFC 8628 section 3.2, when it does not say
	deviceSlowest  = time.Minute
	deviceSlower   = 5 * time.Second // RFC 8628 section 3.5: slow_down
)

// pending is a device code being waited for.
type pending struct {
	DeviceCode
	id       string // what is polled with; secret
	interval time.Duration
}

// Device logs in with a code the person types elsewhere. show is called once,
// before the waiting begins. An issuer that fails meanwhile is asked again until
// the code expires.
func (m *Manager) Device(ctx context.Context, show func(DeviceCode)) (Status, error) {
	if err := m.mayChatGPT(); err != nil {
		return Status{}, err
	}
	e, err := m.endpoints(ctx, m.cfg.Issuer)
	if err != nil {
		return Status{}, problem(stageDevice, err, "check issuer under [auth] in config.toml")
	}
	start, poll := m.startCodex, m.pollCodex
	if e.issuer.Kind == KindOIDC {
		if e.device == "" {
			return Status{}, &config.Problem{
				Stage: stageDevice, Err: fmt.Errorf("%s offers no device codes", host(e.token)), Hints: []string{"log in through a browser: `towline login`"},
			}
		}
		start, poll = m.startRFC, m.pollRFC
	}
	p, err := start(ctx, e)
	if err != nil {
		return Status{}, problem(stageDevice, err)
	}
	if show != nil {
		show(p.DeviceCode)
	}
	g, err := m.poll(ctx, e, p, poll)
	if err != nil {
		return Status{}, problem(stageDevice, err)
	}
	if e.issuer.Kind == KindOIDC {
		if err := m.checkIDToken(ctx, e, g.ID, ""); err != nil {
			return Status{}, problem(stageExchange, err, "check issuer and client_id under [auth] in config.toml, and this machine's clock")
		}
	}
	return m.settle(context.WithoutCancel(ctx), e, g, "")
}

// What a poll may say besides the tokens.
var (
	errPending  = errors.New("authorization_pending")
	errSlowDown = errors.New("slow_down")
)

// poll asks until there is an outcome.
func (m *Manager) poll(ctx context.Context, e endpoints, p pending, ask func(context.Context, endpoints, pending) (granted, error)) (granted, error) {
	failures, wait := 0, p.interval
	for {
		left := p.Expires.Sub(m.cfg.Now())
		if left <= 0 {
			return granted{}, &config.Problem{
				Stage: stageDevice, Err: errors.New("the code expired before it was used"), Hints: []string{"get a new one: `towline login --device-auth`"},
			}
		}
		t := time.NewTimer(min(wait, left))
		select {
		case <-ctx.Done():
			t.Stop()
			return granted{}, context.Cause(ctx)
		case <-t.C:
		}
		g, err := ask(ctx, e, p)
		switch {
		case err == nil:
			return g, nil
		case errors.Is(err, errSlowDown):
			p.interval = min(p.interval+deviceSlower, deviceSlowest)
			failures, wait = 0, p.interval
		case errors.Is(err, errPending):
			failures, wait = 0, p.interval
		case errors.Is(err, ErrUnavailable):
			// RFC 8628 section 3.5: back off when the connection fails.
			failures++
			wait = min(p.interval<<min(failures, 6), deviceSlowest)
			m.cfg.Log.Info("the issuer does not answer; asking again", "err", err, "in", wait)
		default:
			return granted{}, err
		}
	}
}

// clamp keeps what an issuer says within reason.
func clamp(d, unset, least, most time.Duration) time.Duration {
	if d <= 0 {
		d = unset
	}
	return max(least, min(d, most))
}

// startCodex gets a code the way Codex does.
func (m *Manager) startCodex(ctx context.Context, e endpoints) (pending, error) {
	base := e.issuer.URL + "/api/accounts/deviceauth"
	a, err := m.postJSON(ctx, base+"/usercode", map[string]string{"client_id": e.issuer.ClientID})
	if err != nil {
		return pending{}, err
	}
	if a.status == http.StatusNotFound {
		return pending{}, &config.Problem{
			Stage: stageDevice, Err: fmt.Errorf("%s offers no device codes", host(base)),
			Hints: []string{"allow device code login in the account's security settings, or log in through a browser: `towline login`"},
		}
	}
	if !a.ok() {
		return pending{}, refused(base, a)
	}
	var got struct {
		ID       string `json:"device_auth_id"`
		Code     string `json:"user_code"`
		CodeAlt  string `json:"usercode"`
		Interval any    `json:"interval"` // a string with seconds; a number would do
	}
	if err := a.into(&got); err != nil {
		return pending{}, fmt.Errorf("%s: %w", host(base), err)
	}
	p := pending{
		DeviceCode: DeviceCode{URL: e.issuer.URL + "/codex/device", Code: showable(first(got.Code, got.CodeAlt)), Expires: m.cfg.Now().Add(deviceLife)},
		id:         got.ID, interval: clamp(secondsOf(got.Interval), deviceInterval, time.Second, deviceSlowest),
	}
	if p.id == "" || p.Code == "" {
		return pending{}, fmt.Errorf("%s gave no code", host(base))
	}
	return p, nil
}

// secondsOf reads a number of seconds, also from a text.
func secondsOf(v any) time.Duration {
	var s float64
	switch v := v.(type) {
	case string:
		s, _ = strconv.ParseFloat(strings.TrimSpace(v), 64)
	case float64:
		s = v
	}
	if s <= 0 || s > 3600 {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}

// showable is a code from outside that a person is to read and type.
func showable(s string) string {
	if len(s) > 64 {
		return ""
	}
	return config.OneLine(s)
}

// pollCodex asks once. 403 and 404 mean that nobody typed the code yet.
func (m *Manager) pollCodex(ctx context.Context, e endpoints, p pending) (granted, error) {
	at := e.issuer.URL + "/api/accounts/deviceauth/token"
	a, err := m.postJSON(ctx, at, map[string]string{"device_auth_id": p.id, "user_code": p.Code})
	if err != nil {
		return granted{}, err
	}
	switch {
	case a.status == http.StatusForbidden || a.status == http.StatusNotFound:
		return granted{}, errPending
	case a.status == http.StatusTooManyRequests:
		return granted{}, errSlowDown
	case !a.ok():
		r := refused(at, a)
		if errors.Is(r, ErrUnavailable) {
			return granted{}, r
		}
		return granted{}, declined(r)
	}
	var got struct {
		Code     string `json:"authorization_code"`
		Verifier string `json:"code_verifier"`
	}
	if err := a.into(&got); err != nil || got.Code == "" || got.Verifier == "" {
		return granted{}, fmt.Errorf("%s gave no code to log in with", host(at))
	}
	// The code is spent by being sent, so no Ctrl-C in between.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*askTimeout)
	defer cancel()
	return m.exchange(ctx, e, got.Code, e.issuer.URL+"/deviceauth/callback", got.Verifier)
}

func declined(r *refusal) error {
	return &config.Problem{
		Stage: stageDevice, Err: fmt.Errorf("%w: %w", ErrDenied, r), Hints: []string{"begin again and allow access: `towline login --device-auth`"},
	}
}

// startRFC gets a code by RFC 8628 section 3.1.
func (m *Manager) startRFC(ctx context.Context, e endpoints) (pending, error) {
	a, err := m.postForm(ctx, e.device, url.Values{"client_id": {e.issuer.ClientID}, "scope": {oidcScope}})
	if err != nil {
		return pending{}, err
	}
	if !a.ok() {
		return pending{}, refused(e.device, a)
	}
	var got struct {
		Device   string `json:"device_code"`
		Code     string `json:"user_code"`
		URL      string `json:"verification_uri"`
		Complete string `json:"verification_uri_complete"`
		Expires  any    `json:"expires_in"`
		Interval any    `json:"interval"`
	}
	if err := a.into(&got); err != nil {
		return pending{}, fmt.Errorf("%s: %w", host(e.device), err)
	}
	p := pending{
		DeviceCode: DeviceCode{
			URL: shownURL(got.URL), CompleteURL: shownURL(got.Complete), Code: showable(got.Code),
			Expires: m.cfg.Now().Add(clamp(secondsOf(got.Expires), deviceLife, time.Second, deviceLongest)),
		},
		id: got.Device, interval: clamp(secondsOf(got.Interval), deviceInterval, time.Second, deviceSlowest),
	}
	if p.id == "" || p.Code == "" || p.URL == "" {
		return pending{}, fmt.Errorf("%s gave no code, or no https address to type it at", host(e.device))
	}
	return p, nil
}

// shownURL is an address from outside that a person is to open: https, or this
// machine; else nothing.
func shownURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User != nil || len(s) > 512 || safeURL(s) != nil {
		return ""
	}
	return u.String()
}

// pollRFC asks once by RFC 8628 section 3.4.
func (m *Manager) pollRFC(ctx context.Context, e endpoints, p pending) (granted, error) {
	a, err := m.postForm(ctx, e.token, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {p.id}, "client_id": {e.issuer.ClientID},
	})
	if err != nil {
		return granted{}, err
	}
	if a.ok() {
		return m.grantedBy(e, a)
	}
	r := refused(e.token, a)
	switch r.code {
	case "authorization_pending":
		return granted{}, errPending
	case "slow_down":
		return granted{}, errSlowDown
	case "expired_token":
		return granted{}, &config.Problem{
			Stage: stageDevice, Err: errors.New("the code expired before it was used"), Hints: []string{"get a new one: `towline login --device-auth`"},
		}
	case "access_denied":
		return granted{}, declined(r)
	}
	return granted{}, r
}
