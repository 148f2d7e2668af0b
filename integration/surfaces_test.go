package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"towline/appserver/audit"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/integration/peer"
)

// newToken makes an access token on h.
func newToken(t *testing.T, h *peer.Host, args ...string) string {
	t.Helper()
	out, errs, err := h.Run(append([]string{"token", "create"}, args...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	return strings.TrimSpace(out)
}

// elsewhere runs towline as somebody who has a token of a host and nothing else.
func elsewhere(t *testing.T, token string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, peer.Binary(t), args...)
	cmd.Env = append(peer.Environ(t), "TOWLINE_HOME="+t.TempDir(), "TOKEN="+token)
	cmd.Dir = t.TempDir()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// spoken is a client with a token that a test speaks for.
func spoken(t *testing.T, h *peer.Host, token string) *rpc.Peer {
	t.Helper()
	s, err := transport.DialWith(t.Context(), h.WS(), transport.DialOptions{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	p := rpc.NewPeer(s, quiet{})
	served := make(chan struct{})
	go func() { defer close(served); _ = p.Serve(t.Context()) }()
	t.Cleanup(func() { p.Close(nil); <-served })
	if err := p.Call(t.Context(), "initialize", protocol.InitializeParams{ClientInfo: protocol.ClientInfo{Name: "spoken", Version: "1"}}, nil); err != nil {
		t.Fatal(err)
	}
	return p
}

// A turn begun over SSH, watched by a second client, its question answered by a
// third with an approver's token; a pipeline with an exec token that runs and
// reads the result; an observer who is refused: and the audit tells just that.
func TestOneHostManySurfaces(t *testing.T) {
	t.Parallel()
	h := peer.Start(t, peer.HostConfig{Args: []string{"--listen", "ws://127.0.0.1:0"}})
	watcher := newToken(t, h, "--name", "watcher", "--role", "observer")
	approver := newToken(t, h, "--name", "on-call", "--role", "approver")
	ci := newToken(t, h, "--name", "ci")
	remote := []string{"--remote", h.WS(), "--remote-auth-token-env", "TOKEN"}

	one := h.Attach(100, 30)
	one.Wait("? help")
	say(one, "run echo over-ssh outside the sandbox")
	one.Wait(askCommand)
	two := peer.Open(t, 100, 30, nil, h.SSHArgs(h.AddKey("tablet", "observer"))...)
	openThread(two, "echo over-ssh")
	two.Wait("echo over-ssh")

	// The observer sees the question, and what it says to it does not count.
	p := spoken(t, h, watcher)
	var open struct{ Data []protocol.Approval }
	if err := p.Call(t.Context(), protocol.ExtApprovalList, map[string]any{"open": true}, &open); err != nil || len(open.Data) != 1 {
		t.Fatalf("the observer sees %d questions, %v", len(open.Data), err)
	}
	asked := open.Data[0]
	err := p.Call(t.Context(), protocol.ExtApprovalAnswer, map[string]any{"id": asked.ID, "result": protocol.Decide(protocol.DecisionAccept)}, nil)
	if err == nil || !strings.Contains(err.Error(), `needs the role "approver"`) {
		t.Fatalf("an observer approved: %v", err)
	}
	if _, errs, code := elsewhere(t, watcher, append([]string{"approvals", "deny", asked.ID}, remote...)...); code != 5 || !strings.Contains(errs, "approver") {
		t.Errorf("exit %d: %s", code, errs)
	}

	// The pipeline neither sees it nor may answer it.
	c := spoken(t, h, ci)
	if err := c.Call(t.Context(), protocol.ExtApprovalList, map[string]any{}, &open); err != nil || len(open.Data) != 0 {
		t.Errorf("the pipeline sees %d questions, %v", len(open.Data), err)
	}
	for _, method := range []string{"thread/read", "thread/resume", "turn/interrupt"} {
		if err := c.Call(t.Context(), method, map[string]any{"threadId": asked.ThreadID, "turnId": "x"}, nil); err == nil {
			t.Errorf("the pipeline may %s of a person's thread", method)
		}
	}
	if err := c.Call(t.Context(), protocol.ExtApprovalAnswer, map[string]any{"id": asked.ID, "result": protocol.Decide(protocol.DecisionAccept)}, nil); err == nil {
		t.Error("the pipeline approved")
	}

	out, errs, code := elsewhere(t, approver, append([]string{"approvals", "approve", asked.ID}, remote...)...)
	if code != 0 || !strings.Contains(out, "approved") {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	for _, term := range []*peer.Terminal{one, two} {
		term.Wait("over-ssh", "ended well")
		term.Wait("on-call") // who answered
	}

	// The pipeline works, and its result can be read by a program.
	out, errs, code = elsewhere(t, ci, append([]string{"exec", "--json", "--sandbox", "workspace-write", "run echo from-the-pipeline"}, remote...)...)
	var result struct {
		Type, Status, Message string
		ThreadID              string `json:"thread_id"`
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &result); err != nil || code != 0 || result.Type != "result" ||
		result.Status != "completed" || !strings.Contains(result.Message, "from-the-pipeline") {
		t.Fatalf("exit %d, %v\n%s\n%s", code, err, out, errs)
	}
	if out, _, code := elsewhere(t, ci, append([]string{"exec", "--json", "--sandbox", "danger-full-access", "run id"}, remote...)...); code != 5 {
		t.Errorf("a pipeline without a sandbox: exit %d\n%s", code, out)
	}

	// Taken away, the token is out at once.
	if _, errs, err := h.Run("token", "revoke", "ci"); err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	peer.Eventually(t, "the pipeline's connection to end", func() bool { return c.Call(t.Context(), "thread/list", map[string]any{}, nil) != nil })
	if _, errs, code := elsewhere(t, ci, append([]string{"exec", "say hello"}, remote...)...); code == 0 || !strings.Contains(errs, "401") && !strings.Contains(errs, "revoked") {
		t.Errorf("exit %d: %s", code, errs)
	}
	quit(one)

	if out, errs, err := h.Run("audit", "verify"); err != nil {
		t.Fatalf("%s%s", out, errs)
	}
	var told []string
	err = audit.Read(filepath.Join(h.Home, "audit.jsonl"), audit.Filter{}, func(e audit.Entry) error {
		told = append(told, strings.TrimSpace(strings.Join([]string{e.Event, e.Who.Kind, e.Who.Name, e.Who.Role, e.Via, e.Decision}, " ")))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, want := range []string{
		"token.create local", "turn key laptop admin ssh", "approval opened", "denied token watcher observer ws",
		"denied token ci operator ws", "approval answered token on-call approver ws accept", "turn token ci operator ws", "token.revoke local",
	} {
		i := slices.IndexFunc(told[at:], func(s string) bool { return strings.HasPrefix(s, want) })
		if i < 0 {
			t.Fatalf("after %d entries the audit does not tell %q:\n%s", at, want, strings.Join(told, "\n"))
		}
		at += i
	}
	raw, err := os.ReadFile(filepath.Join(h.Home, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{watcher, approver, ci} {
		if bytes.Contains(raw, []byte(secret[len("twl_")+12:])) || strings.Contains(h.Log(), secret[len("twl_")+12:]) {
			t.Error("a token's secret is on record")
		}
	}
}
