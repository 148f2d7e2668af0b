package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// unpolledPair is a blocking connection and its peer.
func unpolledPair(t *testing.T) (io.ReadWriteCloser, net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	rw, err := unpolled(c.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rw.Close() })
	return rw, peer
}

func TestUnpolledCarriesBothWaysAndLingers(t *testing.T) {
	rw, peer := unpolledPair(t)
	want := bytes.Repeat([]byte("word "), 100_000)
	sent := make(chan error, 1)
	go func() {
		_, err := peer.Write(want)
		_ = peer.Close()
		sent <- err
	}()
	var got []byte
	buf := make([]byte, 4096)
	for {
		n, err := rw.Read(buf)
		got = append(got, buf[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		rw.(*blocking).Linger()
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived of %d, or others", len(got), len(want))
	}
	rw, peer = unpolledPair(t)
	go func() { _, err := rw.Write(want); sent <- err }()
	if _, err := io.ReadFull(peer, make([]byte, len(want))); err != nil {
		t.Error(err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// A read that waits in the kernel ends with Close, whoever calls it, and the
// place is given back once.
func TestClosingAnUnpolledConnectionEndsItsRead(t *testing.T) {
	before := blockingNow.Load()
	rw, _ := unpolledPair(t)
	ended := make(chan error, 1)
	go func() { _, err := rw.Read(make([]byte, 1)); ended <- err }()
	if err := rw.Close(); err != nil {
		t.Error(err)
	}
	if err := rw.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
		t.Errorf("the read ended with %v", err)
	}
	if n := blockingNow.Load(); n != before {
		t.Errorf("%d connections hold a thread, want %d", n, before)
	}
}

func TestUnpolledConnectionsAreBounded(t *testing.T) {
	var polled int
	for range maxBlocking + 3 {
		if rw, _ := unpolledPair(t); rw != nil {
			if _, ok := rw.(*net.UnixConn); ok {
				polled++
			}
		}
	}
	if polled < 3 {
		t.Errorf("%d connections went through the poller, want at least 3", polled)
	}
}
