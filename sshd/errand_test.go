package sshd

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"towline/appserver/protocol"
	"towline/config"
)

// errandHost is a host whose commands are this test binary, acting.
func errandHost(t *testing.T, as string, change func(*Config)) *host {
	return start(t, func(c *Config) {
		c.Self = Self{Path: actor(t, ""), Env: []string{actAs + "=" + as, "HOME=/home/ana", "NOTE=" + filepath.Join(t.TempDir(), "note")}, Dir: "/"}
		if change != nil {
			change(c)
		}
	})
}

func TestErrandsAreTakenWordByWord(t *testing.T) {
	for said, want := range map[string]string{
		"login":                               "login",
		"login --events":                      "login",
		"login --events --device-auth":        "login",
		"login --with-api-key --events":       "login",
		"login --device-auth --with-api-key":  "",
		"login --events --events":             "",
		"login --experimental_issuer http://": "",
		"login host":                          "",
		"login status":                        "login status",
		"login status --json":                 "login status",
		"login status --json --json":          "",
		"login --json status":                 "",
		"logout":                              "logout",
		"logout now":                          "",
		"credentials":                         "",
		"credentials status --json":           "credentials status",
		"credentials status other-host":       "",
		"credentials receive":                 "credentials receive",
		"credentials receive --json":          "",
		"credentials put":                     "",
		"credentials move":                    "",
	} {
		e, ok := findErrand(strings.Fields(said))
		if got := strings.Join(e.words, " "); ok != (want != "") || ok && got != want {
			t.Errorf("%q is %q, %v", said, got, ok)
		}
	}
}

func TestErrandRunsThisProgramWithItsOwnEnvironment(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-the-daemons-own")
	h := errandHost(t, "echo", nil)
	cmd := h.openssh(h.key, "login --events")
	cmd.Args = slices.Insert(cmd.Args, 1, "-o", "SendEnv=LC_TEST", "-o", "SendEnv=LD_PRELOAD")
	cmd.Env = append(os.Environ(), "LC_TEST=de", "LD_PRELOAD=")
	got := run(t, cmd, strings.NewReader("from the client"))
	if got.status != 7 || got.stderr != "on stderr\n" {
		t.Errorf("%v", got)
	}
	for _, want := range []string{
		`args ["login" "--events" "--no-browser"]`, "dir /\n", "tty false", `"HOME=/home/ana"`, `"LC_TEST=de"`, `"SSH_CONNECTION=127.0.0.1 `, "from the client\nread 15\n",
	} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("no %s in %s", want, got.stdout)
		}
	}
	for _, bad := range []string{"sk-the-daemons-own", "LD_PRELOAD", "PATH="} {
		if strings.Contains(got.stdout, bad) {
			t.Errorf("%s reached the process: %s", bad, got.stdout)
		}
	}
	events := h.audited(EventCommand)
	if len(events) != 2 || !strings.Contains(events[0], "command=login") || !strings.Contains(events[1], "status=7") {
		t.Errorf("audit: %q", events)
	}
	if got := h.dial().exec(t, "help"); !strings.Contains(got.stdout, "credentials status") {
		t.Errorf("help does not tell: %v", got)
	}
}

func TestErrandsAreForAdmins(t *testing.T) {
	h := errandHost(t, "echo", nil)
	op := newKey(t)
	h.authorize(h.key.line("ana@laptop"), `environment="TOWLINE_ROLE=operator" `+op.line("op"))
	for _, said := range []string{"login", "login status", "logout", "credentials status", "credentials receive", "towline login", "credentials"} {
		got := h.dialAs(op).exec(t, said)
		if got.status != config.ExitDenied || got.stdout != "" || !strings.Contains(got.stderr, fmt.Sprintf("needs the role %q", protocol.RoleAdmin)) {
			t.Errorf("%s: %v", said, got)
		}
	}
	if len(h.audited(EventCommand)) != 0 || len(h.audited(EventRefused)) == 0 {
		t.Errorf("audit: %q", h.events)
	}
	if got := h.dialAs(op).exec(t, "help"); strings.Contains(got.stdout, "credentials") {
		t.Errorf("help offers what is refused: %v", got)
	}
	for said, want := range map[string]int{"login --now": config.ExitUsage, "credentials put": config.ExitUsage, "logins": exitUnknown} {
		if got := h.dial().exec(t, said); got.status != want || got.stdout != "" {
			t.Errorf("%s: %v", said, got)
		}
	}
	s := h.dial().terminal(t, 80, 24)
	if st := exitStatus(t, s.Run("credentials receive")); st != config.ExitUsage {
		t.Errorf("bytes through a terminal: status %d", st)
	}
	if got := start(t, nil).dial().exec(t, "login"); got.status != exitUnknown {
		t.Errorf("a door without a program to run: %v", got)
	}
}

// A person with a terminal can be asked without echo, sees the size they have,
// and can interrupt.
func TestErrandOnATerminal(t *testing.T) {
	h := errandHost(t, "ask", nil)
	s := h.dial().terminal(t, 132, 43)
	in, err := s.StdinPipe()
	must(t, err)
	var out lockedBuffer
	s.Stdout = &out
	must(t, s.Start("login"))
	eventually(t, "the question", func() bool { return strings.Contains(out.String(), "key: ") })
	must(t, s.WindowChange(50, 99))
	_, err = io.WriteString(in, "sk-secret\r")
	must(t, err)
	eventually(t, "the answer", func() bool { return strings.Contains(out.String(), "waiting\r\n") })
	if got := out.String(); !strings.Contains(got, "got 9 characters, <nil>, on ") || strings.Contains(got, "sk-secret") {
		t.Errorf("%q", got)
	}
	_, err = io.WriteString(in, "\x03")
	must(t, err)
	if st := exitStatus(t, s.Wait()); st != 130 || !strings.Contains(out.String(), "interrupted") {
		t.Errorf("status %d, %q", st, out.String())
	}
}

// The process is asked to leave when nobody is there any more, given time, and
// nothing of it stays.
func TestErrandEndsWithItsClient(t *testing.T) {
	for name, leave := range map[string]func(*client, *gossh.Session){
		"the session is closed":     func(_ *client, s *gossh.Session) { _ = s.Close() },
		"the client vanishes":       func(c *client, _ *gossh.Session) { c.vanish() },
		"the client sends a signal": func(_ *client, s *gossh.Session) { _ = s.Signal(gossh.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			h := errandHost(t, "stubborn", nil)
			var note string
			for _, kv := range h.cfg.Self.Env {
				if v, ok := strings.CutPrefix(kv, "NOTE="); ok {
					note = v
				}
			}
			c := h.dial()
			s, err := c.NewSession()
			must(t, err)
			var out lockedBuffer
			s.Stdout = &out
			must(t, s.Start("credentials receive"))
			var pid, child int
			eventually(t, "it runs", func() bool { n, _ := fmt.Sscanf(out.String(), "pid %d %d\n", &pid, &child); return n == 2 })
			leave(c, s)
			read := func() string { b, _ := os.ReadFile(note); return string(b) }
			eventually(t, "it is asked to leave", func() bool { return read() == "asked" })
			must(t, os.WriteFile(note+".enough", nil, 0o600))
			eventually(t, "it ends in its own time", func() bool { return read() == "done" })
			eventually(t, "nothing of it is left", func() bool {
				return syscall.Kill(pid, 0) != nil && (syscall.Kill(child, 0) != nil || zombie(child))
			})
			eventually(t, "its place is free", func() bool { return len(h.errands) == 0 })
		})
	}
}

// zombie: it has ended, and whoever should know does not care.
func zombie(pid int) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z")
}

func TestErrandsAreBounded(t *testing.T) {
	h := errandHost(t, "stubborn", func(c *Config) { c.Limits.Errands = 1 })
	first, err := h.dial().NewSession()
	must(t, err)
	var out lockedBuffer
	first.Stdout = &out
	must(t, first.Start("login"))
	eventually(t, "it runs", func() bool { return strings.Contains(out.String(), "pid ") })
	if got := h.dial().exec(t, "login"); got.status != config.ExitUnavailable || !strings.Contains(got.stderr, "too many commands") {
		t.Errorf("%v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.stop() }() // the host stops: the process is ended, politely and then not
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("the host does not stop")
	}
}

func TestErrandThatDoesNotStart(t *testing.T) {
	h := errandHost(t, "echo", func(c *Config) { c.Self.Path = "/nowhere/towline" })
	got := h.dial().exec(t, "login status")
	if got.status != config.ExitFailure || got.stderr != "towline: login status does not start; the host's log says why\n" {
		t.Errorf("%v", got)
	}
	eventually(t, "the log says why", func() bool { return strings.Contains(h.log.String(), "/nowhere/towline") })
	s := h.dial().terminal(t, 80, 24)
	if st := exitStatus(t, s.Run("login status")); st != config.ExitFailure {
		t.Errorf("on a terminal: status %d", st)
	}
}
