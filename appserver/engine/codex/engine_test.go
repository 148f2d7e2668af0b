//go:build unix

package codex

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"towline/appserver/protocol"
)

func TestOwnsAServerThatClientsShare(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		env := newHome(t, endpoint(t, "hello from afar", nil))
		e, log, stop := run(t, Config{Binary: bin, Environ: env, ShareControlSocket: true, Cwd: t.TempDir()})
		st := until(t, e, "ready", ready)
		if !strings.Contains(bin, st.Version) || st.Version == "" || st.Problem != "" || st.Kind != "codex" || st.Model != "gpt-5.5" {
			t.Errorf("state = %+v", st)
		}
		a, b := connect(t, e), connect(t, e)
		var started struct{ Thread struct{ ID string } }
		a.call("thread/start", nil, &started)
		b.await("thread/started")
		turn := map[string]any{"threadId": started.Thread.ID, "input": []any{map[string]any{"type": "text", "text": "hi"}}}
		a.call("turn/start", turn, nil)
		a.await("turn/completed") // nobody can join a thread before its first turn
		b.call("thread/resume", map[string]any{"threadId": started.Thread.ID, "excludeTurns": true}, nil)
		b.call("turn/start", turn, nil)
		for _, c := range []*client{a, b} {
			if done := c.await("turn/completed"); !strings.Contains(string(done), "hello from afar") {
				t.Errorf("turn/completed = %s", done)
			}
		}
		pids := log.pids()
		if len(pids) != 1 {
			t.Fatalf("servers started: %v", pids)
		}
		stop()
		if alive(pids[0]) {
			t.Error("the server outlived the engine")
		}
		if _, err := os.Lstat(e.cfg.controlSocket()); err == nil {
			t.Error("the control socket was left behind")
		}
		if copies, _ := os.ReadDir(filepath.Join(e.cfg.home(), "packages")); len(copies) > 0 {
			t.Errorf("codex copied itself: %v", copies)
		}
		if _, err := e.Connect(t.Context()); err == nil {
			t.Error("a stopped engine gave a connection")
		}
	})
}

func TestKeepsTheControlSocketToItselfWhenNotSharing(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 20), "run")
		e, _, _ := run(t, Config{Binary: bin, Environ: newHome(t, "http://127.0.0.1:9/v1"), RuntimeDir: dir})
		until(t, e, "ready", ready)
		connect(t, e).call("thread/loaded/list", nil, nil)
		if _, err := os.Lstat(e.cfg.controlSocket()); err == nil {
			t.Error("the control socket was offered")
		}
	})
}

func TestRestartsAServerThatWasKilled(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		e, log, _ := run(t, Config{Binary: bin, Environ: newHome(t, "http://127.0.0.1:9/v1"), ShareControlSocket: true})
		until(t, e, "ready", ready)
		before := connect(t, e)
		if err := syscall.Kill(log.pids()[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {
		case <-before.ended:
		case <-time.After(patience):
			t.Fatal("a client was not told that the server died")
		}
		// Connect waits for the successor, whatever Run has noticed by now.
		connect(t, e).call("thread/loaded/list", nil, nil)
		until(t, e, "ready", ready)
		if pids := log.pids(); len(pids) != 2 {
			t.Errorf("servers started: %v", pids)
		}
		if !strings.Contains(log.String(), "codex ended (signal: killed)") {
			t.Errorf("nobody was told how it ended")
		}
	})
}

func TestStateOnTheWayBackSaysWhatHappened(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		e, log, _ := runRetrying(t, Config{Binary: bin, Environ: newHome(t, "http://127.0.0.1:9/v1"), ShareControlSocket: true},
			backoff{first: time.Minute, most: time.Minute})
		until(t, e, "ready", ready)
		_ = syscall.Kill(log.pids()[0], syscall.SIGKILL)
		st := until(t, e, "restarting", func(st protocol.EngineState) bool { return st.State == stateRestarting })
		if st.RetryInMs < 10_000 || !strings.Contains(st.Problem, "signal: killed") {
			t.Errorf("state = %+v", st)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		var pe *protocol.Error
		if _, err := e.Connect(ctx); !errors.As(err, &pe) || !strings.Contains(pe.Message, "signal: killed") {
			t.Errorf("connect = %v", err)
		}
	})
}

func TestJoinsARunningDaemonAndReplacesItWhenItDies(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		env := newHome(t, "http://127.0.0.1:9/v1")
		daemon := exec.Command(bin, "app-server", "--listen", "unix://")
		daemon.Env = env
		ownGroup(daemon) // npm's wrapper is two processes
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		kill := sync.OnceFunc(func() { _ = killGroup(daemon.Process.Pid); _ = daemon.Wait() })
		t.Cleanup(kill)
		socket := Config{Environ: env}.controlSocket()
		eventually(t, "listening", func() bool {
			w, err := attach(t.Context(), socket)
			if err == nil {
				w.close()
			}
			return err == nil
		})
		e, log, _ := run(t, Config{Binary: bin, Environ: env, ShareControlSocket: true})
		until(t, e, "ready", ready)
		connect(t, e).call("thread/loaded/list", nil, nil)
		if len(log.pids()) != 0 {
			t.Fatal("started a second server next to the daemon")
		}
		kill()
		until(t, e, "on its own server", func(st protocol.EngineState) bool { return ready(st) && len(log.pids()) == 1 })
		connect(t, e).call("thread/loaded/list", nil, nil)
	})
}

func TestLeavesAJoinedDaemonRunning(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		env := newHome(t, "http://127.0.0.1:9/v1")
		owner, log, _ := run(t, Config{Binary: bin, Environ: env, ShareControlSocket: true})
		until(t, owner, "ready", ready)
		guest, _, stop := run(t, Config{Binary: bin, Environ: env})
		until(t, guest, "ready", ready)
		stop()
		if !alive(log.pids()[0]) {
			t.Error("the guest ended the owner's server")
		}
		connect(t, owner).call("thread/loaded/list", nil, nil)
	})
}

func TestSaysThatNobodyIsLoggedInUntilSomebodyIs(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		e, _, _ := run(t, Config{Binary: bin, Environ: newHome(t, ""), ShareControlSocket: true})
		st := until(t, e, "ready", ready)
		if !strings.Contains(st.Problem, "no account") || !strings.Contains(strings.Join(st.Hints, " "), "codex login --device-auth") {
			t.Fatalf("state = %+v", st)
		}
		connect(t, e).call("account/login/start", map[string]any{"type": "apiKey", "apiKey": "sk-not-a-real-key"}, nil)
		until(t, e, "free of problems", func(st protocol.EngineState) bool { return ready(st) && st.Problem == "" })
	})
}

func TestStopIsBoundedWhileATurnRuns(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		hold := make(chan struct{})
		defer close(hold)
		env := newHome(t, endpoint(t, "too late", hold))
		e, log, stop := run(t, Config{Binary: bin, Environ: env, ShareControlSocket: true, DrainTimeout: 300 * time.Millisecond, Cwd: t.TempDir()})
		until(t, e, "ready", ready)
		c := connect(t, e)
		var started struct{ Thread struct{ ID string } }
		c.call("thread/start", nil, &started)
		c.call("turn/start", map[string]any{"threadId": started.Thread.ID, "input": []any{map[string]any{"type": "text", "text": "hi"}}}, nil)
		c.await("turn/started")
		began := time.Now()
		stop()
		if took := time.Since(began); took < 300*time.Millisecond || took > 300*time.Millisecond+2*hurryTimeout {
			t.Errorf("stopping took %v", took)
		}
		if alive(log.pids()[0]) {
			t.Error("the server outlived the engine")
		}
	})
}

func TestStopLetsATurnFinish(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		hold := make(chan struct{})
		env := newHome(t, endpoint(t, "just in time", hold))
		e, _, stop := run(t, Config{Binary: bin, Environ: env, ShareControlSocket: true, DrainTimeout: patience, Cwd: t.TempDir()})
		until(t, e, "ready", ready)
		c := connect(t, e)
		var started struct{ Thread struct{ ID, Path string } }
		c.call("thread/start", nil, &started)
		c.call("turn/start", map[string]any{"threadId": started.Thread.ID, "input": []any{map[string]any{"type": "text", "text": "hi"}}}, nil)
		c.await("turn/started")
		stopped := make(chan struct{})
		go func() { defer close(stopped); stop() }()
		// A draining server refuses turns on other threads: that is how it shows.
		var other struct{ Thread struct{ ID string } }
		eventually(t, "draining", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if other.Thread.ID == "" && c.Call(ctx, "thread/start", nil, &other) != nil {
				return true
			}
			err := c.Call(ctx, "turn/start", map[string]any{"threadId": other.Thread.ID, "input": []any{map[string]any{"type": "text", "text": "x"}}}, nil)
			return err != nil && strings.Contains(err.Error(), "draining")
		})
		close(hold)
		<-stopped
		raw, err := os.ReadFile(started.Thread.Path)
		if err != nil || !strings.Contains(string(raw), "just in time") {
			t.Errorf("the turn was not finished: %v", err)
		}
	})
}

func TestServerEndsWithAKilledOwner(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		owner := exec.Command(os.Args[0])
		owner.Env = append(newHome(t, "http://127.0.0.1:9/v1"), "CODEX_TEST_OWNER="+bin)
		out, err := owner.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := owner.Start(); err != nil {
			t.Fatal(err)
		}
		var log journal
		for sc := bufio.NewScanner(out); len(log.pids()) == 0 && sc.Scan(); {
			_, _ = log.Write(append(sc.Bytes(), '\n'))
		}
		_ = owner.Process.Kill()
		_ = owner.Wait()
		if len(log.pids()) != 1 {
			t.Fatalf("no server was started: %s", &log)
		}
		eventually(t, "gone", func() bool { return !alive(log.pids()[0]) })
	})
}

// A plain codex on this host must land on the same server, or it could not
// open the threads that are open here.
func TestPlainCodexJoinsTheSameServer(t *testing.T) {
	if _, err := exec.LookPath("tmux"); err != nil {
		lacking(t, "tmux is not installed")
	}
	eachCodex(t, func(t *testing.T, bin string) {
		env := newHome(t, endpoint(t, "seen from both sides", nil))
		project := t.TempDir()
		conf := filepath.Join(getenv(env, "CODEX_HOME"), "config.toml")
		f, err := os.OpenFile(conf, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = f.WriteString("[projects.\"" + project + "\"]\ntrust_level = \"trusted\"\n")
		_ = f.Close()
		e, _, _ := run(t, Config{Binary: bin, Environ: env, ShareControlSocket: true, Cwd: project})
		until(t, e, "ready", ready)
		c := connect(t, e)

		socket := filepath.Join(t.TempDir(), "s")
		tmux := func(args ...string) string {
			cmd := exec.Command("tmux", append([]string{"-S", socket, "-f", "/dev/null"}, args...)...)
			cmd.Env, cmd.Dir = append(env, "TERM=xterm-256color"), project
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Logf("tmux %v: %v: %s", args, err, out)
			}
			return string(out)
		}
		tmux("new-session", "-d", "-x", "100", "-y", "30", bin)
		t.Cleanup(func() { tmux("kill-server") })
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("the terminal:\n%s", tmux("capture-pane", "-p"))
			}
		})
		started := c.await("thread/started")
		var note struct{ Thread struct{ ID string } }
		if err := json.Unmarshal(started, &note); err != nil {
			t.Fatal(err)
		}
		var loaded struct{ Data []string }
		c.call("thread/loaded/list", nil, &loaded)
		if len(loaded.Data) != 1 || loaded.Data[0] != note.Thread.ID {
			t.Errorf("loaded = %v, want [%s]", loaded.Data, note.Thread.ID)
		}
		tmux("send-keys", "hello")
		eventually(t, "typed", func() bool { return strings.Contains(tmux("capture-pane", "-p"), "hello") })
		tmux("send-keys", "Enter")
		eventually(t, "shown in the terminal", func() bool { return strings.Contains(tmux("capture-pane", "-p"), "seen from both sides") })
		var read json.RawMessage
		c.call("thread/read", map[string]any{"threadId": note.Thread.ID, "includeTurns": true}, &read)
		if !strings.Contains(string(read), "seen from both sides") {
			t.Errorf("thread/read = %s", read)
		}
		if copies, _ := os.ReadDir(filepath.Join(e.cfg.home(), "packages")); len(copies) > 0 {
			t.Errorf("codex started a daemon of its own: %v", copies)
		}
	})
}
