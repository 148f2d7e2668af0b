package issuertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
)

// Page is where a browser ended up.
type Page struct {
	URL    *url.URL // the last address; its query is the callback's when the callback answered
	Status int
	Body   string
}

var hidden = regexp.MustCompile(`name="ask" value="([^"]+)"`)

// Visit is a browser with a person in front: it opens an authorize URL, allows or
// denies, and follows the redirects to the end, the login's own success page.
func (i *Issuer) Visit(ctx context.Context, authorizeURL string, allow bool) (Page, error) {
	return i.browse(ctx, authorizeURL, allow, true)
}

// Decide is Visit up to the redirect: it gives the callback URL without opening
// it, as the address bar of a browser that cannot reach it would show.
func (i *Issuer) Decide(ctx context.Context, authorizeURL string, allow bool) (string, error) {
	p, err := i.browse(ctx, authorizeURL, allow, false)
	if err != nil {
		return "", err
	}
	return p.URL.String(), nil
}

func (i *Issuer) browse(ctx context.Context, authorizeURL string, allow, follow bool) (Page, error) {
	jar, _ := cookiejar.New(nil)
	var back *url.URL
	c := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}}
	c.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if !follow && !strings.HasPrefix(r.URL.String(), i.URL) {
			back = r.URL
			return http.ErrUseLastResponse
		}
		if len(via) > 10 {
			return errors.New("too many redirects")
		}
		return nil
	}
	get := func(req *http.Request) (Page, error) {
		resp, err := c.Do(req)
		if err != nil {
			return Page{}, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		at := resp.Request.URL
		if back != nil {
			at = back
		}
		return Page{URL: at, Status: resp.StatusCode, Body: string(body)}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, authorizeURL, nil)
	if err != nil {
		return Page{}, err
	}
	p, err := get(req)
	if err != nil {
		return Page{}, err
	}
	if p.Status != http.StatusOK && back == nil {
		return p, fmt.Errorf("the issuer answered %d: %s", p.Status, strings.TrimSpace(p.Body))
	}
	m := hidden.FindStringSubmatch(p.Body)
	if m == nil {
		return p, nil // nothing was asked
	}
	decision := "deny"
	if allow {
		decision = "allow"
	}
	form := url.Values{"ask": {m[1]}, "decision": {decision}}
	req, err = http.NewRequestWithContext(ctx, http.MethodPost, i.URL+"/oauth/consent", strings.NewReader(form.Encode()))
	if err != nil {
		return Page{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return get(req)
}
