package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"towline/appserver/access"
	"towline/appserver/rpc"
	"towline/config"
)

type connKey struct{}

// door decides who becomes a connection. What it answers is Codex's, status and
// body, as far as Codex would answer that.
type door struct {
	l       *Listener
	ctx     context.Context // of Serve: the request's own ends with the upgrade
	accept  AcceptFunc
	running *sync.WaitGroup // connections, from the accept to their end
	unusual *unusual

	mu       sync.Mutex // guards what follows
	greeting map[*countedConn]struct{}
}

// refusal is an answer to somebody who does not come in.
type refusal struct {
	outcome string
	status  int
	body    string // text/plain; empty is no body
	header  [2]string
}

func (r *refusal) write(w http.ResponseWriter) {
	if r.header[0] != "" {
		w.Header().Set(r.header[0], r.header[1])
	}
	if r.body != "" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(r.body)))
	w.WriteHeader(r.status)
	_, _ = w.Write([]byte(r.body)) // the client may be gone
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	log := d.l.opts.Log
	taken := false // ConnState never hears of this connection again
	leave := func() {}
	defer func() {
		if v := recover(); v != nil {
			log.Error("connection panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
		leave()
		if taken {
			d.running.Done()
		}
	}()
	conn, ok := r.Context().Value(connKey{}).(*countedConn)
	if !ok {
		panic("connection without its own")
	}
	if no := conn.decided; no != nil {
		conn.outcome(no.outcome)
		no.write(w)
		return
	}
	if no := d.look(r); no != nil {
		conn.outcome(no.outcome)
		no.write(w)
		return
	}
	p, remote, no := d.identify(r, conn)
	if no == nil && d.l.via == viaUnix && offersEgress(r) {
		d.egress(w, r, conn, p, remote, func() { taken = true })
		return
	}
	if no == nil {
		leave, no = d.enter(p)
	}
	if no != nil {
		conn.outcome(no.outcome)
		no.write(w)
		return
	}
	// What net/http holds for a request, its stack and its buffers, is more than a
	// client needs that says nothing for days: it ends here.
	if d.admit(&takeover{ResponseWriter: w, conn: conn, taken: &taken}, r, conn, p, remote, leave) {
		taken, leave = false, func() {}
	}
}

// admit answers yes and reports whether the client is in: then another goroutine
// carries it, calls leave and ends its count.
func (d *door) admit(w http.ResponseWriter, r *http.Request, conn *countedConn, p access.Principal, remote string, leave func()) bool {
	if d.l.via == viaUnix {
		w.Header().Set(frameHeader, strconv.Itoa(codexFrameBytes))
	}
	conn.outcome(OutcomeAccepted)
	conn.admitted() // before the client can know it, so that its place is free when it does
	ws, err := websocket.Accept(w, r, d.l.opts.handshake())
	if err != nil {
		d.l.opts.Log.Debug("upgrade", "err", err)
		return false // Accept has answered
	}
	b := bearing{p: p, via: d.l.via, remote: remote, class: d.l.class()}
	go d.serve(rpc.NewWebSocketFrom(ws, conn.cork), b, leave) // counted by running
	return true
}

// serve carries a client that is in, until it is over.
func (d *door) serve(s rpc.Stream, b bearing, leave func()) {
	log := d.l.opts.Log
	defer func() {
		if v := recover(); v != nil {
			log.Error("connection panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
		leave()
		d.running.Done()
	}()
	if err := d.l.opts.carry(d.ctx, s, b, d.accept); err != nil {
		log.Debug("link ended", "via", b.via, "remote", b.remote, "err", err)
	}
}

// look judges a request by its words alone.
func (d *door) look(r *http.Request) *refusal {
	log := d.l.opts.Log
	if _, ok := r.Header["Origin"]; ok {
		d.l.said.warn(log, "refused a web page", "via", d.l.via, "remote", r.RemoteAddr)
		return &refusal{outcome: OutcomePage, status: http.StatusForbidden}
	}
	if d.l.via != viaUnix && isProbe(r) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			return &refusal{outcome: OutcomeMalformed, status: http.StatusMethodNotAllowed, header: [2]string{"Allow", "GET,HEAD"}}
		}
		return &refusal{outcome: OutcomeProbe, status: http.StatusOK}
	}
	if d.l.via == viaUnix && offersEgress(r) {
		return nil // it is looked at where it is taken
	}
	if no := malformed(r); no != nil {
		return no
	}
	if d.l.via != viaUnix && !d.l.named(r) {
		d.l.said.warn(log, "refused a name that is not this listener's", "host", config.OneLine(r.Host), "via", d.l.via, "remote", r.RemoteAddr)
		return &refusal{
			outcome: OutcomeHost, status: http.StatusForbidden,
			body: "refused: the Host header names something else than this listener (allowed_hosts adds names; see the log)",
		}
	}
	return nil
}

// isProbe reports whether r asks whether there is anybody at all.
func isProbe(r *http.Request) bool { return r.URL.Path == "/readyz" || r.URL.Path == "/healthz" }

// identify says who is there: whoever the Authorization header proves, else a
// process of this user's.
func (d *door) identify(r *http.Request, conn *countedConn) (p access.Principal, remote string, no *refusal) {
	l := d.l
	header := r.Header.Values("Authorization")
	asked := l.opts.Auth != nil && (len(header) > 0 || l.opts.RequireAuth && l.via != viaUnix)
	if !asked || l.via == viaUnix {
		// A token does not need this process's rights, but who may open the socket
		// at all is decided by them.
		var err error
		remote, err = l.owned(conn.Conn, asked)
		if err != nil {
			l.said.warn(l.opts.Log, "refused a connection", "via", l.via, "remote", r.RemoteAddr, "err", err)
			return p, "", &refusal{outcome: OutcomeStranger, status: http.StatusForbidden, body: "refused: " + oneLine(err.Error())}
		}
		if !asked {
			return l.self, remote, nil
		}
	}
	a := access.Attempt{Authorization: header, Via: l.via}
	if l.via != viaUnix {
		remote, a.Source = r.RemoteAddr, addrOf(conn.RemoteAddr())
	}
	ctx, cancel := context.WithTimeout(r.Context(), l.opts.Limits.Handshake)
	defer cancel()
	p, err := l.opts.Auth.Authenticate(ctx, a)
	if err == nil {
		return p, remote, nil
	}
	return p, remote, d.unproved(err, remote)
}

// unproved turns an authenticator's error into the answer.
func (d *door) unproved(err error, remote string) *refusal {
	o := d.l.opts
	var no *access.Refusal
	if !errors.As(err, &no) {
		o.Log.Error("cannot tell who connects", "via", d.l.via, "remote", remote, "err", err)
		o.Meter.AuthFailure("host")
		return &refusal{outcome: OutcomeBroken, status: http.StatusServiceUnavailable, body: "authentication is not available"}
	}
	// The authenticator writes what an operator should read, and not more of it than
	// can be read.
	o.Log.Debug("refused a credential", "via", d.l.via, "remote", remote, "why", no.Error(), "who", no.Who.Name)
	o.Meter.AuthFailure(failureReason(no))
	out := &refusal{outcome: OutcomeUnauthorized, status: no.Status, body: no.Body}
	switch {
	case no.Status == http.StatusUnauthorized:
	case no.Status == http.StatusTooManyRequests:
		out.outcome = OutcomeLockedOut
	case no.Status >= http.StatusInternalServerError:
		out.outcome = OutcomeBroken
	default:
		out.outcome = OutcomeForbidden
	}
	if no.RetryAfter > 0 {
		out.header = [2]string{"Retry-After", strconv.Itoa(int(math.Ceil(no.RetryAfter.Seconds())))}
	}
	return out
}

// failureReasons are what a credential can be refused for, by Codex's words.
var failureReasons = map[string]string{
	"missing websocket bearer token":  "missing",
	"invalid websocket bearer token":  "invalid",
	"invalid authorization header":    "header",
	"invalid websocket jwt":           "jwt",
	"expired websocket jwt":           "expired",
	"websocket jwt is not valid yet":  "not_yet",
	"websocket jwt issuer mismatch":   "issuer",
	"websocket jwt audience mismatch": "audience",
}

func failureReason(no *access.Refusal) string {
	if why := failureReasons[no.Body]; why != "" {
		return why
	}
	switch no.Status {
	case http.StatusTooManyRequests:
		return "locked_out"
	case http.StatusForbidden:
		return "forbidden"
	}
	return "other"
}

// enter bounds what one credential opens; this user's own processes are bounded
// with everybody.
func (d *door) enter(p access.Principal) (leave func(), no *refusal) {
	if p.Kind == access.KindLocal {
		return func() {}, nil
	}
	leave, ok := d.l.opts.Crowd.enter(p.Key(), d.l.opts.Limits.PerPrincipal)
	if !ok {
		d.l.said.warn(d.l.opts.Log, "refused a connection: too many of one principal", "via", d.l.via, "who", p.Name)
		return func() {}, &refusal{
			outcome: OutcomePrincipal, status: http.StatusTooManyRequests,
			body: "too many connections of this credential", header: [2]string{"Retry-After", "10"},
		}
	}
	return leave, nil
}

// egress serves a client that lends its network; taken is called when the
// connection is net/http's no more.
func (d *door) egress(w http.ResponseWriter, r *http.Request, conn *countedConn, p access.Principal, remote string, taken func()) {
	if p.Kind != access.KindLocal {
		conn.outcome(OutcomeForbidden)
		(&refusal{status: http.StatusForbidden, body: "a token lends no network"}).write(w)
		return
	}
	conn.outcome(OutcomeLent)
	conn.admitted()
	conn.until = time.Time{}
	if err := d.l.opts.acceptEgress(d.ctx, w, r, p, remote, taken); err != nil {
		d.l.opts.Log.Info("a network was not taken", "remote", remote, "err", err)
	}
}

// handshake is what a client may choose.
func (o Options) handshake() *websocket.AcceptOptions {
	if o.Sessions == nil {
		return nil
	}
	return &websocket.AcceptOptions{Subprotocols: []string{rpc.ResumeProtocol}}
}

// malformed says why r is no WebSocket handshake, in Codex's words and in the
// order Codex looks.
func malformed(r *http.Request) *refusal {
	why := ""
	switch {
	case r.Method != http.MethodGet:
		return &refusal{outcome: OutcomeMalformed, status: http.StatusMethodNotAllowed, body: "Request method must be `GET`"}
	case !hasToken(r.Header.Values("Connection"), "upgrade"):
		why = "Connection header did not include 'upgrade'"
	case !strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		why = "`Upgrade` header did not include 'websocket'"
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		why = "`Sec-WebSocket-Version` header did not include '13'"
	case len(r.Header.Values("Sec-WebSocket-Key")) == 0:
		why = "`Sec-WebSocket-Key` header missing"
	default:
		return nil
	}
	return &refusal{outcome: OutcomeMalformed, status: http.StatusBadRequest, body: why}
}

// takeover gives the WebSocket library a connection whose frames are looked at,
// those too that came together with the handshake.
type takeover struct {
	http.ResponseWriter
	conn  *countedConn
	taken *bool // set when the connection is net/http's no more
}

func (t *takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	_, brw, err := t.ResponseWriter.(http.Hijacker).Hijack() // it is conn
	if err != nil {
		return nil, nil, err
	}
	*t.taken = true
	ahead, _ := brw.Reader.Peek(brw.Reader.Buffered()) // it is there
	ahead = bytes.Clone(ahead)                         // the buffer goes with the request
	return t.conn.upgraded(ahead)
}

// clientBuffer is what a client's connection has each way, in bytes. Longer
// messages go past it; a quarter of net/http's takes the usual ones.
const clientBuffer = 1 << 10
