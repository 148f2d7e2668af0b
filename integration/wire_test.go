package integration

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"towline/integration/peer"
)

// wireCase is something a client may do to a listener, and what comes of it: in
// words of [peer.Wire.Heard] after it was let in, of [peer.Wire.Answer] before.
type wireCase struct {
	name string
	send func(w *peer.Wire) // an error of writing shows in what is heard
	want string             // of Codex
	// towline is what comes of it here where that is something else, and why says
	// what for.
	towline, why string
}

const (
	wireFrame = 16 << 20 // the largest frame
	final     = peer.FrameFinal
	text      = peer.FrameFinal | peer.FrameText
)

// sized is a request of n bytes that both servers answer, with an error.
func sized(n int) []byte {
	const begin, end = `{"id":"sized","method":"nobody/has/this","params":{"pad":"`, `"}}`
	b := bytes.Repeat([]byte("x"), n)
	copy(b, begin)
	copy(b[n-len(end):], end)
	return b
}

// sends makes a case of bytes.
func sends(frames ...[]byte) func(w *peer.Wire) {
	return func(w *peer.Wire) {
		for _, f := range frames {
			if _, err := w.Write(f); err != nil {
				return
			}
		}
	}
}

// framed makes a case of a message.
func framed(msg string) func(w *peer.Wire) { return sends(peer.Frame(text, []byte(msg))) }

// pieces is a request of size bytes in frames of n.
func pieces(size, n int) func(w *peer.Wire) {
	return func(w *peer.Wire) {
		size := size
		first := byte(peer.FrameText)
		for msg := range slices.Chunk(sized(size), n) {
			if size -= len(msg); size == 0 {
				first |= final
			}
			if _, err := w.Write(peer.Frame(first, msg)); err != nil {
				return
			}
			first = peer.FrameMore
		}
	}
}

const (
	saysSo = "the end of a connection says why (RFC 6455 7.1.7), where the frame as such was good"
	echoes = "a closing handshake is answered (RFC 6455 5.5.1)"
	idle   = "frames that say nothing cost the host as much as those that do"
)

// framesOfAClient are what a client may send once it is in.
func framesOfAClient() []wireCase {
	small := sized(200)
	closing := func(code uint16, why string) []byte {
		return peer.Frame(final|peer.FrameClose, append(binary.BigEndian.AppendUint16(nil, code), why...))
	}
	ping := peer.Frame(final|peer.FramePing, []byte("hi"))
	flood := func(n int, f []byte) []byte { return bytes.Repeat(f, n) }
	return []wireCase{
		{name: "a frame of 16 MiB", want: "answer, stays", send: func(w *peer.Wire) { sends(peer.Frame(text, sized(wireFrame)))(w) }},
		{name: "a frame of one byte more", want: "ends", send: func(w *peer.Wire) { sends(peer.Frame(text, sized(wireFrame+1)))(w) }},
		{name: "40 MiB in frames", want: "answer, stays", send: pieces(40<<20, wireFrame)},
		{name: "64 MiB in frames", want: "answer, stays", send: pieces(64<<20, wireFrame)},
		{name: "64 MiB and a byte", want: "ends", towline: "close 1009, ends", why: saysSo, send: pieces(64<<20+1, wireFrame)},
		{name: "70 MiB in frames", want: "ends", towline: "close 1009, ends", why: saysSo, send: pieces(70<<20, wireFrame)},
		{name: "a frame for each byte", want: "answer, stays", send: pieces(200, 1)},
		{name: "a frame of 2^63 bytes", want: "ends", send: sends([]byte{text, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})},
		{name: "a length in more bytes than it needs", want: "answer, stays", send: sends(append([]byte{text, 0x80 | 126, 0, 100, 0, 0, 0, 0}, sized(100)...))},

		{name: "bad UTF-8", want: "ends", send: framed("\"\xff\"")},
		{name: "a surrogate in UTF-8", want: "ends", send: framed("\"\xed\xa0\x80\"")},
		{name: "half a character at the end", want: "ends", send: framed("\xc3")},
		{name: "a character in two frames", want: "answer, stays", send: sends(
			peer.Frame(peer.FrameText, []byte("{\"id\":\"\xc3")), peer.Frame(final, []byte("\xa4\",\"method\":\"nobody/has/this\"}")))},

		{name: "reserved bit 1", want: "ends", send: sends(peer.Frame(text|0x40, small))},
		{name: "reserved bit 2", want: "ends", send: sends(peer.Frame(text|0x20, small))},
		{name: "reserved bit 3", want: "ends", send: sends(peer.Frame(text|0x10, small))},
		{name: "reserved opcode for data", want: "ends", send: sends(peer.Frame(final|0x03, small))},
		{name: "reserved opcode for control", want: "ends", send: sends(peer.Frame(final|0x0b, nil))},
		{name: "unmasked", want: "ends", send: sends([]byte{text, 2, '{', '}'})},
		{name: "a piece of nothing", want: "ends", towline: "close 1002, ends", why: saysSo, send: sends(peer.Frame(final, small))},
		{
			name: "a message in a message", want: "ends", towline: "close 1002, ends", why: saysSo,
			send: sends(peer.Frame(peer.FrameText, small), peer.Frame(text, small)),
		},

		{name: "a ping of 125 bytes", want: "pong, stays", send: sends(peer.Frame(final|peer.FramePing, make([]byte, 125)))},
		{name: "a ping of 126 bytes", want: "ends", send: sends(peer.Frame(final|peer.FramePing, make([]byte, 126)))},
		{name: "a ping in pieces", want: "ends", send: sends(peer.Frame(peer.FramePing, []byte("hi")))},
		{name: "a ping within a message", want: "pong, answer, stays", send: sends(peer.Frame(peer.FrameText, small[:9]), ping, peer.Frame(final, small[9:]))},
		{name: "a pong nobody asked for", want: "stays", send: sends(peer.Frame(final|peer.FramePong, []byte("hi")))},
		{name: "100 pings", want: "pong, stays", send: sends(flood(100, ping))},
		{name: "a flood of pings", want: "pong, ends", send: sends(flood(1<<16, ping))},
		{name: "ten empty pieces", want: "answer, stays", send: sends(peer.Frame(peer.FrameText, nil), flood(10, peer.Frame(0, nil)), peer.Frame(final, small))},
		{
			name: "a flood of empty pieces", want: "answer, stays", towline: "ends", why: idle,
			send: sends(peer.Frame(peer.FrameText, nil), flood(1<<16, peer.Frame(0, nil)), peer.Frame(final, small)),
		},
		{
			name: "a flood of pongs", want: "stays", towline: "ends", why: idle,
			send: sends(flood(1<<16, peer.Frame(final|peer.FramePong, nil))),
		},

		{name: "a binary frame", want: "stays", send: sends(peer.Frame(final|peer.FrameBinary, small))},
		{name: "40 MiB of binary frames", want: "stays", send: func(w *peer.Wire) {
			b := make([]byte, wireFrame)
			sends(peer.Frame(peer.FrameBinary, b), peer.Frame(0, b), peer.Frame(final, b[:8<<20]))(w)
		}},
		{name: "an empty message", want: "stays", send: framed("")},
		{name: "no JSON", want: "stays", send: framed("hello")},
		{name: "a batch", want: "stays", send: framed("[" + string(small) + "]")},
		{name: "two objects", want: "stays", send: framed(string(small) + string(small))},
		{name: "space around", want: "answer, stays", send: framed(" \n" + string(small) + "\r\n ")},
		{name: "a byte order mark", want: "stays", send: framed("\xef\xbb\xbf" + string(small))},
		{name: "nested 100000 deep", want: "stays", send: framed(`{"id":"deep","method":"x","params":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}")},

		{name: "close", want: "ends", towline: "close 1000, ends", why: echoes, send: sends(closing(1000, ""))},
		{name: "close without a code", want: "ends", towline: "close, ends", why: echoes, send: sends(peer.Frame(final|peer.FrameClose, nil))},
		{name: "close with half a code", want: "ends", towline: "close 1002, ends", why: saysSo, send: sends(peer.Frame(final|peer.FrameClose, []byte{3}))},
		{name: "close with a code nobody may send", want: "ends", towline: "close 1002, ends", why: saysSo, send: sends(closing(1005, ""))},
		{name: "close with bad UTF-8", want: "ends", towline: "close 1000, ends", why: echoes, send: sends(closing(1000, "\xff"))},
		{name: "close within a message", want: "ends", towline: "close 1000, ends", why: echoes, send: sends(peer.Frame(peer.FrameText, small), closing(1000, ""))},
		{name: "a message after close", want: "ends", towline: "close 1000, ends", why: echoes, send: sends(closing(1000, ""), peer.Frame(text, small))},
	}
}

// turnedAway is a handshake that came to nothing. Its answer may be lost with what
// the server did not read.
const turnedAway = "turned away"

// requestsOfAClient are what one may say instead of a handshake.
func requestsOfAClient() []wireCase {
	const host = "127.0.0.1"
	asks := func(text string) func(w *peer.Wire) {
		return func(w *peer.Wire) { _, _ = io.WriteString(w, text) }
	}
	hello := peer.Handshake(host)
	pad := func(n int) string { return peer.Handshake(host, "X-Pad: "+strings.Repeat("x", n)) }
	without := func(old, now string) func(w *peer.Wire) { return asks(strings.Replace(hello, old, now, 1)) }
	const (
		key     = "dGhlIHNhbXBsZSBub25jZQ=="
		bytesOf = "what a stranger can make the host keep is bounded in bytes, in 16 KiB for a header"
		strict  = "a client is held to RFC 6455 4.2.1 and RFC 9112 3.2"
	)
	return []wireCase{
		{name: "a handshake", want: "101", send: asks(hello)},
		{name: "one in bytes", want: "101", send: func(w *peer.Wire) {
			for i := range len(hello) {
				_, _ = io.WriteString(w, hello[i:i+1])
			}
		}},
		{name: "a header of 8 KiB", want: "101", send: asks(pad(8 << 10))},
		{name: "a header of 64 KiB", want: "101", towline: turnedAway, why: bytesOf, send: asks(pad(64 << 10))},
		{name: "a header of 1 MiB", want: turnedAway, send: asks(pad(1 << 20))},
		{name: "a path of 64 KiB", want: turnedAway, send: without("GET /", "GET /"+strings.Repeat("x", 64<<10))},
		{name: "90 headers", want: "101", send: asks(peer.Handshake(host, slices.Repeat([]string{"X-Pad: x"}, 80)...))},
		{name: "200 headers", want: turnedAway, towline: "101", why: bytesOf, send: asks(peer.Handshake(host, slices.Repeat([]string{"X-Pad: x"}, 200)...))},
		{name: "lower case", want: "101", send: asks(strings.NewReplacer("get", "GET", "http", "HTTP", strings.ToLower(key), key).Replace(strings.ToLower(hello)))},
		{name: "HTTP/1.0", want: "426", send: without("HTTP/1.1", "HTTP/1.0")},
		{name: "no HTTP", want: "400", send: asks("{\"id\":1,\"method\":\"initialize\"}\n\n")},
		{name: "a TLS hello", want: "400", send: asks("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n")},
		{name: "bare line feeds", want: "101", send: asks(strings.ReplaceAll(hello, "\r\n", "\n"))},
		{name: "no host", want: "101", towline: "400", why: strict, send: without("Host: "+host+"\r\n", "")},
		{name: "two hosts", want: "101", towline: "400", why: strict, send: asks(peer.Handshake(host, "Host: "+host))},
		{name: "a full URL", want: "101", send: without("GET /", "GET http://127.0.0.1/")},
		{name: "a key that is none", want: "101", towline: "400", why: strict, send: without(key, "short")},
		{name: "an empty key", want: "101", towline: "400", why: strict, send: without(key, "")},
		{name: "two keys", want: "101", towline: "400", why: strict, send: asks(peer.Handshake(host, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="))},
		{name: "version 8", want: "400 `Sec-WebSocket-Version` header did not include '13'", send: without("Version: 13", "Version: 8")},
		{name: "two upgrades", want: "400 `Upgrade` header did not include 'websocket'", send: without("Upgrade: websocket", "Upgrade: h2c, websocket")},
		{name: "a connection kept alive", want: "101", send: without("Connection: Upgrade", "Connection: keep-alive, Upgrade")},
		{name: "a body", want: "101", send: asks(peer.Handshake(host, "Content-Length: 5") + "hello")},
		{name: "a body in chunks", want: "101", send: asks(peer.Handshake(host, "Transfer-Encoding: chunked") + "0\r\n\r\n")},
		{
			name: "a folded header", want: "400", towline: "101", why: "RFC 9112 5.2 leaves it to the server; Go's takes it for a space",
			send: asks(peer.Handshake(host, "X-Fold: a\r\n b")),
		},
		{name: "a space before a colon", want: "400", send: asks(peer.Handshake(host, "X-Space : a"))},
		{name: "a NUL in a header", want: "400", send: asks(peer.Handshake(host, "X-Nul: a\x00b"))},
	}
}

// towline is our own server among the versions of Codex.
const towline = "towline"

// wireServers are the listeners to compare, by version.
func wireServers(t *testing.T) map[string]string {
	t.Helper()
	urls := map[string]string{towline: peer.Start(t, peer.HostConfig{Args: []string{"--listen", "ws://127.0.0.1:0"}}).WS()}
	for _, c := range peer.Codexes(t) {
		urls[c.Version] = c.StartServer(t, peer.CodexEnv(t, "http://127.0.0.1:9/v1")).URL
	}
	return urls
}

// hold compares what was heard of a server with what the case says of it.
func (c wireCase) hold(t *testing.T, server, heard string) {
	t.Helper()
	want := c.want
	if server == towline && c.towline != "" {
		want = c.towline
	}
	if want == turnedAway && (heard == "ends" || strings.HasPrefix(heard, "4")) {
		return
	}
	if heard != want && !strings.HasPrefix(heard, want+" ") {
		t.Errorf("%s: %q, want %q", c.name, heard, want)
	}
}

// Whatever a client does below the level of messages, with both servers the same
// comes of it; differences are listed, each with its reason.
func TestWireEdgesAgainstCodex(t *testing.T) {
	t.Parallel()
	for server, url := range wireServers(t) {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			for _, c := range framesOfAClient() {
				w := peer.DialWire(t, url)
				admitted(t, w)
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					c.send(w)
					_, _ = w.Write(probe)
				}()
				c.hold(t, server, w.Heard())
				_ = w.Close()
				<-sent
			}
			for _, c := range requestsOfAClient() {
				w := peer.DialWire(t, url)
				sent := make(chan struct{})
				go func() { defer close(sent); c.send(w) }()
				c.hold(t, server, w.Answer())
				_ = w.Close()
				<-sent
			}
		})
	}
}

var probe = peer.Frame(text, []byte(`{"id":"probe","method":"nobody/has/this"}`))

// admitted makes a handshake and initializes.
func admitted(t *testing.T, w *peer.Wire) {
	t.Helper()
	_, _ = io.WriteString(w, peer.Handshake(w.Host))
	if got := w.Answer(); got != "101" {
		t.Fatal(got)
	}
	_, _ = w.Write(peer.Frame(text, []byte(`{"id":"probe","method":"initialize","params":{"clientInfo":{"name":"wire","version":"1"}}}`)))
	if got := w.Heard(); got != "stays" {
		t.Fatal(got)
	}
}

// Clients that never come to an end of their handshake keep nobody out. Codex
// lets them stay for ever; here they have a time, and a number.
func TestHandshakesThatNeverEndAgainstCodex(t *testing.T) {
	t.Parallel()
	const hanging = 300 // more than may be pending at a time
	for server, url := range wireServers(t) {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			early := peer.DialWire(t, url)
			admitted(t, early)
			begun, rest := peer.Handshake("127.0.0.1")[:40], peer.Handshake("127.0.0.1")[40:]
			var slow []*peer.Wire
			for range hanging {
				w := peer.DialWire(t, url)
				_, _ = io.WriteString(w, begun)
				slow = append(slow, w)
			}
			// Who is in notices nothing.
			_, _ = early.Write(probe)
			if got := early.Heard(); got != "stays" {
				t.Error(got)
			}
			// Who comes gets in: at once, or when the time of the others is over.
			for end := time.Now().Add(peer.Patience); ; time.Sleep(50 * time.Millisecond) {
				w := peer.DialWire(t, url)
				_, _ = io.WriteString(w, peer.Handshake(w.Host))
				got := w.Answer()
				_ = w.Close()
				if got == "101" {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("nobody comes in any more: %s", got)
				}
			}
			if server != towline {
				_, _ = io.WriteString(slow[0], rest)
				if got := slow[0].Answer(); got != "101" {
					t.Errorf("a late handshake: %s", got)
				}
				return
			}
			go func() { // a byte now and then is not enough
				for i := range rest {
					time.Sleep(100 * time.Millisecond)
					if _, err := io.WriteString(slow[0], rest[i:i+1]); err != nil {
						return
					}
				}
			}()
			for _, w := range slow {
				if got := w.Answer(); got == "101" || got == "silence" {
					t.Fatalf("a handshake that never ends: %s", got)
				}
			}
		})
	}
}
