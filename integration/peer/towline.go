package peer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

var build struct {
	once sync.Once
	bin  string
	err  error
}

// Binary builds towline once a test process, as `make build` does, and returns
// its path. Remove what it left with CleanUp in TestMain.
func Binary(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		dir, err := os.MkdirTemp("", "towline-bin")
		if err != nil {
			build.err = err
			return
		}
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // accounts made for tests run it too
			build.err = err
			return
		}
		build.bin = filepath.Join(dir, "towline")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", build.bin, "towline/cmd/towline") //nolint:noctx // shared by all tests
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("build towline: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.bin
}

// CleanUp removes what Binary built.
func CleanUp() {
	if build.bin != "" {
		_ = os.RemoveAll(filepath.Dir(build.bin))
	}
}

// Host is a running `towline serve` with a home of its own and one authorised key.
type Host struct {
	SSH     string   // 127.0.0.1:PORT
	Listen  []string // as announced
	HostKey string
	Engine  string
	Home    string
	Project string

	t    testing.TB
	cmd  *exec.Cmd
	log  *syncBuffer
	args []string
	env  []string

	machine *Machine
}

// HostConfig tunes Start. The zero value is the native engine, rehearsing.
type HostConfig struct {
	TOML string   // replaces the rehearsal configuration
	Args []string // further flags of serve
	Env  []string // further environment, KEY=value
	Role string   // role of the key; empty leaves it to the default
	// Machine is where it runs; nil is here.
	Machine *Machine
}

// Start starts a host on loopback and waits until it says it is ready.
func Start(t testing.TB, c HostConfig) *Host {
	t.Helper()
	Need(t, "ssh", "git")
	home, project := t.TempDir(), t.TempDir()
	h := &Host{t: t, Home: home, Project: project, args: c.Args, env: c.Env, machine: c.Machine}
	toml := c.TOML
	if toml == "" {
		toml = "[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n"
	}
	h.write("config.toml", toml)
	h.addKey("id_ed25519", "laptop", c.Role)
	for _, args := range [][]string{{"init", "-q"}, {"config", "user.name", "t"}, {"config", "user.email", "t@example.invalid"}} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = project
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	listen := "127.0.0.1"
	if c.Machine != nil {
		listen = c.Machine.Addr
	}
	h.run(listen + ":0")
	t.Cleanup(func() {
		h.Stop()
		if t.Failed() {
			t.Logf("the host said:\n%s", h.log)
		}
	})
	return h
}

func (h *Host) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.Home, name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// addKey makes a key and authorises it.
func (h *Host) addKey(file, comment, role string) {
	h.t.Helper()
	public, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(secret, comment)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(file, string(pem.EncodeToMemory(block)))
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		h.t.Fatal(err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " " + comment + "\n"
	if role != "" {
		line = fmt.Sprintf("environment=\"TOWLINE_ROLE=%s\" %s", role, line)
	}
	old, _ := os.ReadFile(filepath.Join(h.Home, "authorized_keys"))
	h.write("authorized_keys", string(old)+line)
}

// AddKey authorises a further key and returns its file.
func (h *Host) AddKey(comment, role string) string {
	h.t.Helper()
	file := "id_" + comment
	h.addKey(file, comment, role)
	return filepath.Join(h.Home, file)
}

func (h *Host) run(sshListen string) {
	h.t.Helper()
	args := append([]string{"serve", "--json", "--ssh-listen", sshListen, "--project", h.Project}, h.args...)
	argv := append([]string{Binary(h.t)}, args...)
	if h.machine != nil {
		argv = h.machine.Argv(argv...)
	}
	h.cmd = exec.Command(argv[0], argv[1:]...) //nolint:noctx // Stop ends it
	h.cmd.Env = append(append(Environ(h.t), "TOWLINE_HOME="+h.Home), h.env...)
	h.log = &syncBuffer{}
	h.cmd.Stderr = h.log
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	line := make(chan []byte, 1)
	go func() { b, _ := bufio.NewReader(out).ReadBytes('\n'); line <- b }() // ends with the process
	var r struct {
		Ready   bool     `json:"ready"`
		SSH     string   `json:"ssh"`
		Listen  []string `json:"listen"`
		HostKey string   `json:"host_key"`
		Engine  string   `json:"engine"`
	}
	select {
	case b := <-line:
		if err := json.Unmarshal(b, &r); err != nil || !r.Ready {
			_ = h.cmd.Process.Kill()
			h.t.Fatalf("serve did not become ready: %q, %v\n%s", b, err, h.log)
		}
	case <-time.After(Patience):
		_ = h.cmd.Process.Kill()
		h.t.Fatalf("serve said nothing\n%s", h.log)
	}
	h.SSH, h.Listen, h.HostKey, h.Engine = r.SSH, r.Listen, r.HostKey, r.Engine
	raw, err := os.ReadFile(filepath.Join(h.Home, "host_ed25519"))
	if err != nil {
		h.t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		h.t.Fatal(err)
	}
	addr, port, _ := net.SplitHostPort(h.SSH)
	h.write("known_hosts", fmt.Sprintf("[%s]:%s %s", addr, port, ssh.MarshalAuthorizedKey(signer.PublicKey())))
}

// PID is the daemon's process id.
func (h *Host) PID() int { return h.cmd.Process.Pid }

// Log is what the daemon has logged so far.
func (h *Host) Log() string { return h.log.String() }

// Stop ends the daemon in good order and returns how it ended.
func (h *Host) Stop() error {
	if h.cmd.ProcessState != nil {
		return nil
	}
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	return h.wait()
}

// Kill ends the daemon as a crash would.
func (h *Host) Kill() {
	_ = h.cmd.Process.Kill()
	_ = h.wait()
}

func (h *Host) wait() error {
	done := make(chan error, 1)
	go func() { done <- h.cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(Patience):
		_ = h.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines go to the log
		<-done
		return fmt.Errorf("serve did not end within %v", Patience)
	}
}

// Restart starts the daemon again on the same home and the same SSH address.
func (h *Host) Restart() { h.t.Helper(); h.run(h.SSH) }

// WS is the first ws:// listener.
func (h *Host) WS() string {
	h.t.Helper()
	for _, l := range h.Listen {
		if strings.HasPrefix(l, "ws://") {
			return l
		}
	}
	h.t.Fatal("the host has no ws listener")
	return ""
}

// SSHArgs is the ssh command line to the host with the given key file ("" for
// the first), followed by args.
func (h *Host) SSHArgs(key string, args ...string) []string {
	if key == "" {
		key = filepath.Join(h.Home, "id_ed25519")
	}
	addr, port, _ := net.SplitHostPort(h.SSH)
	out := []string{
		"ssh", "-F", "none", "-p", port, "-i", key, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "UserKnownHostsFile=" + filepath.Join(h.Home, "known_hosts"), "-o", "StrictHostKeyChecking=yes",
	}
	return append(append(out, addr), args...)
}

// Attach opens the UI over a real ssh.
func (h *Host) Attach(cols, rows int) *Terminal {
	h.t.Helper()
	return Open(h.t, cols, rows, nil, h.SSHArgs("")...)
}

// Run runs a towline command against this host's home.
func (h *Host) Run(args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(h.t), args...)
	cmd.Env = append(Environ(h.t), "TOWLINE_HOME="+h.Home)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// syncBuffer collects a child's output while the test reads it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Authorize lets a laptop's key in.
func (h *Host) Authorize(k Key) {
	h.t.Helper()
	old, _ := os.ReadFile(filepath.Join(h.Home, "authorized_keys"))
	h.write("authorized_keys", string(old)+k.Line+"\n")
}

// Server is the host's door, as a [Laptop] needs to know it.
func (h *Host) Server() *Server {
	h.t.Helper()
	raw, err := os.ReadFile(filepath.Join(h.Home, "host_ed25519"))
	if err != nil {
		h.t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		h.t.Fatal(err)
	}
	return &Server{Addr: h.SSH, HostKey: Key{Signer: signer, Fingerprint: ssh.FingerprintSHA256(signer.PublicKey())}}
}
