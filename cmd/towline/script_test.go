package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"towline/appserver/engine/native/sandbox"
	"towline/config"
)

func TestMain(m *testing.M) {
	// The scripts' towline is this binary; so is its sandbox helper.
	if len(os.Args) > 1 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	testscript.Main(m, map[string]func(){"towline": func() { os.Exit(run()) }})
}

// TestScripts runs the real main: arguments in; output and exit status out.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("TOWLINE_HOME", home)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_RUNTIME_DIR", "")
			e.Setenv("CODEX_HOME", "")
			e.Defer(func() { // a script that fails may leave a daemon behind
				paths, err := config.Locate(func(name string) string { return e.Getenv(name) })
				if err == nil {
					_, _ = stopDaemon(context.Background(), paths)
				}
			})
			return os.MkdirAll(home, 0o700)
		},
		Cmds: loginCommands(map[string]func(*testscript.TestScript, bool, []string){
			"exits":       exits,
			"waitfile":    waitFile,
			"certificate": certificate,
		}),
	})
}

// exits N CMD… runs a command and checks its exit status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		_, got, _ = strings.Cut(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s (%v)", got, args[0], err)
	}
}

// waitfile FILE TEXT waits until the file contains the text: what a background
// command has printed so far.
func waitFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitfile FILE TEXT")
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		raw, _ := os.ReadFile(ts.MkAbs(args[0]))
		if strings.Contains(string(raw), args[1]) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s never contained %q: %s", args[0], args[1], raw)
		}
	}
}
