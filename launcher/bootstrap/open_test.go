//go:build linux

package bootstrap

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// eachCodex runs f with each real Codex that CI names in TOWLINE_TEST_CODEX.
func eachCodex(t *testing.T, f func(t *testing.T, bin string)) {
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		lacking(t, "the real codex: set TOWLINE_TEST_CODEX to its binaries, separated by colons")
	}
	for bin := range strings.SplitSeq(list, ":") {
		t.Run(filepath.Base(filepath.Dir(bin)), func(t *testing.T) {
			t.Parallel()
			f(t, bin)
		})
	}
}

// codexHost is a host with one Codex, which talks to nobody.
func codexHost(t *testing.T, bin string) *local {
	l := newLocal(t, "bash")
	// Codex warns about a home under the temporary directory.
	l.write(t, ".codex/config.toml", "check_for_update_on_startup = false\n[analytics]\nenabled = false\n[features]\nplugins = false\napps = false\nremote_plugin = false\n", 0o600)
	l.env = append(l.env, "HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1", "TMPDIR="+t.TempDir())
	if err := os.MkdirAll(filepath.Join(l.home, ".local/bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bin, filepath.Join(l.home, ".local/bin/codex")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.endAll(t) })
	return l
}

// endAll ends what was left running on purpose: daemons, known by the home in
// their command line or environment.
func (l *local) endAll(t testing.TB) {
	t.Helper()
	for _, pid := range l.processes("app-server") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	within(t, "the daemons to end", func() bool { return len(l.processes("app-server")) == 0 })
}

// processes are those whose environment has this host's home and whose command
// line has word.
func (l *local) processes(word string) []int {
	var out []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(dir), "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		if strings.Contains("\x00"+string(env), "\x00HOME="+l.home+"\x00") && strings.Contains(string(args), word) {
			out = append(out, pid)
		}
	}
	return out
}

// within waits for what becomes true by itself.
func within(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// client is one app-server connection.
type client struct {
	*rpc.Peer
	rpc.Stream
	done chan struct{}
}

type deaf struct{}

func (deaf) Request(_ context.Context, r *rpc.Request)             { r.Fail(protocol.Errorf("deaf")) }
func (deaf) Notification(context.Context, string, json.RawMessage) {}

// converse initializes a connection and returns what the server calls itself.
func converse(t testing.TB, s rpc.Stream) (c *client, agent string) {
	t.Helper()
	c = &client{Peer: rpc.NewPeer(s, deaf{}), Stream: s, done: make(chan struct{})}
	go func() { defer close(c.done); _ = c.Serve(context.WithoutCancel(t.Context())) }()
	var got protocol.Initialized
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Call(ctx, "initialize", protocol.InitializeParams{ClientInfo: protocol.ClientInfo{Name: "test", Version: "1"}}, &got); err != nil {
		t.Fatalf("initialize: %v", err)
	}
	return c, got.UserAgent
}

func (c *client) hangUp() {
	c.Peer.Close(nil)
	<-c.done
	_ = c.Stream.Close(nil)
}

func open(t testing.TB, l *local, rep Report, ch Choice) (rpc.Stream, Opened) {
	t.Helper()
	s, opened, err := Open(t.Context(), l, rep, ch)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s, opened
}

func choose(t testing.TB, rep Report, o Options) Choice {
	t.Helper()
	ch, err := Choose(rep, o)
	if err != nil {
		t.Fatalf("Choose: %v", err)
	}
	return ch
}

func TestCodexIsStartedOnceAndOutlivesItsConnections(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		l := codexHost(t, bin)
		l.write(t, ".bashrc", "export FROM_RC=yes\n", 0o600)
		l.write(t, ".bash_profile", ". ~/.bashrc\n", 0o600)
		rep := probe(t, l, options(t))
		ch := choose(t, rep, options(t))
		if ch.Action != Start || ch.Candidate.Kind != Codex {
			t.Fatalf("chose %+v", ch)
		}
		ch.Env = map[string]string{"EXTRA": "it's set"}
		var wg sync.WaitGroup
		var mu sync.Mutex
		started := 0
		for range 3 {
			wg.Go(func() {
				s, opened, err := Open(t.Context(), l, rep, ch)
				if err != nil {
					t.Errorf("Open: %v", err)
					return
				}
				if opened.CutEndsTurn || opened.Resumable || opened.Note != "" {
					t.Errorf("opened %+v", opened)
				}
				mu.Lock()
				if opened.Started {
					started++
				}
				mu.Unlock()
				c, agent := converse(t, s)
				if !strings.Contains(agent, opened.Version) {
					t.Errorf("%q is not %s", agent, opened.Version)
				}
				c.hangUp()
			})
		}
		wg.Wait()
		if started != 1 {
			t.Errorf("%d connections started a daemon, want 1", started)
		}
		daemons := l.processes("--listen")
		if len(daemons) != 1 {
			t.Fatalf("%d daemons after all hung up, want 1", len(daemons))
		}
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", daemons[0]))
		for _, want := range []string{"FROM_RC=yes", "EXTRA=it's set"} {
			if !strings.Contains("\x00"+string(env), "\x00"+want+"\x00") {
				t.Errorf("the daemon's environment lacks %s", want)
			}
		}
		if strings.Contains(string(env), "RESOLVING_ENVIRONMENT") {
			t.Error("the daemon thinks that its environment is being resolved")
		}
		entries, _ := filepath.Glob(filepath.Join(l.home, ".codex/packages/*"))
		if len(entries) > 0 {
			t.Errorf("Codex copied itself: %v", entries)
		}

		// The next look finds it running, and joins.
		rep = probe(t, l, options(t))
		ch = choose(t, rep, options(t))
		if ch.Action != Join || !ch.Candidate.Private {
			t.Fatalf("with a daemon running it chose %+v\n%+v", ch, rep.Candidates)
		}
		s, opened := open(t, l, rep, ch)
		if opened.Started {
			t.Error("it started another")
		}
		c, _ := converse(t, s)
		c.hangUp()
		// Killed without a word, its link stays: nobody answers, a new one starts.
		if err := syscall.Kill(daemons[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		within(t, "the daemon to end", func() bool { return len(l.processes("--listen")) == 0 })
		s, opened = open(t, l, rep, ch)
		if !opened.Started {
			t.Error("nothing was started in the place of the dead daemon")
		}
		c, _ = converse(t, s)
		c.hangUp()
	})
}

func TestRunningCodexDaemonIsJoined(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		l := codexHost(t, bin)
		cmd := exec.Command(bin, "app-server", "--listen", "unix://") //nolint:noctx // endAll ends it
		cmd.Env = append([]string{"HOME=" + l.home}, l.env...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		sock := filepath.Join(l.home, ".codex/app-server-control/app-server-control.sock")
		within(t, "codex to listen", func() bool { _, err := os.Stat(sock); return err == nil })
		rep := probe(t, l, options(t))
		ch := choose(t, rep, options(t))
		if ch.Action != Join || ch.Candidate.Private || ch.Candidate.Socket != sock {
			t.Fatalf("chose %+v\n%+v", ch, rep.Candidates)
		}
		s, _ := open(t, l, rep, ch)
		c, _ := converse(t, s)
		c.hangUp()
		if n := len(l.processes("--listen")); n != 1 {
			t.Errorf("%d daemons, want the one that ran", n)
		}
	})
}

func TestCodexWithoutADaemonSaysThatACutEndsTheTurn(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		l := codexHost(t, bin)
		rep := probe(t, l, options(t))
		ch := choose(t, rep, options(t))
		// A file in the way of the folder for its socket.
		l.write(t, ".local/state/towline", "", 0o600)
		s, opened := open(t, l, rep, ch)
		if !opened.CutEndsTurn || !strings.Contains(opened.Note, "ends the running turn") || !strings.Contains(opened.Note, "towline") {
			t.Errorf("opened %+v", opened)
		}
		c, _ := converse(t, s)
		c.hangUp()
		within(t, "the child to end", func() bool { return len(l.processes("app-server")) == 0 })
	})
}

// Homes with blanks and quotes in their names exist.
func TestHomeWithAnAwkwardName(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		l := codexHost(t, bin)
		awkward := filepath.Join(t.TempDir(), "it's $HOME; a  \"home\" \\ `id`*")
		if err := os.Rename(l.home, awkward); err != nil {
			t.Fatal(err)
		}
		l.home = awkward
		t.Cleanup(func() { l.endAll(t) })
		rep := probe(t, l, options(t))
		ch := choose(t, rep, options(t))
		if ch.Action != Start || ch.Candidate.Path != filepath.Join(awkward, ".local/bin/codex") {
			t.Fatalf("chose %+v", ch)
		}
		s, opened := open(t, l, rep, ch)
		if !opened.Started {
			t.Errorf("opened %+v", opened)
		}
		c, _ := converse(t, s)
		c.hangUp()
		if ch := choose(t, probe(t, l, options(t)), options(t)); ch.Action != Join {
			t.Errorf("then it chose %+v", ch)
		}
		rep = probe(t, l, options(t))
		if ch := install(t, l, rep, pretend(t, "1.0.0", 10)); !strings.HasPrefix(ch.Candidate.Path, awkward) {
			t.Errorf("installed %+v", ch)
		}
	})
}
