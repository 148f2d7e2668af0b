package transport

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// Nearly every client's first and only request is the plain one for a WebSocket,
// in one piece. That is read here, which takes a fraction of what net/http makes
// of it. Whatever else comes, and whoever is not to come in, is net/http's to
// answer, which gets the bytes as if nobody had looked.

// greetingBytes is how long a request may be that is answered here.
const greetingBytes = 2 << 10

var greetings = sync.Pool{New: func() any { return new([greetingBytes]byte) }}

// unusual are connections that net/http serves; it is a listener to it.
type unusual struct {
	addr  net.Addr
	conns chan net.Conn
	over  chan struct{}
	once  sync.Once
}

func newUnusual(addr net.Addr) *unusual {
	return &unusual{addr: addr, conns: make(chan net.Conn), over: make(chan struct{})}
}

func (u *unusual) Addr() net.Addr { return u.addr }

func (u *unusual) Close() error {
	u.once.Do(func() { close(u.over) })
	return nil
}

func (u *unusual) Accept() (net.Conn, error) {
	select {
	case c := <-u.conns:
		return c, nil
	case <-u.over:
		return nil, net.ErrClosed
	}
}

// take reports whether net/http has c now.
func (u *unusual) take(c net.Conn) bool {
	select {
	case u.conns <- c:
		return true
	case <-u.over:
		return false
	}
}

// begin looks after a connection that was accepted; running counts it.
func (d *door) begin(c *countedConn) {
	if c.tls != nil {
		d.pass(c)
		return
	}
	d.mu.Lock()
	d.greeting[c] = struct{}{}
	d.mu.Unlock()
	go d.greet(c)
}

// pass leaves c to net/http, which ends its count.
func (d *door) pass(c *countedConn) {
	if !d.unusual.take(c) {
		_ = c.Close()
		d.running.Done()
	}
}

// hush ends the connections that have not said anything yet.
func (d *door) hush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.greeting {
		_ = c.Conn.Close() // its goroutine does the rest
	}
}

// greet reads what a client says first and does what it asks for.
func (d *door) greet(c *countedConn) {
	leave, elsewhere := func() {}, false // another goroutine ends its count
	defer func() {
		if v := recover(); v != nil {
			d.l.opts.Log.Error("connection panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
		if !elsewhere {
			leave()
			_ = c.Close()
			d.running.Done()
		}
	}()
	buf := greetings.Get().(*[greetingBytes]byte)
	c.until = time.Now().Add(d.l.opts.Limits.Handshake)
	_ = c.SetReadDeadline(c.until)
	n, _ := c.Read(buf[:]) // an error comes again
	d.mu.Lock()
	delete(d.greeting, c)
	d.mu.Unlock()
	said := buf[:n]
	defer greetings.Put(buf)
	if n == 0 {
		return
	}
	r, ahead := greeting(said)
	if r == nil || d.l.via != viaUnix && (isProbe(r) || !d.l.namedAt(r.Host, addrOf(c.LocalAddr()))) {
		c.ahead, elsewhere = bytes.Clone(said), true
		d.pass(c)
		return
	}
	r = r.WithContext(d.ctx)
	r.RemoteAddr = c.RemoteAddr().String()
	p, remote, no := d.identify(r, c)
	if no == nil {
		leave, no = d.enter(p)
	}
	if no != nil {
		c.decided, c.ahead, elsewhere = no, bytes.Clone(said), true
		d.pass(c)
		return
	}
	w := &answer{conn: c, header: make(http.Header, 4), ahead: ahead}
	elsewhere = d.admit(w, r, c, p, remote, leave)
}

var canonicalFrameHeader = http.CanonicalHeaderKey(frameHeader)

// answer is what a client hears that comes in.
type answer struct {
	conn   *countedConn
	header http.Header
	ahead  []byte // of what the client says next
}

func (w *answer) Header() http.Header         { return w.header }
func (w *answer) Write(p []byte) (int, error) { return len(p), nil } // nobody comes here whom the library refuses
func (w *answer) WriteHeader(int)             {}

// Hijack sends the answer.
func (w *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	b := make([]byte, 0, 256)
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\n"...)
	for _, name := range []string{"Connection", "Sec-Websocket-Accept", "Sec-Websocket-Protocol", "Upgrade", canonicalFrameHeader} {
		if v := w.header.Get(name); v != "" {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	b = time.Now().UTC().AppendFormat(append(b, "Date: "...), http.TimeFormat)
	if _, err := w.conn.Write(append(b, "\r\n\r\n"...)); err != nil {
		return nil, nil, err
	}
	return w.conn.upgraded(bytes.Clone(w.ahead))
}

// upgraded makes c a WebSocket. ahead is what came with the handshake.
func (c *countedConn) upgraded(ahead []byte) (net.Conn, *bufio.ReadWriter, error) {
	if _, err := c.guard.see(ahead); err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	c.ws.Store(true)
	c.until = time.Time{}
	_ = c.SetDeadline(time.Time{}) // the handshake's does not count any more
	var from io.Reader = c
	if len(ahead) > 0 {
		from = io.MultiReader(bytes.NewReader(ahead), c)
	}
	in := bufio.NewReaderSize(from, max(clientBuffer, len(ahead)))
	_, _ = in.Peek(len(ahead)) // the library takes what is buffered
	return c, bufio.NewReadWriter(in, bufio.NewWriterSize(c, clientBuffer)), nil
}

// greetingHeaders are those a request may have to be answered here, each once.
var greetingHeaders = []string{
	"Host", "Connection", "Upgrade", "Sec-Websocket-Version", "Sec-Websocket-Key", "Sec-Websocket-Protocol",
	"Sec-Websocket-Extensions", "Authorization", "User-Agent",
}

// greeting is the request that b begins with, and what follows it: nil for all but
// a whole and proper request for a WebSocket with nothing unusual in it.
func greeting(b []byte) (r *http.Request, ahead []byte) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return nil, nil
	}
	line, rest, _ := strings.Cut(string(b[:end+2]), "\r\n")
	path, get := strings.CutPrefix(line, "GET ")
	path, http11 := strings.CutSuffix(path, " HTTP/1.1")
	if !get || !http11 || path == "" || path[0] != '/' || !only(path, "/-_.") {
		return nil, nil
	}
	values := make([]string, len(greetingHeaders)) // one piece of memory for all
	h := make(http.Header, 8)
	for rest != "" {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		i := headerIndex(name)
		value = strings.Trim(value, " ")
		if !ok || i < 0 || values[i] != "" || value == "" || !printable(value) {
			return nil, nil
		}
		values[i] = value
		if i > 0 { // as net/http has it, Host is not among them
			h[greetingHeaders[i]] = values[i : i+1 : i+1]
		}
	}
	host := values[0]
	if host == "" || !only(host, ".-_:[]") {
		return nil, nil
	}
	r = &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: path}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: http.NoBody, Host: host, RequestURI: path,
	}
	var key [18]byte
	if k := values[4]; malformed(r) != nil || len(k) != 24 {
		return nil, nil
	} else if n, err := base64.StdEncoding.Decode(key[:], []byte(k)); err != nil || n != 16 {
		return nil, nil
	}
	return r, b[end+4:]
}

func headerIndex(name string) int {
	if !only(name, "-") { // beyond ASCII other letters fold to the same ones
		return -1
	}
	for i, known := range greetingHeaders {
		if strings.EqualFold(name, known) {
			return i
		}
	}
	return -1
}

// only reports whether s is of letters, digits and the bytes of also.
func only(s, also string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && strings.IndexByte(also, c) < 0 {
			return false
		}
	}
	return true
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
