package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/config"
)

func TestDetachClosesTheRightUIAndWaitsForIt(t *testing.T) {
	dir, err := os.MkdirTemp("", "tl") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	paths := config.Paths{Config: dir, State: dir, Runtime: filepath.Join(dir, "run")}
	ui := watchDetach(t.Context(), paths, openUI{Host: "dev", ComeBack: "towline dev"})
	defer ui.close()

	// What a UI that was killed leaves behind is in nobody's way.
	dead := filepath.Join(uiDir(paths), "1.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()

	var out bytes.Buffer
	var problem *config.Problem
	if err := detach(t.Context(), paths, "prod", true, &out); !errors.As(err, &problem) || !strings.Contains(err.Error(), "for prod") {
		t.Errorf("another host: %v", err)
	}
	if ui.asked() || ui.ctx.Err() != nil {
		t.Fatal("the UI of another host was closed")
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("the dead socket is still there")
	}

	var wg sync.WaitGroup
	gone := make(chan struct{})
	wg.Go(func() {
		err := detach(t.Context(), paths, "", false, &out)
		select {
		case <-gone:
		default:
			t.Error("detach did not wait for the UI")
		}
		if err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ui.ctx.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the UI was not told")
	}
	if !ui.asked() {
		t.Error("the UI does not know why")
	}
	close(gone)
	ui.close()
	wg.Wait()
	if got := out.String(); got != "detached from dev. Come back: towline dev\n" {
		t.Errorf("said %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(uiDir(paths), "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
