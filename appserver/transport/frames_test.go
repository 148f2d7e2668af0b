//go:build unix

package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"towline/appserver/rpc"
)

// frame makes one of a client's: first byte, and a payload under the mask zero.
func frame(first byte, payload []byte) []byte {
	out := []byte{first}
	switch n := len(payload); {
	case n < 126:
		out = append(out, 0x80|byte(n))
	case n < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, 0x80|126), uint16(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, 0x80|127), uint64(n))
	}
	return append(append(out, 0, 0, 0, 0), payload...)
}

// opened makes the handshake of a client by hand; what follows is read from r.
func opened(t *testing.T, url string) (c net.Conn, r *bufio.Reader) {
	t.Helper()
	c = rawDial(t, url)
	_, _ = io.WriteString(c, upgrade("localhost"))
	r = bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", resp.StatusCode)
	}
	return c, r
}

// said reads one frame of a server's.
func said(r *bufio.Reader) (first byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1] & 0x7f)
	var more [8]byte
	switch n {
	case 126:
		_, err = io.ReadFull(r, more[:2])
		n = uint64(binary.BigEndian.Uint16(more[:]))
	case 127:
		_, err = io.ReadFull(r, more[:])
		n = binary.BigEndian.Uint64(more[:])
	}
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return head[0], payload, err
}

const (
	text, binaryFrame, ping, pong, final = 0x01, 0x02, 0x09, 0x0a, 0x80
)

func TestFramesThatEndTheConnection(t *testing.T) {
	eachDoor(t, func(t *testing.T, url string) {
		l := open(t, url, Options{}, echo)
		unmasked := []byte{final | text, 2, 'h', 'i'}
		for name, bytes := range map[string][]byte{
			"rsv1":                   frame(final|text|0x40, []byte("hi")),
			"rsv2":                   frame(final|text|0x20, []byte("hi")),
			"rsv3":                   frame(final|text|0x10, []byte("hi")),
			"reserved data opcode":   frame(final|0x03, []byte("hi")),
			"reserved control":       frame(final|0x0b, nil),
			"unmasked":               unmasked,
			"bad UTF-8":              frame(final|text, []byte{'a', 0xff}),
			"half a character":       frame(final|text, []byte("ä")[:1]),
			"bad UTF-8 in pieces":    append(frame(text, []byte{'a'}), frame(final, []byte{0xc3})...),
			"long ping":              frame(final|ping, make([]byte, 126)),
			"ping in pieces":         frame(ping, []byte("hi")),
			"a piece of nothing":     frame(final, []byte("hi")),
			"a message in a message": append(frame(text, []byte("a")), frame(final|text, []byte("b"))...),
			"beyond 16 MiB":          frame(final|text, make([]byte, maxFrameBytes+1))[:20],
			"of 2^63 bytes":          {final | text, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c, r := opened(t, l.URL())
				// What was said before counts, in whatever pieces it comes.
				_, _ = c.Write(append(frame(final|text, []byte("1")), bytes...))
				if _, got, err := said(r); err != nil || string(got) != "1" {
					t.Fatalf("%q, %v", got, err)
				}
				rest, err := io.ReadAll(r)
				if os.IsTimeout(err) {
					t.Error("the connection stays")
				}
				quiet := !strings.HasPrefix(name, "a ") // those two the library sees, and says so
				if quiet && len(rest) > 0 {
					t.Errorf("an answer: % x", rest)
				}
			})
		}
	})
}

func TestFramesThatPass(t *testing.T) {
	l := open(t, "ws://127.0.0.1:0", Options{}, echo)
	c, r := opened(t, l.URL())
	expect := func(want []byte) {
		t.Helper()
		if first, got, err := said(r); err != nil || first != final|text || !bytes.Equal(got, want) {
			t.Fatalf("%x with %d bytes, %v; want %d", first, len(got), err, len(want))
		}
	}
	// One frame of 16 MiB, and a message of 48 in three.
	big := bytes.Repeat([]byte("x"), maxFrameBytes)
	go func() {
		_, _ = c.Write(frame(final|text, big))
		_, _ = c.Write(frame(text, big))
		_, _ = c.Write(frame(final|ping, []byte("in between")))
		_, _ = c.Write(frame(0, big))
		_, _ = c.Write(frame(final, big))
	}()
	expect(big)
	if first, got, err := said(r); err != nil || first != final|pong || string(got) != "in between" {
		t.Fatalf("%x %q, %v", first, got, err)
	}
	expect(bytes.Repeat(big, 3))
	// Binary frames say nothing, a character may be cut where a frame ends, and a
	// hundred pings are answered.
	_, _ = c.Write(frame(final|binaryFrame, []byte{0xff}))
	_, _ = c.Write(append(frame(text, []byte("ä")[:1]), frame(final, []byte("ä")[1:])...))
	expect([]byte("ä"))
	for range 100 {
		_, _ = c.Write(frame(final|ping, []byte("x")))
		if first, got, err := said(r); err != nil || first != final|pong || string(got) != "x" {
			t.Fatalf("%x %q, %v", first, got, err)
		}
	}
	_, _ = c.Write(frame(final|pong, nil)) // nobody asked
	_, _ = c.Write(frame(final|text, []byte("still here")))
	expect([]byte("still here"))
}

func TestMessageBeyondTheLimitEndsTheConnection(t *testing.T) {
	l := open(t, "ws://127.0.0.1:0", Options{}, echo)
	c, r := opened(t, l.URL())
	piece := make([]byte, maxFrameBytes)
	for i := range 1 + rpc.MaxMessage/maxFrameBytes {
		first := byte(0)
		if i == 0 {
			first = text
		}
		if _, err := c.Write(frame(first, piece)); err != nil {
			break
		}
	}
	for {
		first, _, err := said(r)
		if os.IsTimeout(err) {
			t.Fatal("the connection stays")
		}
		if err != nil {
			return
		}
		if first == final|text {
			t.Fatal("it was taken")
		}
	}
}

func TestSecurityFloodOfPingsEndsTheConnection(t *testing.T) {
	l := open(t, "ws://127.0.0.1:0", Options{}, echo)
	for name, f := range map[string][]byte{
		"pings": frame(final|ping, []byte("x")), "pongs": frame(final|pong, nil), "empty pieces": frame(0, nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, r := opened(t, l.URL())
			if name == "empty pieces" {
				_, _ = c.Write(frame(text, []byte("x")))
			}
			go func() {
				flood := bytes.Repeat(f, 1000)
				for range 1000 {
					if _, err := c.Write(flood); err != nil {
						return
					}
				}
			}()
			if n, err := io.Copy(io.Discard, r); os.IsTimeout(err) || n > 1<<20 {
				t.Errorf("%d bytes of answers, %v", n, err)
			}
		})
	}
	// Whoever does not read the answers is cut off as well, and harms nobody.
	if got := roundTrip(t, dial(t, l.URL()), "1"); got != "1" {
		t.Errorf("a neighbour gets %q", got)
	}
}

func TestFramesBehindTheHandshakeAreLookedAt(t *testing.T) {
	l := open(t, "ws://127.0.0.1:0", Options{}, echo)
	for name, f := range map[string]string{"good": string(frame(final|text, []byte("1"))), "bad": string(frame(final|text|0x40, []byte("1")))} {
		c := rawDial(t, l.URL())
		_, _ = io.WriteString(c, upgrade("localhost")+f)
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		_, got, err := said(r)
		if os.IsTimeout(err) || (name == "good") != (string(got) == "1") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestIdleFramesComeBackWithTime(t *testing.T) {
	var g frameGuard
	now := time.Now()
	n := 0
	for g.idle(now) {
		n++
	}
	if n != idleFrames {
		t.Errorf("%d at once", n)
	}
	if now = now.Add(idlePer / 4); !g.idle(now) {
		t.Error("none came back")
	}
	now = now.Add(100 * idlePer)
	for n = 0; g.idle(now); n++ {
	}
	if n != idleFrames {
		t.Errorf("%d after a long time", n)
	}
}

// However a stream is cut into pieces, the verdict is the same, and so is what is
// let through before it.
func FuzzFrames(f *testing.F) {
	f.Add(frame(final|text, []byte("hi")), uint8(1))
	f.Add(append(frame(text, make([]byte, 300)), frame(final|ping, []byte("x"))...), uint8(3))
	f.Add(append(frame(final|text, make([]byte, 70000)), 0xff, 0xff), uint8(7))
	f.Add([]byte{final | text, 0x80 | 127, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0}, uint8(2))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		var whole, pieces frameGuard
		good, err := whole.see(stream)
		if good < 0 || good > len(stream) {
			t.Fatalf("%d of %d", good, len(stream))
		}
		passed, n := 0, int(size)%64+1
		var err2 error
		for rest := stream; len(rest) > 0 && err2 == nil; {
			p := rest[:min(n, len(rest))]
			rest = rest[len(p):]
			var ok int
			ok, err2 = pieces.see(p)
			passed += ok
		}
		if (err == nil) != (err2 == nil) {
			t.Fatalf("%v at once, %v in pieces", err, err2)
		}
		if err != nil && (!errors.Is(err, errFrame) || passed < good || passed > good+14) {
			t.Fatalf("%d let through at once, %d in pieces: %v", good, passed, err)
		}
	})
}
