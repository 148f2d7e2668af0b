package account

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"towline/config"
	"towline/config/peer"
)

// bounded keeps at most maxCallbackConns connections. A new one pushes out the
// oldest, so that a program that holds connections open keeps no browser out.
func bounded(l net.Listener) net.Listener { return &boundedListener{Listener: l} }

type boundedListener struct {
	net.Listener
	mu    sync.Mutex
	conns []*boundedConn // oldest first
}

// boundedConn is one of them.
type boundedConn struct {
	net.Conn
	l     *boundedListener
	stays atomic.Bool // it brought the code, and is not pushed out
	ask   sync.Once
	whose error // why it is not listened to; set by ask
}

// Read asks first whose it is, away from where others wait to be accepted. The
// address of a login is in the command line of a browser, for every user of this
// machine to see, and with what it holds one of them could end this login in their
// own account.
func (c *boundedConn) Read(p []byte) (int, error) {
	c.ask.Do(func() {
		if c.whose = peer.Check(c.Conn); c.whose != nil {
			_ = c.Conn.Close()
		}
	})
	if c.whose != nil {
		return 0, c.whose
	}
	return c.Conn.Read(p)
}

// Accept takes a connection.
func (b *boundedListener) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	one := &boundedConn{Conn: c, l: b}
	b.mu.Lock()
	b.conns = append(b.conns, one)
	var out *boundedConn
	if len(b.conns) > maxCallbackConns {
		if i := slices.IndexFunc(b.conns, func(c *boundedConn) bool { return !c.stays.Load() }); i >= 0 {
			out = b.conns[i]
		}
	}
	b.mu.Unlock()
	if out != nil {
		_ = out.Close()
	}
	return one, nil
}

// Close closes the connection.
func (c *boundedConn) Close() error {
	c.l.mu.Lock()
	c.l.conns = slices.DeleteFunc(c.l.conns, func(o *boundedConn) bool { return o == c })
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// takeover bounds taking a port over from another login.
const takeover = 5 * time.Second

// listen gets the first of the ports that can be had: on 127.0.0.1, which is what
// the redirect names, and on [::1] where there is one, for forwarded browsers. A
// login that waits on a port gives it up, as among Codex's. No port is port 0 when
// the person can paste instead.
func (m *Manager) listen(ctx context.Context, o BrowserOptions) ([]net.Listener, int, error) {
	var busy []string
	for i, port := range o.Ports {
		l, took, err := m.claim(ctx, port)
		if ctx.Err() != nil {
			if l != nil {
				_ = l.Close()
			}
			return nil, 0, problem(stageLogin, context.Cause(ctx))
		}
		if took {
			o.Step(fmt.Sprintf("another login was waiting on port %d; it is cancelled", port))
		}
		if err == nil {
			return m.withV6(ctx, l), l.Addr().(*net.TCPAddr).Port, nil
		}
		text := whyNot(port, err, o.Busy)
		busy = append(busy, text)
		if i+1 < len(o.Ports) {
			text += fmt.Sprintf("; trying port %d", o.Ports[i+1])
		}
		o.Step(text)
	}
	if o.Paste != nil {
		return nil, 0, nil
	}
	return nil, 0, &config.Problem{
		Stage: stageCallback, Err: errors.New(strings.Join(busy, "; ")),
		Hints: []string{"end what holds the port, or log in without one: `towline login --device-auth`"},
	}
}

// withV6 adds [::1] when that works; the redirect does not need it.
func (m *Manager) withV6(ctx context.Context, l net.Listener) []net.Listener {
	var lc net.ListenConfig
	port := l.Addr().(*net.TCPAddr).Port
	six, err := lc.Listen(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(port)))
	if err != nil {
		m.cfg.Log.Debug("not waiting on [::1]", "err", err)
		return []net.Listener{l}
	}
	return []net.Listener{l, six}
}

// claim listens on a port, taking it over from a login of this user's.
func (m *Manager) claim(ctx context.Context, port int) (l net.Listener, took bool, err error) {
	var lc net.ListenConfig
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	l, err = lc.Listen(ctx, "tcp4", addr)
	if err == nil || !errors.Is(err, errInUse) || port == 0 {
		return l, false, err
	}
	if !ours(port) || !cancelOther(ctx, addr) {
		return nil, false, err
	}
	for end := time.Now().Add(takeover); time.Now().Before(end); {
		if l, err = lc.Listen(ctx, "tcp4", addr); err == nil {
			return l, true, nil
		}
		select {
		case <-ctx.Done():
			return nil, true, err
		case <-time.After(25 * time.Millisecond):
		}
	}
	return nil, true, err
}

// cancelOther asks whoever holds a port to give it up, if it is a login. Any other
// program sees one GET.
func cancelOther(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", addr)
	if err != nil {
		return false
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	if _, err := io.WriteString(c, "GET /cancel HTTP/1.1\r\nHost: "+addr+"\r\nConnection: close\r\n\r\n"); err != nil {
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, 8<<10)), nil)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return resp.StatusCode == http.StatusOK && strings.TrimSpace(string(body)) == cancelledText
}

// whyNot says why a port could not be had.
func whyNot(port int, err error, busy func(int) string) string {
	switch {
	case errors.Is(err, errReserved):
		return fmt.Sprintf("port %d is reserved by the system (on Windows: `netsh interface ipv4 show excludedportrange protocol=tcp`)", port)
	case errors.Is(err, errInUse):
		who := ""
		if busy != nil {
			who = config.OneLine(busy(port))
		}
		if who == "" {
			who = "another program"
		}
		return fmt.Sprintf("port %d is taken by %s", port, who)
	}
	return fmt.Sprintf("port %d: %v", port, err)
}
