//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/access/token"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
)

// tokenHost is a host of a test's own, with a ws listener that wants a token.
type tokenHost struct {
	*testing.T
	bin string
	env []string
	url string // of the listener
}

func newTokenHost(t *testing.T) *tokenHost {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	h := &tokenHost{T: t, bin: filepath.Join(dir, "towline")}
	home := filepath.Join(dir, "home")
	text := "[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n"
	if err := errors.Join(os.Symlink(self, h.bin), os.Mkdir(home, 0o700), os.WriteFile(filepath.Join(home, "config.toml"), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	h.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TOWLINE_HOME=" + home, "CODEX_HOME=" + filepath.Join(dir, "codex")}
	// A test's own context ends before it is cleaned up, and the host should not.
	ctx, kill := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, h.bin, "serve", "--json", "--stop-with-stdin", "--ssh-listen", "off", "--listen", "ws://127.0.0.1:0", "--ws-auth", "access-token")
	cmd.Env = h.env
	var log strings.Builder
	cmd.Stderr = &log
	in, err := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(err, outErr, cmd.Start()); err != nil {
		kill()
		t.Fatal(err)
	}
	var r ready
	readErr := json.NewDecoder(out).Decode(&r)
	t.Cleanup(func() {
		_ = in.Close()
		defer kill()
		defer time.AfterFunc(45*time.Second, kill).Stop()
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil || readErr != nil || t.Failed() {
			t.Errorf("the host: %v, %v\n%s", err, readErr, &log)
		}
		if strings.Contains(log.String(), "twl_") {
			t.Errorf("a token is in the log:\n%s", &log)
		}
	})
	if readErr != nil || len(r.Listen) == 0 {
		t.Fatalf("the host does not start: %v, %+v", readErr, r)
	}
	h.url = r.Listen[0]
	return h
}

// towline runs a command on the host, and says what it printed.
func (h *tokenHost) towline(args ...string) string {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 45*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.bin, args...)
	cmd.Env = h.env
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		h.Fatalf("towline %s: %v\n%s", strings.Join(args, " "), err, &errs)
	}
	return strings.TrimSpace(string(out))
}

// come connects with a token; over is closed when the connection has ended.
func (h *tokenHost) come(secret string) (p *rpc.Peer, over <-chan struct{}, err error) {
	ctx, cancel := context.WithTimeout(h.Context(), 45*time.Second)
	defer cancel()
	st, err := transport.DialWith(ctx, h.url, transport.DialOptions{Token: secret})
	if err != nil {
		return nil, nil, err
	}
	p = rpc.NewPeer(st, deaf{})
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.Serve(context.WithoutCancel(ctx)) }()
	h.Cleanup(func() { p.Close(nil); <-ended })
	return p, ended, p.Call(ctx, "initialize", protocol.InitializeParams{ClientInfo: protocol.ClientInfo{Name: "test", Version: "1"}}, nil)
}

// Tokens are made, used, looked at and taken away on a host that runs, each by
// another process.
func TestTokensOnAHost(t *testing.T) {
	h := newTokenHost(t)
	secret := h.towline("token", "create", "--name", "ci", "--role", "observer")
	p, over, err := h.come(secret)
	if err != nil {
		t.Fatal(err)
	}
	var s protocol.Session
	if err := p.Call(t.Context(), protocol.ExtSession, nil, &s); err != nil || s.Principal.Kind != "token" || s.Principal.Name != "ci" || s.Principal.Role != protocol.RoleObserver {
		t.Errorf("%+v, %v", s.Principal, err)
	}
	if err := p.Call(t.Context(), protocol.ExtTokenCreate, token.CreateParams{Name: "more"}, nil); err == nil || !strings.Contains(err.Error(), "admin") {
		t.Errorf("an observer makes tokens: %v", err)
	}
	for name, wrong := range map[string]string{"cut": secret[:60], "of another host": "twl_0123456789_" + strings.Repeat("0", 49)} {
		if _, _, err := h.come(wrong); err == nil || strings.Contains(err.Error(), wrong) {
			t.Errorf("one that is %s: %v", name, err)
		}
	}
	var list token.List
	if err := json.Unmarshal([]byte(h.towline("token", "list", "--json")), &list); err != nil || len(list.Data) != 1 || list.Data[0].Uses != 1 || list.Data[0].LastUsedFrom != "127.0.0.1" {
		t.Errorf("%+v, %v", list, err)
	}
	h.towline("token", "rotate", "ci", "--overlap", "1h")
	select {
	case <-over:
		t.Error("the old secret's connection ended in its overlap")
	default:
	}
	h.towline("token", "revoke", "ci")
	began := time.Now()
	select {
	case <-over:
		t.Logf("it was ended %s after the command", time.Since(began))
	case <-time.After(45 * time.Second):
		t.Fatal("who came with a revoked token is still connected")
	}
	if _, _, err := h.come(secret); err == nil {
		t.Error("a revoked token counts")
	}
	log := h.towline("audit", "verify")
	if raw, err := os.ReadFile(strings.SplitN(log, ":", 2)[0]); err != nil || !strings.Contains(string(raw), `"event":"token.revoke"`) || strings.Contains(string(raw), secret[15:]) {
		t.Errorf("the audit: %v\n%s", err, raw)
	}
}
