package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"towline/appserver/handover"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/integration/peer"
)

// upgradeTurns is what the issue asks for: "Upgrade hand-over during 50 running
// turns: none interrupted".
const upgradeTurns = 50

// slowCount takes about ten seconds: longer than it takes to begin fifty of them
// and to upgrade.
const slowCount = "count to 25 slowly"

// commander is a client of a daemon that may be replaced.
type commander struct {
	t    *testing.T
	name string
	dial func() (rpc.Stream, error)
	*talker
	turns map[protocol.ThreadID]string // begun by it
}

func newCommander(t *testing.T, name string, dial func() (rpc.Stream, error)) *commander {
	c := &commander{t: t, name: name, dial: dial, turns: make(map[protocol.ThreadID]string)}
	c.connect(false)
	t.Cleanup(func() { c.end() })
	return c
}

// connect comes back after the connection was lost, as clients do: at once, and
// again when that does not work.
func (c *commander) connect(answers bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), peer.Patience)
	defer cancel()
	for {
		s, err := c.dial()
		if err == nil {
			c.talker = newTalker(s, answers)
			if err = c.hello(ctx); err == nil {
				return
			}
			c.end()
		}
		if ctx.Err() != nil {
			c.t.Fatalf("%s cannot connect: %v", c.name, err)
		}
		time.Sleep(20 * time.Millisecond) // a client's pause
	}
}

func (c *commander) start(dir, prompt string) protocol.ThreadID {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), peer.Patience)
	defer cancel()
	var opened protocol.ThreadOpened
	if err := c.Call(ctx, "thread/start", map[string]any{"cwd": dir}, &opened); err != nil {
		c.t.Fatalf("%s: %v", c.name, err)
	}
	c.turns[opened.Thread.ID] = c.turn(opened.Thread.ID, prompt)
	return opened.Thread.ID
}

func (c *commander) turn(id protocol.ThreadID, prompt string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), peer.Patience)
	defer cancel()
	var started struct {
		Turn struct {
			ID string `json:"id"`
		} `json:"turn"`
	}
	if err := c.Call(ctx, "turn/start", map[string]any{"threadId": id, "input": []protocol.UserInput{protocol.Text(prompt)}}, &started); err != nil {
		c.t.Fatalf("%s: %v", c.name, err)
	}
	return started.Turn.ID
}

// resume watches its threads again.
func (c *commander) resume() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), peer.Patience)
	defer cancel()
	for id := range c.turns {
		if err := c.Call(ctx, "thread/resume", map[string]any{"threadId": id}, nil); err != nil {
			c.t.Errorf("%s: resume %s: %v", c.name, id, err)
		}
	}
}

// finish waits for its turns, each of which must have ended well, with every word
// of its answer heard on this connection.
func (c *commander) finish() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*peer.Patience)
	defer cancel()
	for id, turn := range c.turns {
		if err := c.ended(ctx, turn); err != nil {
			c.t.Errorf("%s, thread %s: %v", c.name, id, err)
			continue
		}
		text, whole := "", ""
		for _, s := range c.about(id) {
			switch s.Method {
			case "item/agentMessage/delta":
				text += protocol.StringField(json.RawMessage(s.Params), "delta")
			case "item/completed":
				item := protocol.Field(json.RawMessage(s.Params), "item")
				if protocol.StringField(item, "type") == "agentMessage" {
					whole += protocol.StringField(item, "text")
				}
			}
		}
		if text == "" || whole != text {
			c.t.Errorf("%s, thread %s: of %q it heard %q", c.name, id, whole, text)
		}
	}
}

// overSSH speaks the protocol to `ssh host app-server`.
func overSSH(t *testing.T, h *peer.Host) func() (rpc.Stream, error) {
	return func() (rpc.Stream, error) {
		argv := h.SSHArgs("", "app-server")
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return rpc.NewLines(struct {
			io.Reader
			io.WriteCloser
		}{out, in}), nil
	}
}

func over(t *testing.T, url string) func() (rpc.Stream, error) {
	return func() (rpc.Stream, error) { return transport.Dial(t.Context(), url) }
}

type upgradeResult struct {
	Status string `json:"status"`
	PID    int    `json:"pid"`
	From   struct {
		PID       int  `json:"pid"`
		Finishing bool `json:"finishing"`
	} `json:"from"`
}

func upgradeHost(t *testing.T, h *peer.Host) upgradeResult {
	t.Helper()
	out, errs, err := h.Run("app-server", "upgrade", "--json")
	var r upgradeResult
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || r.Status != "upgraded" {
		t.Fatalf("upgrade: %v\n%s%s\n%s", err, out, errs, h.Log())
	}
	return r
}

// gone waits until the elder of this pid has nothing left to do.
func elderGone(t *testing.T, h *peer.Host, pid int) {
	t.Helper()
	path := filepath.Join(h.Home, "run", fmt.Sprintf("e-%d", pid))
	for end := time.Now().Add(peer.Patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the process before is still at work\n%s", h.Log())
		}
	}
}

// Fifty turns run, watched over every transport; one waits for an answer, one is on
// a person's screen by ssh. The daemon is upgraded twice, and none of that ends.
func TestUpgradeDuringFiftyTurns(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{Args: []string{"--listen", "ws://127.0.0.1:0"}})
	screen := h.Attach(80, 24)
	screen.Wait("say what you want done")
	screen.Type("count to 30 slowly")
	screen.Keys("Enter")
	screen.Wait("Rehearsal: 1 2")

	dials := map[string]func() (rpc.Stream, error){
		"unix": over(t, "unix://"+daemonSocket(h)), "ws": over(t, h.WS()), "ssh": overSSH(t, h),
	}
	var all []*commander
	for name, dial := range dials {
		all = append(all, newCommander(t, name, dial))
	}
	asker := newCommander(t, "asker", dials["unix"])
	asking := asker.start(h.Project, "run echo asked >>asked.txt outside the sandbox")
	if err := asker.until(t.Context(), func() bool { return asker.asked() == 1 }); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() {
			for n := i; n < upgradeTurns; n += len(all) {
				c.start(h.Project, slowCount)
			}
		})
	}
	wg.Wait()

	first := upgradeHost(t, h)
	if !first.From.Finishing || first.PID == first.From.PID {
		t.Errorf("the upgrade says %+v", first)
	}
	second := upgradeHost(t, h) // the first elder is an elder still
	for _, c := range all {
		wg.Go(func() {
			<-c.done
			c.connect(false)
			c.resume()
		})
	}
	wg.Wait()
	<-asker.done
	asker.connect(true)
	asker.resume()
	for _, c := range append(all, asker) {
		c.finish()
	}
	screen.Wait("29 30 done.")
	if raw, err := os.ReadFile(filepath.Join(h.Project, "asked.txt")); err != nil || string(raw) != "asked\n" {
		t.Errorf("the command that was approved after the upgrade: %q, %v", raw, err)
	}
	var list struct {
		Data []protocol.Approval `json:"data"`
	}
	if err := asker.Call(t.Context(), protocol.ExtApprovalList, map[string]any{}, &list); err != nil || len(list.Data) != 1 || list.Data[0].State != protocol.ApprovalAnswered || list.Data[0].ThreadID != asking {
		t.Errorf("approvals: %+v, %v", list.Data, err)
	}
	elderGone(t, h, first.From.PID)
	elderGone(t, h, second.From.PID)
	// What has ended there goes on here, for those who watched it there.
	for _, c := range append(all, asker) {
		for id := range c.turns {
			c.turns[id] = c.turn(id, "count to 3")
			ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
			if err := c.ended(ctx, c.turns[id]); err != nil {
				t.Errorf("%s: a turn after the upgrade: %v", c.name, err)
			}
			cancel()
			break
		}
	}
	screen.Type("count to 4")
	screen.Keys("Enter")
	screen.Wait("1 2 3 4 done.")
	if out, errs, err := h.Run("audit", "verify"); err != nil {
		t.Errorf("audit: %v\n%s%s", err, out, errs)
	}
	if out, _, err := h.Run("status"); err != nil || !strings.Contains(out, fmt.Sprintf("pid %d", second.PID)) {
		t.Errorf("status: %v\n%s", err, out)
	}
}

// A successor that fails at any stage leaves the daemon as it was: no turn ends, and
// clients have to come back at most.
func TestFailedSuccessorChangesNothing(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	c := newCommander(t, "client", over(t, "unix://"+daemonSocket(h)))
	c.start(h.Project, slowCount)
	socket := handover.Socket(daemonSocket(h))

	heir, err := handover.Dial(t.Context(), socket, "test")
	if err != nil {
		t.Fatal(err)
	}
	heir.Close() // before it claimed anything
	if out, errs, err := h.Run("app-server", "upgrade", "--program", "/bin/false"); err == nil || !strings.Contains(errs, "goes on as before") {
		t.Errorf("a program that is none: %v\n%s%s", err, out, errs)
	}
	select {
	case <-c.done:
		t.Error("the client was cut before anything was claimed")
	default:
	}

	for range 2 { // it can happen again
		heir, err := handover.Dial(t.Context(), socket, "test")
		if err == nil {
			err = heir.Claim(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		<-c.done
		heir.Close() // before it was ready
		c.connect(false)
		c.resume()
	}
	c.finish()
	if r := upgradeHost(t, h); r.PID == h.PID() {
		t.Errorf("after all that: %+v", r)
	}
	if out, errs, err := h.Run("audit", "verify"); err != nil {
		t.Errorf("audit: %v\n%s%s", err, out, errs)
	}
}

// An elder that is killed is a crash of its turns, and of nothing else.
func TestElderThatIsKilledLosesItsTurnsOnly(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	c := newCommander(t, "client", over(t, "unix://"+daemonSocket(h)))
	doomed := c.start(h.Project, slowCount)
	r := upgradeHost(t, h)
	t.Cleanup(func() { // it is nobody's child any more
		_, _, _ = h.Run("app-server", "stop")
	})
	<-c.done
	c.connect(false)
	c.resume()
	other := c.start(h.Project, slowCount)
	if err := syscall.Kill(r.From.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
	defer cancel()
	if err := c.until(ctx, func() bool {
		for _, s := range c.about(doomed) {
			if s.Method == "turn/completed" {
				return protocol.StringField(protocol.Field(json.RawMessage(s.Params), "turn"), "status") == protocol.TurnInterrupted
			}
		}
		return false
	}); err != nil {
		t.Errorf("the turn of the process that was killed: %v", err)
	}
	if err := c.ended(ctx, c.turns[other]); err != nil {
		t.Errorf("a turn of the new daemon: %v", err)
	}
	if err := c.ended(ctx, c.turn(doomed, "count to 3")); err != nil {
		t.Errorf("the thread goes on: %v", err)
	}
}
