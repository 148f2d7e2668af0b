package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"towline/integration/peer"
)

// The words of our own UI that journeys wait for. They are part of what people
// see (shared with docs), so a change here is a change for them.
const (
	askCommand = "Run this command?"
	// answerNow and denyNow are shown once the question takes keys: one that has
	// just come up does not, because somebody may be typing.
	answerNow = "y run"
	denyNow   = "r deny with a reason"
	askFile   = "Apply this change?"
	byRote    = "rehearsal"
)

// What a person can do over a plain ssh, in one session.
func TestSSHJourney(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	term := h.Attach(80, 24)
	term.Wait(byRote)

	say(term, "hello there")
	term.Wait("Rehearsal model")

	say(term, "run touch approved.txt outside the sandbox")
	term.Wait(askCommand, "touch approved.txt", answerNow)
	term.Keys("y")
	term.WaitGone(askCommand)
	term.Wait("ended well")
	if _, err := os.Stat(filepath.Join(h.Project, "approved.txt")); err != nil {
		t.Errorf("approved, but not run: %v", err)
	}

	say(term, "write note.txt with ahoy")
	term.Wait("note.txt", "ahoy", "+1")
	if got, err := os.ReadFile(filepath.Join(h.Project, "note.txt")); err != nil || strings.TrimSpace(string(got)) != "ahoy" {
		t.Errorf("the file holds %q, %v", got, err)
	}

	// Unicode arrives as typed.
	say(term, "hallo Zürich 東京 🚢")
	term.Wait("Zürich 東京")

	// The picture follows the terminal.
	for _, size := range [][2]int{{120, 40}, {60, 20}, {200, 50}, {80, 24}} {
		term.Resize(size[0], size[1])
		term.WaitMatch(`(?s)Zürich.*rehearsal|rehearsal`)
	}

	term.Type("/quit")
	term.Keys("Enter")
	term.Wait("[exit 0]")
}

// The words said with a denial reach the agent, and the command does not run.
func TestDenyWithAReason(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	term := h.Attach(90, 28)
	term.Wait(byRote)
	say(term, "run touch denied.txt outside the sandbox")
	term.Wait(askCommand, denyNow)
	term.Keys("r")
	term.Wait("tell it why")
	term.Type("use the staging host")
	term.Keys("Enter")
	term.WaitGone(askCommand)
	term.Wait("✔ done", "use the staging host")
	if _, err := os.Stat(filepath.Join(h.Project, "denied.txt")); err == nil {
		t.Error("denied, but run")
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", "cat "+h.Home+"/threads/*.jsonl").Output()
	if err != nil || !strings.Contains(string(out), "function_call_output") || !strings.Contains(string(out), "use the staging host") {
		t.Errorf("the model was not told: %v", err)
	}
}

func TestSSHInterruptKeepsTheSession(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	term := h.Attach(80, 24)
	term.Wait(byRote)
	say(term, "count to 500 slowly")
	term.Wait("1 2 3")
	term.Keys("C-c")
	term.Wait("interrupted")
	say(term, "hello there")
	term.Wait("Rehearsal model")
}

// A command's exit status reaches the shell that ran ssh.
func TestSSHExitStatus(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	for name, tc := range map[string]struct {
		args []string
		want int
		says string
	}{
		"help":            {[]string{"help"}, 0, "app-server"},
		"unknown command": {[]string{"rm", "-rf"}, 127, "help"},
		"no terminal":     {nil, 1, "ssh -t"},
	} {
		t.Run(name, func(t *testing.T) {
			args := h.SSHArgs("", tc.args...)
			cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
			out, err := cmd.CombinedOutput()
			code := 0
			if exit, ok := err.(*exec.ExitError); ok {
				code = exit.ExitCode()
			}
			if code != tc.want || !strings.Contains(string(out), tc.says) {
				t.Errorf("exit %d, said %q", code, out)
			}
		})
	}
}

// Kill the client in the middle of a turn: the turn goes on, the approval
// waits, and the next ssh lands in the same thread and can answer it.
func TestDropTheLinkAndReturn(t *testing.T) {
	eachEngineOnce(t, func(t *testing.T, h *peer.Host) {
		first := h.Attach(90, 28)
		first.Wait("? help")
		say(first, "run touch later.txt outside the sandbox")
		first.Wait(askCommand)
		killClient(t, first)
		first.Wait("[exit")

		second := h.Attach(90, 28)
		second.Wait(askCommand, "touch later.txt", answerNow)
		second.Keys("y")
		second.Wait("ended well")

		say(second, "count to 60 slowly")
		second.Wait("1 2 3")
		killClient(t, second)
		third := h.Attach(90, 28)
		third.WaitMatch(`58\s+59\s+60`)
		third.Wait("touch later.txt")
	})
}

// The same when the network goes away under the client.
func TestCutTheConnectionAndReturn(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	link := peer.NewLink(t, h.SSH)
	args := h.SSHArgs("", "-t")
	_, port, err := net.SplitHostPort(link.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range args {
		if a == "-p" {
			args[i+1] = port
		}
	}
	// The key is known for the host's own port.
	args = append([]string{"ssh", "-o", "HostKeyAlias=[" + strings.Replace(h.SSH, ":", "]:", 1)}, args[1:len(args)-1]...)
	term := peer.Open(t, 90, 28, nil, args...)
	term.Wait(byRote)
	say(term, "run touch across.txt outside the sandbox")
	term.Wait(askCommand)
	link.Cut()
	term.Wait("[exit 255]")
	again := h.Attach(90, 28)
	again.Wait(askCommand, "touch across.txt", answerNow)
	again.Keys("y")
	again.Wait("ended well")
}

// killClient kills the ssh process of a terminal, as a vanished laptop would.
func killClient(t *testing.T, term *peer.Terminal) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "pgrep", "-P", term.PID(), "ssh").Output()
	if err != nil {
		t.Fatalf("no ssh under the terminal: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// Three places at once: two ssh sessions and a stock codex. All see the same
// stream; a prompt answered in one closes in the others and says who; a late
// joiner sees what is running now.
func TestThreeAtOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, h *peer.Host, c peer.Codex) {
		one := h.Attach(100, 30)
		one.Wait("? help")
		say(one, "count to 80 slowly")
		one.Wait("1 2 3")

		// Joins while the answer is being written: sees it from its beginning.
		two := peer.Open(t, 100, 30, nil, h.SSHArgs(h.AddKey("tablet", ""))...)
		openThread(two, "count to 80")
		two.Wait("1 2 3 4 5 6")

		three := stock(t, c, h.WS(), "resume", "--last")
		three.Wait("count to 80 slowly")
		three.Wait("1 2 3 4 5 6")
		for _, term := range []*peer.Terminal{one, two, three} {
			term.WaitMatch(`78\s+79\s+80`)
		}

		say(two, "run echo from-the-tablet outside the sandbox")
		one.Wait(askCommand, answerNow)
		three.Wait("Would you like to run the following command?")
		one.Keys("y")
		three.WaitGone("Would you like to run the following command?")
		two.WaitGone(askCommand)
		two.Wait("laptop") // who answered
		for _, term := range []*peer.Terminal{one, two, three} {
			term.Wait("from-the-tablet", "ended well")
		}
	})
}

// openThread picks a thread by its first words.
func openThread(term *peer.Terminal, words string) {
	term.WaitMatch(`\S`)
	term.Keys("C-t")
	term.Wait(words)
	term.Keys("Enter")
}

// `ssh host app-server` is the protocol on stdio, for programs.
func TestAppServerOverSSH(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	for name, extra := range map[string][]string{"exec": {"app-server"}, "subsystem": {"-s", "codex-app-server"}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
			defer cancel()
			args := h.SSHArgs("")
			if name == "subsystem" {
				args = append(args[:len(args)-1], "-s", args[len(args)-1], "codex-app-server")
			} else {
				args = append(args, extra...)
			}
			cmd := exec.CommandContext(ctx, args[0], args[1:]...)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := in.Write([]byte(`{"id":"a","method":"initialize","params":{"clientInfo":{"name":"t","version":"1"}}}` + "\n" +
				`{"id":2,"method":"thread/list","params":{}}` + "\n")); err != nil {
				t.Fatal(err)
			}
			answers := map[string]bool{}
			for r := bufio.NewScanner(out); len(answers) < 2 && r.Scan(); {
				var m struct {
					ID     json.RawMessage
					Result json.RawMessage
				}
				if err := json.Unmarshal(r.Bytes(), &m); err != nil {
					t.Fatalf("stdout carried %q", r.Bytes())
				}
				if m.Result != nil {
					answers[string(m.ID)] = true
				}
			}
			if !answers[`"a"`] || !answers["2"] {
				t.Errorf("answers: %v", answers)
			}
			_ = in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("after end of input: %v", err)
			}
		})
	}
}

// A script pipes its requests in and reads the answers; the end of its input
// must not cost it any.
func TestPipedRequestsAreAnswered(t *testing.T) {
	eachEngineOnce(t, func(t *testing.T, h *peer.Host) {
		args := h.SSHArgs("", "app-server")
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Stdin = strings.NewReader(`{"id":1,"method":"initialize","params":{"clientInfo":{"name":"t","version":"1"}}}` + "\n" +
			`{"id":2,"method":"thread/list","params":{}}` + "\n" + `{"id":3,"method":"model/list","params":{}}` + "\n")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{`"id":1,`, `"id":2,`, `"id":3,`} {
			if !strings.Contains(string(out), id) {
				t.Errorf("no answer with %s in %.300q", id, out)
			}
		}
	})
}

// A key with less than the owner's role sees the thread but does not act.
func TestObserverKeyOnlyWatches(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	owner := h.Attach(90, 28)
	owner.Wait(byRote)
	say(owner, "run touch never.txt outside the sandbox")
	owner.Wait(askCommand)

	watcher := peer.Open(t, 90, 28, nil, h.SSHArgs(h.AddKey("auditor", "observer"))...)
	openThread(watcher, "touch never.txt")
	watcher.Wait("touch never.txt", "observer")
	watcher.Keys("y")
	owner.Wait(askCommand, "d deny") // the keys are named once they count
	if _, err := os.Stat(filepath.Join(h.Project, "never.txt")); err == nil {
		t.Fatal("an observer approved a command")
	}
	owner.Keys("d")
	owner.WaitGone(askCommand)
}

// The daemon comes back after a crash: the UI waits for it, and the thread,
// with the turn that was cut marked as such, is still there.
func TestDaemonCrashAndReturn(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	term := h.Attach(90, 28)
	term.Wait(byRote)
	say(term, "hello before the crash")
	term.Wait("Rehearsal model", "✔ done")
	h.Kill()
	term.Wait("[exit")
	h.Restart()
	again := h.Attach(90, 28)
	again.Wait("hello before the crash", "Rehearsal model")
}

func TestStatusAndAudit(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	term := h.Attach(80, 24)
	term.Wait(byRote)
	out, stderr, err := h.Run("status", "--json")
	if err != nil {
		t.Fatalf("status: %v\n%s", err, stderr)
	}
	var st struct {
		SSH      string
		HostKey  string
		Engine   struct{ Kind, State string }
		Attached []struct{ Name, Via string }
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	found := false
	for _, a := range st.Attached {
		found = found || a.Name == "laptop" && a.Via == "ssh"
	}
	if st.SSH != h.SSH || st.HostKey != h.HostKey || st.Engine.State != "ready" || !found {
		t.Errorf("status: %s", out)
	}
	if out, _, err := h.Run("audit", "verify"); err != nil || !strings.Contains(out, "whole") {
		t.Errorf("audit: %q, %v", out, err)
	}
	if _, stderr, err := h.Run("serve"); err == nil || !strings.Contains(stderr, "hint:") {
		t.Errorf("a second daemon on one home: %v, %q", err, stderr)
	}
}
