package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// What the first byte of a frame is made of (RFC 6455 5.2).
const (
	FrameFinal  = 0x80
	FrameMore   = 0x00 // a piece of a message goes on
	FrameText   = 0x01
	FrameBinary = 0x02
	FrameClose  = 0x08
	FramePing   = 0x09
	FramePong   = 0x0a
)

// Frame is one of a client's: its first byte, and a payload under the mask zero,
// whatever the protocol says about either.
func Frame(first byte, payload []byte) []byte {
	head := make([]byte, 0, 14+len(payload))
	switch n := len(payload); {
	case n < 126:
		head = append(head, first, 0x80|byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, first, 0x80|126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, first, 0x80|127), uint64(n))
	}
	return append(append(head, 0, 0, 0, 0), payload...)
}

// Handshake is a client's request for a WebSocket; each of more is a header line.
func Handshake(host string, more ...string) string {
	return "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + strings.Join(append(more, "\r\n"), "\r\n")
}

// Wire is a connection to a listener below the level of WebSockets: a client that
// keeps to no rule.
type Wire struct {
	net.Conn
	Host string
	r    *bufio.Reader
}

// DialWire connects to ws://HOST:PORT. Its reads and writes end after [Patience].
func DialWire(t testing.TB, url string) *Wire {
	t.Helper()
	host := strings.TrimPrefix(url, "ws://")
	c, err := net.Dial("tcp", host) //nolint:noctx // closed with the test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(Patience))
	return &Wire{Conn: c, Host: host, r: bufio.NewReader(c)}
}

// Answer reads the answer to a handshake and returns it in one line: the status,
// and what a refusal says.
func (w *Wire) Answer() string {
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		return w.ending(err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return "101"
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what there is of it
	return strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, body))
}

// Heard is what a server says until it answers the request with the id "probe", or
// ends the connection: a word for each frame that is no notification, and one for
// all pongs (Codex sends some twice).
func (w *Wire) Heard() string {
	var heard []string
	for {
		first, payload, err := w.frame()
		switch {
		case err != nil:
			return strings.Join(append(heard, w.ending(err)), ", ")
		case first == FrameFinal|FramePong:
			if !slices.Contains(heard, "pong") {
				heard = append(heard, "pong")
			}
		case first == FrameFinal|FrameClose && len(payload) >= 2:
			heard = append(heard, fmt.Sprintf("close %d", binary.BigEndian.Uint16(payload)))
		case first == FrameFinal|FrameClose:
			heard = append(heard, "close")
		case first != FrameFinal|FrameText:
			heard = append(heard, fmt.Sprintf("frame %x", first))
		case bytes.Contains(payload, []byte(`"id":"probe"`)):
			return strings.Join(append(heard, "stays"), ", ")
		case bytes.Contains(payload, []byte(`"id":`)) && !bytes.Contains(payload, []byte(`"method":`)):
			heard = append(heard, "answer")
		}
	}
}

func (w *Wire) ending(err error) string {
	var no net.Error
	if errors.As(err, &no) && no.Timeout() {
		return "silence"
	}
	return "ends" // with a reset or without
}

// frame reads one of the server's.
func (w *Wire) frame() (first byte, payload []byte, err error) {
	var head [10]byte
	if _, err := io.ReadFull(w.r, head[:2]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1] & 0x7f)
	switch n {
	case 126:
		_, err = io.ReadFull(w.r, head[2:4])
		n = uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		_, err = io.ReadFull(w.r, head[2:])
		n = binary.BigEndian.Uint64(head[2:])
	}
	if err != nil || n > 1<<30 {
		return 0, nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(w.r, payload)
	return head[0], payload, err
}
