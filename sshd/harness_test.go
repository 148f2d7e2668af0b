package sshd

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	gossh "golang.org/x/crypto/ssh"

	"towline/appserver/access"
)

// patience bounds waits for events that must come; it is no pause.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(actAs) != "" { // it is one of the processes the tests start
		os.Exit(act(os.Getenv(actAs)))
	}
	goleak.VerifyTestMain(m)
}

// testKey is a key on disk, as OpenSSH wants it, and in memory.
type testKey struct {
	signer gossh.Signer
	path   string // the private key; path+".pub" the public one
}

func (k testKey) line(comment string) string {
	return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(k.signer.PublicKey()))) + " " + comment
}

func (k testKey) fingerprint() string { return gossh.FingerprintSHA256(k.signer.PublicKey()) }

func newKey(t testing.TB) testKey {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return keyFrom(t, priv)
}

func keyFrom(t testing.TB, priv crypto.PrivateKey) testKey {
	t.Helper()
	signer, err := gossh.NewSignerFromKey(priv)
	must(t, err)
	block, err := gossh.MarshalPrivateKey(priv, "")
	must(t, err)
	k := testKey{signer, filepath.Join(t.TempDir(), "id")}
	must(t, os.WriteFile(k.path, pem.EncodeToMemory(block), 0o600))
	must(t, os.WriteFile(k.path+".pub", gossh.MarshalAuthorizedKey(signer.PublicKey()), 0o600))
	return k
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a running server and what it told.
type host struct {
	*Server
	t    testing.TB
	dir  string
	key  testKey // listed as "ana@laptop", an admin
	keys string  // the authorized_keys file
	log  *lockedBuffer
	stop func() error // idempotent; the error of Serve

	mu     sync.Mutex
	events []string // audit, as "event principal attrs"
}

// start runs a server whose only key is an admin's, unless change says otherwise.
func start(t testing.TB, change func(*Config)) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), key: newKey(t), log: &lockedBuffer{}}
	h.keys = filepath.Join(h.dir, "authorized_keys")
	h.authorize(h.key.line("ana@laptop"))
	cfg := Config{
		Listen: "127.0.0.1:0", HostKeyFile: filepath.Join(h.dir, "host_ed25519"), AuthorizedKeysFile: h.keys,
		Log:       slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		UI:        func(context.Context, *Session) int { return 0 },
		AppServer: echo,
		Audit:     h.record,
		Limits:    Limits{StartupsPerSource: 100, StartupsBegin: 100, StartupsFull: 200},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := Listen(t.Context(), cfg)
	must(t, err)
	h.Server = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	h.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			return errors.New("Serve did not return")
		}
	})
	t.Cleanup(func() {
		if err := h.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
		if t.Failed() {
			t.Logf("host's log:\n%s", h.log)
		}
	})
	return h
}

func echo(_ context.Context, rw io.ReadWriteCloser, _ access.Principal, _ string) error {
	_, err := io.Copy(rw, rw)
	return err
}

func (h *host) authorize(lines ...string) {
	h.t.Helper()
	must(h.t, os.WriteFile(h.keys+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	must(h.t, os.Rename(h.keys+".new", h.keys))
}

func (h *host) record(event string, p access.Principal, attrs ...slog.Attr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, fmt.Sprint(event, " ", p.Name, " ", attrs))
}

func (h *host) audited(event string) (found []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if strings.HasPrefix(e, event+" ") {
			found = append(found, e)
		}
	}
	return found
}

// connections is how many the server holds.
func (h *host) connections() int { return len(h.open()) }

// eventually waits for what no channel tells.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func wait[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("never: %s", what)
		panic("unreachable")
	}
}

// lockedBuffer is a log, or the output of a session that goes on.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// client is x/crypto's, over a socket the test can cut.
type client struct {
	*gossh.Client
	raw *net.TCPConn
}

func (h *host) clientConfig(key gossh.Signer) *gossh.ClientConfig {
	return &gossh.ClientConfig{
		User: "somebody", Auth: []gossh.AuthMethod{gossh.PublicKeys(key)},
		HostKeyCallback: gossh.FixedHostKey(h.host), Timeout: patience,
	}
}

func (h *host) tryDial(cfg *gossh.ClientConfig) (*client, error) {
	nc, err := net.Dial("tcp", h.Addr())
	if err != nil {
		return nil, err
	}
	_ = nc.SetDeadline(time.Now().Add(patience))
	c, chans, reqs, err := gossh.NewClientConn(nc, h.Addr(), cfg)
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	_ = nc.SetDeadline(time.Time{})
	return &client{gossh.NewClient(c, chans, reqs), nc.(*net.TCPConn)}, nil
}

func (h *host) dial() *client {
	h.t.Helper()
	return h.dialAs(h.key)
}

func (h *host) dialAs(key testKey) *client {
	h.t.Helper()
	c, err := h.tryDial(h.clientConfig(key.signer))
	must(h.t, err)
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

// vanish is a cable pulled, as far as this end can do it: no goodbye, no FIN.
func (c *client) vanish() {
	_ = c.raw.SetLinger(0)
	_ = c.raw.Close()
}

// terminal opens a session with a terminal and asks for a shell.
func (c *client) terminal(t testing.TB, cols, rows int) *gossh.Session {
	t.Helper()
	s, err := c.NewSession()
	must(t, err)
	must(t, s.RequestPty("xterm-256color", rows, cols, gossh.TerminalModes{}))
	return s
}

// exec runs one command without a terminal.
func (c *client) exec(t testing.TB, command string) result {
	t.Helper()
	s, err := c.NewSession()
	must(t, err)
	defer func() { _ = s.Close() }()
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr = &out, &errs
	status := exitStatus(t, s.Run(command))
	return result{out.String(), errs.String(), status}
}

func exitStatus(t testing.TB, err error) int {
	t.Helper()
	var exit *gossh.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitStatus()
	}
	t.Fatalf("no exit status: %v", err)
	return -1
}

// openssh prepares a run of the real client. It skips where there is none,
// which in CI is a failure.
func (h *host) openssh(key testKey, args ...string) *exec.Cmd {
	h.t.Helper()
	return exec.Command(program(h.t, "ssh"), append(h.sshOptions(key), args...)...)
}

func (h *host) sshOptions(key testKey) []string {
	h.t.Helper()
	_, port, err := net.SplitHostPort(h.Addr())
	must(h.t, err)
	known := filepath.Join(h.dir, "known_hosts")
	line := "[127.0.0.1]:" + port + " " + string(gossh.MarshalAuthorizedKey(h.host))
	must(h.t, os.WriteFile(known, []byte(line), 0o600))
	return []string{
		"-F", "none", "-p", port, "-i", key.path,
		"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile=" + known, "-o", "BatchMode=yes",
		"127.0.0.1",
	}
}

func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path = "/usr/sbin/" + name; fileExists(path) {
			return path
		}
		lacking(t, name+" is not installed: this test needs the real one (apt-get install openssh-client openssh-server tmux)")
	}
	return path
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip("SKIPPED: " + what)
}

// result is what became of a program.
type result struct {
	stdout, stderr string
	status         int
}

func run(t testing.TB, cmd *exec.Cmd, stdin io.Reader) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	must(t, cmd.Start())
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait() // the status says it
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func (r result) String() string {
	return fmt.Sprintf("status %d, stdout %q, stderr %q", r.status, r.stdout, r.stderr)
}

func opensshKeygen(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(program(t, "ssh-keygen"), args...)
}
