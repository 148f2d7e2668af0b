//go:build unix

package systemssh

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"towline/launcher/remote/remotetest"
)

// A control socket may be anything's. FuzzControl lets one say anything.
func FuzzControl(f *testing.F) {
	frame := func(words ...uint32) []byte {
		out := binary.BigEndian.AppendUint32(nil, uint32(4*len(words)))
		for _, w := range words {
			out = binary.BigEndian.AppendUint32(out, w)
		}
		return out
	}
	f.Add(append(frame(muxHello, muxVersion), frame(muxAlive, 0, 1)...))
	f.Add(append(frame(muxHello, muxVersion), frame(muxFailure, 0, 0xffffffff)...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, said []byte) {
		dir, err := os.MkdirTemp("", "fz")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "c")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(remotetest.Bound))
			_, _ = c.Read(make([]byte, 64))
			_, _ = c.Write(said)
			_ = c.Close()
		}()
		c, err := dialControl(t.Context(), path)
		if err == nil {
			_ = c.within(t.Context(), controlTimeout, c.alive)
			_, _ = c.status()
			_ = c.nc.Close()
		}
		_ = l.Close()
		<-done
	})
}
