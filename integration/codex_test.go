package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/integration/peer"
)

// engines are the two that can stand behind a host; every journey of a stock
// client runs on both. Each answers with the rehearsal model: the native one in
// memory, the real Codex over loopback HTTP.
var engines = map[string]func(t *testing.T, c peer.Codex, args ...string) *peer.Host{
	"native": func(t *testing.T, _ peer.Codex, args ...string) *peer.Host {
		return peer.Start(t, peer.HostConfig{Args: args})
	},
	"codex": func(t *testing.T, c peer.Codex, args ...string) *peer.Host { return codexHost(t, c, args...) },
}

// codexHost is a host whose engine is the real Codex.
func codexHost(t *testing.T, c peer.Codex, args ...string) *peer.Host {
	t.Helper()
	return peer.Start(t, peer.HostConfig{
		TOML: fmt.Sprintf("[engine]\nkind = \"codex\"\n[engine.codex]\nbinary = %q\n", c.Bin),
		Env:  peer.CodexEnv(t, peer.Rehearsal(t)),
		Args: args,
	})
}

// eachEngine runs f for every Codex version as the client, on every engine.
func eachEngine(t *testing.T, f func(t *testing.T, h *peer.Host, c peer.Codex)) {
	peer.EachCodex(t, func(t *testing.T, c peer.Codex) {
		for name, start := range engines {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // most of a journey is waiting
				f(t, start(t, c, "--listen", "ws://127.0.0.1:0"), c)
			})
		}
	})
}

// eachEngineOnce is eachEngine where the client is not Codex.
func eachEngineOnce(t *testing.T, f func(t *testing.T, h *peer.Host)) {
	c := peer.Codexes(t)[0]
	for name, start := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, start(t, c))
		})
	}
}

// stock opens the real Codex UI on a ws:// address.
func stock(t *testing.T, c peer.Codex, url string, args ...string) *peer.Terminal {
	t.Helper()
	argv := append([]string{c.Bin}, args...)
	term := peer.Open(t, 110, 40, peer.CodexEnv(t, "http://127.0.0.1:9/v1"), append(argv, "--remote", url)...)
	return term
}

// outside is a folder the workspace-write sandbox does not cover: temporary
// folders are inside it.
func outside(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(cache, "towline-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// say types a line and sends it. It waits for the text to be drawn, and as long
// as a person's hand would take: Codex takes an Enter that comes too soon for
// part of a paste.
func say(term *peer.Terminal, text string) {
	term.Type(text)
	term.Wait(text[:min(len(text), 40)])
	time.Sleep(200 * time.Millisecond)
	term.Keys("Enter")
}

// One person's day with a stock client: everything point 5 of the main job
// names, in one terminal, so that each step also proves the one before left the
// client in good order.
func TestStockCodexJourney(t *testing.T) {
	eachEngine(t, func(t *testing.T, h *peer.Host, c peer.Codex) {
		link := peer.NewLink(t, strings.TrimPrefix(h.WS(), "ws://"))
		term := stock(t, c, "ws://"+link.Addr)
		term.Wait("Ask Codex to do anything")

		// Prompt and streamed answer.
		say(term, "hello there")
		term.Wait("Rehearsal", "Worked for")

		// Command approval: asked, approved, run for real.
		say(term, "run touch made-by-approval outside the sandbox")
		term.Wait("Would you like to run the following command?", "touch made-by-approval")
		if _, err := os.Stat(filepath.Join(h.Project, "made-by-approval")); err == nil {
			t.Fatal("the command ran before it was approved")
		}
		term.Keys("y")
		term.Wait("ended well")
		if _, err := os.Stat(filepath.Join(h.Project, "made-by-approval")); err != nil {
			t.Errorf("approved, but not run: %v", err)
		}

		// File approval, with the change shown before it happens.
		outside := filepath.Join(outside(t), "note.txt")
		say(term, "write "+outside+" with ahoy")
		term.Wait("Would you like to make the following edits?", "+ahoy")
		term.Keys("y")
		term.WaitGone("Would you like to make the following edits?")
		term.Wait("I wrote")
		if got, err := os.ReadFile(outside); err != nil || strings.TrimSpace(string(got)) != "ahoy" {
			t.Errorf("the file holds %q, %v", got, err)
		}

		// Inside the project no question is asked.
		say(term, "write inside.txt with ahoy")
		term.Wait("inside.txt")
		term.WaitMatch(`(?s)inside\.txt.*Worked for`)
		if got, err := os.ReadFile(filepath.Join(h.Project, "inside.txt")); err != nil || strings.TrimSpace(string(got)) != "ahoy" {
			t.Errorf("inside.txt holds %q, %v; the screen shows:\n%s", got, err, term.Screen())
		}

		// Interrupt.
		say(term, "count to 400 slowly")
		term.Wait("1 2 3")
		term.Keys("Escape")
		term.Wait("Conversation interrupted")

		// Steer: what is typed while a turn runs reaches the same turn.
		say(term, "count to 30 slowly")
		term.WaitMatch(`1 2 3 4 5\b`)
		say(term, "hello from the side")
		term.WaitMatch(`(?s)hello from the side.*Worked for`)

		// A lost link comes back to the same thread by itself.
		link.Cut()
		term.Wait("Reconnecting to server")
		link.Mend()
		term.WaitGone("Reconnecting to server")
		say(term, "hello again after the cut")
		term.WaitMatch(`(?s)hello again after the cut.*Rehearsal.*Worked for`)

		// /diff shows the project's changes. On a busy machine Codex 0.166 was once
		// seen to leave a file out; asked again it has it.
		say(term, "/diff")
		term.Wait("close")
		if !term.Shows("inside.txt", 10*time.Second) {
			term.Keys("q")
			term.WaitGone("q close")
			say(term, "/diff")
		}
		term.Wait("inside.txt", "+ahoy", "close")
		term.Keys("q")
		term.WaitGone("q close")

		// /new, then /resume finds the old thread with its history.
		say(term, "/new")
		term.WaitGone("hello again after the cut")
		say(term, "/resume")
		term.WaitMatch(`(?s)Resume a previous session.*(now|ago) `)
		term.Keys("Enter")
		term.Wait("hello again after the cut")
	})
}

// With the codex engine, a plain `codex` typed on the host joins the same
// daemon: its thread shows up for a client of Towline.
func TestPlainCodexJoinsTheDaemon(t *testing.T) {
	peer.EachCodex(t, func(t *testing.T, c peer.Codex) {
		project := t.TempDir()
		env := peer.CodexEnv(t, peer.Rehearsal(t), project)
		h := peer.Start(t, peer.HostConfig{
			TOML: fmt.Sprintf("[engine]\nkind = \"codex\"\n[engine.codex]\nbinary = %q\n", c.Bin),
			Env:  env, Args: []string{"--project", project},
		})
		term := peer.Open(t, 100, 30, env, "sh", "-c", "cd "+project+" && exec "+c.Bin)
		term.Wait("Ask Codex to do anything")
		say(term, "run sleep 1000 outside the sandbox")
		term.Wait("Would you like to run the following command?")

		ours := h.Attach(100, 30)
		ours.Wait("run sleep 1000") // in the list of threads
		ours.Keys("Enter")
		ours.Wait(askCommand, "d deny")
		ours.Keys("d")
		term.WaitGone("Would you like to run the following command?")
		if n := managedDaemons(t, env); n != 0 {
			t.Errorf("codex copied itself and started a daemon of its own (%d)", n)
		}
	})
}

// managedDaemons counts the self-copies a plain codex leaves when it finds no
// daemon to join.
func managedDaemons(t *testing.T, env []string) int {
	t.Helper()
	for _, kv := range env {
		if home, ok := strings.CutPrefix(kv, "CODEX_HOME="); ok {
			found, err := filepath.Glob(filepath.Join(home, "packages", "app-server-daemon", "*"))
			if err != nil {
				t.Fatal(err)
			}
			return len(found)
		}
	}
	t.Fatal("no CODEX_HOME")
	return 0
}
