package login

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// authorize is the page of a browser login: where it sends the browser back, and
// the word by which that login is known.
type authorize struct {
	Port  int
	Path  string // of the redirect, "/auth/callback"
	state string
}

// isAuthorize reports whether a URL looks like such a page.
func isAuthorize(s string) bool { return strings.Contains(s, "redirect_uri=") }

// parseAuthorize reads the page's URL. One that sends the browser anywhere but to
// a port of this machine's loopback is an error: it would not come here.
func parseAuthorize(s string) (authorize, error) {
	u, err := url.Parse(s)
	if err != nil {
		return authorize{}, errors.New("the login's address is no URL")
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) || u.Host == "" || u.User != nil {
		return authorize{}, errors.New("the login's address is not one of https")
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return authorize{}, errors.New("the login's address has no readable query")
	}
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || back.Scheme != "http" || !loopback(back.Hostname()) || back.User != nil || back.RawQuery != "" || back.Fragment != "" {
		return authorize{}, errors.New("the login does not send the browser back to its own machine")
	}
	port, err := strconv.Atoi(back.Port())
	if err != nil || port < 1 || port > 65535 {
		return authorize{}, errors.New("the login's redirect names no port")
	}
	if q.Get("state") == "" {
		return authorize{}, errors.New("the login's address has no state")
	}
	path := back.EscapedPath()
	if path == "" {
		path = "/"
	}
	return authorize{Port: port, Path: path, state: q.Get("state")}, nil
}

// outside gives the site of a page that a host names, and whether it is one that a
// host may lead a browser of this machine to: not to this machine itself, nor into
// the network it is in, where what a page does is done with the rights of whoever
// looks at it.
func outside(page string) (site string, ok bool) {
	u, err := url.Parse(page)
	if err != nil || u.Hostname() == "" {
		return "no address", false
	}
	site = u.Hostname()
	ip := net.ParseIP(site)
	switch {
	case u.Scheme != "https", u.User != nil, loopback(site):
		return u.Host, false
	case ip != nil:
		return u.Host, ip.IsGlobalUnicast() && !ip.IsPrivate()
	}
	return site, strings.Contains(strings.TrimSuffix(site, "."), ".")
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// callback checks an address that a person pasted against the page, and gives
// what to ask the host's listener for. It holds the code: it is for nobody else,
// and no error has it.
func (a authorize) callback(pasted string) (target string, err error) {
	pasted = strings.Trim(strings.TrimSpace(pasted), `"'<>`)
	if len(pasted) > maxLine {
		return "", errors.New("that is too long for an address")
	}
	if !strings.Contains(pasted, "://") { // browsers hide the scheme
		pasted = "http://" + pasted
	}
	u, err := url.Parse(pasted)
	if err != nil {
		return "", errors.New("that is no address") // the parser's error would quote it
	}
	want := fmt.Sprintf("one that begins with http://127.0.0.1:%d%s or http://localhost:%d%s", a.Port, a.Path, a.Port, a.Path)
	if u.Scheme != "http" || !loopback(u.Hostname()) || u.User != nil {
		return "", errors.New("that is not the address the browser ends at: it is " + want)
	}
	if u.Port() != strconv.Itoa(a.Port) || u.EscapedPath() != a.Path {
		return "", errors.New("that is the address of another login: this one's is " + want)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", errors.New("that address cannot be read; copy all of it")
	}
	if len(q["state"]) != 1 || !same(q.Get("state"), a.state) {
		return "", errors.New("that is the address of another login, or not all of it: its state does not match")
	}
	if (len(q["code"]) == 1) == (len(q["error"]) == 1) {
		return "", errors.New("that address has no code; copy all of it")
	}
	return u.EscapedPath() + "?" + q.Encode(), nil
}

// same compares without telling how much was right.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
