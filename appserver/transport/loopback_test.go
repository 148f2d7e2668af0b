//go:build linux

package transport

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestLoopbackServesThisUserOnly(t *testing.T) {
	ln, err := ListenLoopback(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var served atomic.Int64
	srv := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		_, _ = io.WriteString(w, "ours")
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })

	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr, Timeout: patience}).Get("http://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if string(body) != "ours" {
		t.Errorf("answered %q", body)
	}
	url := "ws://" + ln.Addr().String()
	t.Run("another user", func(t *testing.T) {
		out, err := asNobody(t, "TRANSPORT_TEST_DIAL="+url).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "refused") {
			t.Errorf("%s %v", out, err)
		}
	})
	t.Run("a command in a sandbox", func(t *testing.T) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{"TRANSPORT_TEST_CONFINED=" + url}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "refused") {
			t.Errorf("%s %v", out, err)
		}
	})
	if n := served.Load(); n != 1 {
		t.Errorf("served %d requests", n)
	}
}

func TestLoopbackIsBounded(t *testing.T) {
	ln, err := ListenLoopback(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	taken := make(chan net.Conn, 2*maxLoopback)
	go func() {
		defer close(taken)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			taken <- c
		}
	}()
	var refused net.Conn
	for range maxLoopback + 1 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		refused = c
	}
	_ = refused.SetReadDeadline(time.Now().Add(patience))
	if _, err := refused.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("one too many reads %v", err)
	}
	_ = (<-taken).Close() // its place is free again
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for range maxLoopback {
		_ = (<-taken).Close()
	}
}
