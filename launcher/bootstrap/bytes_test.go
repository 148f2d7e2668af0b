//go:build linux

package bootstrap

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"towline/config"
)

// Bytes lead to the daemon's socket, whatever way there is.
func TestBytesOfADaemon(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	p := newPerson(t, s, "bash", map[string]string{".config/towline/config.toml": rehearsal})
	o := options(t)
	o.Version = "1.2.3"
	rep := probe(t, p.local, o)
	ch := install(t, p, rep, build(t, towline(t, "1.2.3"), "1.2.3"))
	for _, way := range []string{"started", "joined"} {
		rw, err := OpenBytes(t.Context(), p, rep, ch)
		if err != nil {
			t.Fatalf("%s: %v", way, err)
		}
		if _, err := io.WriteString(rw, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(rw), nil)
		if err != nil || res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: the daemon answers %v, %v", way, res, err)
		} else {
			_ = res.Body.Close()
		}
		_ = rw.Close()
		ch.Action = Join
	}
}

func TestBytesOfAnythingElse(t *testing.T) {
	l := newLocal(t, "bash")
	rep := probe(t, l, options(t))
	_, err := OpenBytes(t.Context(), l, rep, Choice{Action: Start, Candidate: Candidate{Kind: Codex, Path: "/usr/bin/codex"}})
	if !errors.Is(err, ErrNoTowline) || !strings.Contains(strings.Join(config.Hints(err), " "), "--install") {
		t.Errorf("got %v, %q", err, config.Hints(err))
	}
}

func TestBytesThroughADoor(t *testing.T) {
	l := newLocal(t, "bash")
	l.server = doorServer
	l.wrap = func(command string) *exec.Cmd {
		if command != doorProxy {
			t.Errorf("asked for %q", command)
		}
		return exec.Command("cat") //nolint:noctx // Exec's business
	}
	rep := probe(t, l, options(t))
	rw, err := OpenBytes(t.Context(), l, rep, choose(t, rep, options(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rw.Close() }()
	_, _ = io.WriteString(rw, "hello")
	got := make([]byte, 5)
	if _, err := io.ReadFull(rw, got); string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A Codex that is lent a login keeps it in memory.
func TestACodexThatForgets(t *testing.T) {
	l := newLocal(t, "bash")
	bin := l.write(t, "bin/codex", "#!/bin/sh\nprintf '{\"args\":\"%s\"}\\n' \"$*\" | tr -d '\"' ; cat", 0o755)
	rep := probe(t, l, options(t))
	for forget, want := range map[bool]string{true: "{args:-c cli_auth_credentials_store=ephemeral app-server}", false: "{args:app-server}"} {
		s, _, err := Open(t.Context(), l, rep, Choice{Action: Stdio, Forget: forget, Candidate: Candidate{Kind: Codex, Path: bin}})
		if err != nil {
			t.Fatal(err)
		}
		if msg, err := s.Read(t.Context()); err != nil || string(msg) != want {
			t.Errorf("it was started with %q, %v", msg, err)
		}
		_ = s.Close(nil)
	}
}
