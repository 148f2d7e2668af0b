package account

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"towline/config"
)

// Limits of the callback's server: one browser comes, once.
const (
	maxCallbackHeader = 16 << 10 // a redirect's URL with a long code is a few KiB
	maxCallbackConns  = 16
	callbackRead      = 10 * time.Second
)

// connKey finds the connection of a request.
type connKey struct{}

// sameSecret compares without telling how much was right, or how long it is.
func sameSecret(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// server answers the browser, and a newcomer's /cancel.
func (c *callback) server(ctx context.Context) *http.Server {
	return &http.Server{
		Handler:           c,
		ReadHeaderTimeout: callbackRead,
		ReadTimeout:       callbackRead,
		WriteTimeout:      2*askTimeout + lockWait + callbackRead, // it answers when the login is stored
		IdleTimeout:       callbackRead,
		MaxHeaderBytes:    maxCallbackHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:          slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelDebug), // it would quote requests
	}
}

// ServeHTTP serves /auth/callback, /success, /failed and /cancel, to this machine's own
// browser only.
func (c *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer") // the address holds the code
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Connection", "close")
	switch {
	case !loopbackHost(r.Host): // a name that was made to point here: DNS rebinding
		http.Error(w, "Bad Request", http.StatusBadRequest)
	case r.Method != http.MethodGet:
		h.Set("Allow", http.MethodGet)
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	case r.URL.Path == "/auth/callback":
		c.redirected(w, r)
	case r.URL.Path == "/success", r.URL.Path == "/failed":
		c.last(w, r)
	case r.URL.Path == "/cancel":
		c.cancel(w, r)
	default:
		http.Error(w, "Not Found", http.StatusNotFound)
	}
}

func loopbackHost(hostport string) bool {
	name, _, err := net.SplitHostPort(hostport)
	if err != nil {
		name = hostport
	}
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

func (c *callback) redirected(w http.ResponseWriter, r *http.Request) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || c.check(q) != nil {
		c.m.cfg.Log.Info("a redirect of another login was turned away")
		http.Error(w, mismatchText, http.StatusBadRequest)
		return
	}
	if !c.take() {
		http.Error(w, "This login is being completed already", http.StatusConflict)
		return
	}
	if conn, ok := r.Context().Value(connKey{}).(*boundedConn); ok {
		conn.stays.Store(true)
	}
	to := "/success"
	if _, err := c.complete(r.Context(), q); err != nil {
		to = "/failed"
	}
	// Away from the address with the code in it, which would stay in the history.
	http.Redirect(w, r, to, http.StatusFound)
}

// last is the page a login ends at: what became of it.
func (c *callback) last(w http.ResponseWriter, r *http.Request) {
	s, err, ok := c.outcome()
	if !ok || (err != nil) != (r.URL.Path == "/failed") {
		http.Error(w, "Not Found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err != nil {
		said := append([]string{err.Error()}, config.Hints(err)...)
		_, _ = io.WriteString(w, page("Not logged in", append(said, "The terminal says the same.")...))
	} else {
		_, _ = io.WriteString(w, page("Logged in", s.Account(), "You can close this page and go back to the terminal."))
	}
	c.seen()
}

// cancel is another login that wants the port. A page in a browser does not get to
// ask.
func (c *callback) cancel(w http.ResponseWriter, r *http.Request) {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "none" {
		http.Error(w, "Forbidden", http.StatusForbidden)
		return
	}
	if !c.take() {
		http.Error(w, "This login is being completed already", http.StatusConflict)
		return
	}
	_, _ = io.WriteString(w, cancelledText)
	c.finish(Status{}, &config.Problem{
		Stage: stageLogin, Err: errors.Join(ErrCancelled), Hints: []string{"another login on this machine took over; run `towline login` to begin again"},
	})
	c.seen()
}

// cancelledText is what Codex answers /cancel with; newcomers know a login by it.
const cancelledText = "Login cancelled"

// mismatchText is what Codex answers a redirect of another login with.
const mismatchText = "State mismatch"

const pageStyle = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<style>:root{color-scheme:light dark}body{font:17px/1.5 system-ui,sans-serif;max-width:32em;margin:18vh auto;padding:0 1.5em}
h1{font-size:1.5em;margin:0 0 .4em}p{margin:.3em 0}code{font-size:.95em}</style>`

// page is the last one a browser sees. Not with html/template: what that brings
// along makes the whole program a third larger.
func page(title string, paragraphs ...string) string {
	var b strings.Builder
	b.WriteString(pageStyle + "<title>" + title + "</title></head>\n<body><h1>" + title + "</h1>")
	for _, p := range paragraphs {
		if p != "" {
			b.WriteString("<p>" + html.EscapeString(p) + "</p>")
		}
	}
	b.WriteString("</body></html>\n")
	return b.String()
}
