//go:build unix

package appserver

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"towline/appserver/access/bearer"
)

// What one client costs that comes, initializes and goes, in a whole daemon with
// the native engine. The client's own part is as small as it gets.
func BenchmarkConnect(b *testing.B) {
	for _, via := range []string{"unix", "ws"} {
		b.Run(via, func(b *testing.B) {
			s := opened(b, func(c *Config) {
				c.Listeners.Auth = bearer.Config{}
				c.Listen = []string{"ws://127.0.0.1:0"}
			})
			serve(b, s)
			network, addr := "unix", s.cfg.Paths.Socket()
			if via == "ws" {
				network, addr = "tcp", strings.TrimPrefix(s.Addresses()[0], "ws://")
			}
			c := newComer(network, addr)
			if err := c.come(); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				if err := c.come(); err != nil {
					b.Fatal(err)
				}
			}
			// What others do on the machine matters less to this than to the clock.
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// comer connects again and again.
type comer struct {
	network, addr string
	r             *bufio.Reader
	hello         []byte
}

const greeting = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

func newComer(network, addr string) *comer {
	const msg = `{"id":0,"method":"initialize","params":{"clientInfo":{"name":"bench","version":"1"},"capabilities":{"experimentalApi":true}}}`
	hello := binary.BigEndian.AppendUint16([]byte{0x81, 0x80 | 126}, uint16(len(msg)))
	return &comer{network: network, addr: addr, r: bufio.NewReaderSize(nil, 4096), hello: append(append(hello, 0, 0, 0, 0), msg...)}
}

// come waits until initialize is answered.
func (c *comer) come() error {
	nc, err := net.Dial(c.network, c.addr) //nolint:noctx // a benchmark's own
	if err != nil {
		return err
	}
	defer func() { _ = nc.Close() }()
	c.r.Reset(nc)
	if _, err := io.WriteString(nc, greeting); err != nil {
		return err
	}
	for line := []byte{'x'}; len(bytes.TrimSpace(line)) > 0; {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return err
		}
	}
	if _, err := nc.Write(c.hello); err != nil {
		return err
	}
	for {
		head, err := c.r.Peek(4)
		if err != nil {
			return err
		}
		n, skip := int(head[1]&0x7f), 2
		if n == 126 {
			n, skip = int(binary.BigEndian.Uint16(head[2:])), 4
		}
		_, _ = c.r.Discard(skip) // peeked at
		msg, err := c.r.Peek(n)
		if err != nil {
			return err
		}
		found := bytes.Contains(msg, []byte(`"id":0`))
		_, _ = c.r.Discard(n) // peeked at
		if found {
			return nil
		}
	}
}
