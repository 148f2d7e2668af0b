//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

// proxyProcess is one program that carries bytes to a daemon.
type proxyProcess struct {
	io.Writer
	io.Reader
	cmd  *exec.Cmd
	once sync.Once
}

// Close is kill -9: the process gets no chance to say anything.
func (p *proxyProcess) Close() error {
	p.once.Do(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return nil
}

// journey is a client whose link is such a process.
type journey struct {
	t    *testing.T
	args []string // the program that carries the bytes
	env  []string
	peer *rpc.Peer

	mu       sync.Mutex // guards what follows
	proxy    *proxyProcess
	links    int
	deltas   int
	text     map[string]string // of agent messages, from their deltas
	final    map[string]string // as completed
	started  map[string]int    // items, by id
	turns    map[string]int    // ends, by status
	asked    int
	turnDone chan string
}

func (j *journey) dial(ctx context.Context) (rpc.Stream, error) {
	// The client under test may redial after the test's context has ended.
	p := &proxyProcess{cmd: exec.Command(j.args[0], j.args[1:]...)}
	p.cmd.Env, p.cmd.Stderr = j.env, os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.Writer, p.Reader = in, out
	s, err := rpc.DialWebSocket(ctx, p, rpc.WebSocketOptions{Resume: true})
	if err != nil {
		return nil, err
	}
	if !rpc.Resumes(s) {
		return nil, fmt.Errorf("%w: the daemon does not resume", rpc.ErrRefused)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.proxy = p
	j.links++
	return s, nil
}

// kill ends the proxy of the moment.
func (j *journey) kill() {
	j.mu.Lock()
	p := j.proxy
	j.mu.Unlock()
	_ = p.cmd.Process.Kill()
}

func (j *journey) Request(_ context.Context, r *rpc.Request) {
	j.mu.Lock()
	j.asked++
	j.mu.Unlock()
	j.kill() // the answer has to find its way
	r.Reply(map[string]string{"decision": "accept"})
}

func (j *journey) Notification(_ context.Context, method string, params json.RawMessage) {
	var n struct {
		ItemID string `json:"itemId"`
		Delta  string `json:"delta"`
		Item   struct {
			ID   string `json:"id"`
			Type string `json:"type"`
			Text string `json:"text"`
		} `json:"item"`
		Turn struct {
			Status string `json:"status"`
		} `json:"turn"`
	}
	if err := json.Unmarshal(params, &n); err != nil {
		j.t.Errorf("%s: %v", method, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	switch method {
	case "item/agentMessage/delta":
		j.text[n.ItemID] += n.Delta
		if j.deltas++; j.deltas%40 == 0 {
			go j.kill()
		}
	case "item/started":
		j.started[n.Item.ID]++
	case "item/completed":
		if n.Item.Type == "agentMessage" {
			j.final[n.Item.ID] = n.Item.Text
		}
	case "turn/completed":
		j.turns[n.Turn.Status]++
		j.turnDone <- n.Turn.Status
	}
}

// privateHome makes a folder for a daemon's home, short enough for a socket.
func privateHome(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// The process that carries the bytes is killed again and again, while words
// stream and while a question waits: each word arrives once and in its place,
// and the answer reaches the agent.
func TestKilledProxiesLoseNothing(t *testing.T) {
	dir := privateHome(t)
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf("project = %q\n[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n", dir)
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	paths, err := config.Locate(func(name string) string { return map[string]string{"TOWLINE_HOME": home}[name] })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r, err := stopDaemon(context.Background(), paths); err != nil || r.Status != "stopped" {
			t.Errorf("stop: %+v, %v", r, err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(paths.Log())
			t.Logf("the daemon said:\n%s", log)
		}
	})
	travel(t, []string{"towline", "app-server", "proxy", "--start"}, append(os.Environ(), "TOWLINE_HOME="+home, "HOME="+dir, "XDG_RUNTIME_DIR="))
}

// The same through our own SSH door, with the ssh client killed.
func TestKilledSSHClientsLoseNothing(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("LACKING in CI: ssh")
		}
		t.Skip("SKIPPED, LACKING: ssh")
	}
	self, err := exec.LookPath("towline")
	if err != nil {
		t.Fatal(err)
	}
	host := trial{dir: privateHome(t)}
	if err := host.prepare(); err != nil {
		t.Fatal(err)
	}
	serving, r, err := host.start(t.Context(), self)
	if err != nil {
		t.Fatal(err)
	}
	defer serving.stop()
	if err := host.knowHost(r); err != nil {
		t.Fatal(err)
	}
	args := []string{"ssh", "-T"}
	for _, a := range host.sshArgs(r.SSH) {
		if a != "-t" {
			args = append(args, a)
		}
	}
	travel(t, append(args, "app-server", "proxy"), os.Environ())
}

// travel has three turns over links that do not last.
func travel(t *testing.T, args, env []string) {
	t.Helper()
	j := &journey{
		t: t, args: args, env: env, text: map[string]string{}, final: map[string]string{}, started: map[string]int{}, turns: map[string]int{},
		turnDone: make(chan string, 10),
	}
	r := rpc.NewResumable(rpc.ResumeOptions{Dial: j.dial})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := r.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	j.peer = rpc.NewPeer(r, j)
	served := make(chan error, 1)
	go func() { served <- j.peer.Serve(ctx) }()
	call := func(method string, params, result any) {
		t.Helper()
		if err := j.peer.Call(ctx, method, params, result); err != nil {
			t.Fatalf("%s: %v (link: %+v)", method, err, r.State())
		}
	}
	call("initialize", protocol.InitializeParams{ClientInfo: protocol.ClientInfo{Name: "journey", Version: "1"}}, nil)
	var opened protocol.ThreadOpened
	call("thread/start", map[string]any{}, &opened)
	for _, say := range []string{"count to 300", "run echo over the wire outside the sandbox", "count to 200"} {
		call("turn/start", map[string]any{"threadId": opened.Thread.ID, "input": []protocol.UserInput{protocol.Text(say)}}, nil)
		select {
		case status := <-j.turnDone:
			if status != "completed" {
				t.Errorf("%q ended as %s", say, status)
			}
		case <-ctx.Done():
			t.Fatalf("%q never ended; link: %+v", say, r.State())
		}
	}
	_ = j.peer.Flush(ctx)
	j.peer.Close(nil)
	<-served
	if err := r.Close(nil); err != nil {
		t.Errorf("Close: %v", err)
	}

	j.mu.Lock()
	defer j.mu.Unlock()
	_ = j.proxy.Close()
	for id, n := range j.started {
		if n != 1 {
			t.Errorf("item %s began %d times", id, n)
		}
	}
	all := ""
	for id, want := range j.final {
		if j.text[id] != want {
			t.Errorf("item %s streamed as\n%q\nand ended as\n%q", id, j.text[id], want)
		}
		all += want
	}
	if !strings.Contains(all, "298 299 300") || !strings.Contains(all, "198 199 200") {
		t.Errorf("the agent said %q", all)
	}
	if j.asked != 1 || j.turns["completed"] != 3 {
		t.Errorf("%d questions, turns %v", j.asked, j.turns)
	}
	if j.links < 10 {
		t.Errorf("only %d links", j.links)
	}
	t.Logf("%d deltas over %d links", j.deltas, j.links)
}
