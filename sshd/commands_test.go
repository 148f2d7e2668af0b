package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

func TestCommandsThroughOpenSSH(t *testing.T) {
	h := start(t, func(c *Config) {
		c.UI = func(_ context.Context, s *Session) int {
			_, _ = fmt.Fprintf(s.Out, "UI for %s (%s) on %s\n", s.Principal.Name, s.Principal.Role, s.Term)
			return 42
		}
	})
	opts := h.sshOptions(h.key)
	before := func(flags ...string) []string { // flags come before the host
		return append(append([]string{}, flags...), opts...)
	}
	for name, tc := range map[string]struct {
		args   []string
		stdin  string
		want   result
		stdout string // contained, when want.stdout is empty
	}{
		"terminal": {
			args: before("-tt"),
			want: result{"UI for ana@laptop (admin) on xterm-256color\r\n", "", 42},
		},
		"no terminal": {
			args: before("-T"),
			want: result{"", "towline: the UI needs a terminal; ask for one: ssh -t HOST\nprograms speak the protocol: ssh HOST app-server\n", 1},
		},
		"app-server": {
			args: append(before(), "app-server"), stdin: "{\"id\":1}\n{\"id\":2}\n",
			want: result{"{\"id\":1}\n{\"id\":2}\n", "", 0},
		},
		"app-server as codex says it": {
			args: append(before(), "app-server --listen stdio://"), stdin: "{\"id\":1}\n",
			want: result{"{\"id\":1}\n", "", 0},
		},
		"app-server elsewhere": {
			args: append(before(), "app-server --listen ws://0.0.0.0:1"),
			want: result{"", "towline: app-server speaks on stdin and stdout here and takes no arguments\n", config.ExitUsage},
		},
		"subsystem": {
			args: append(before("-s"), "codex-app-server"), stdin: "{\"id\":1}\n",
			want: result{"{\"id\":1}\n", "", 0},
		},
		"help": {
			args: append(before(), "help"), want: result{defaultHelp, "", 0},
		},
		"unknown command": {
			args: append(before(), "rm -rf /"),
			want: result{"", "towline: there is no command \"rm -rf /\" here; there is:\n" + defaultHelp, 127},
		},
		"control characters in an unknown command": {
			args: append(before(), "\x1b]0;owned\a"),
			want: result{"", "towline: there is no command \"]0;owned\" here; there is:\n" + defaultHelp, 127},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(program(t, "ssh"), tc.args...)
			cmd.Env = append(cmd.Environ(), "TERM=xterm-256color")
			got := run(t, cmd, strings.NewReader(tc.stdin))
			if tc.args[0] == "-tt" { // the client says goodbye on stderr
				got.stderr = ""
			}
			if got != tc.want {
				t.Errorf("got  %v\nwant %v", got, tc.want)
			}
		})
	}
	t.Run("unknown subsystem", func(t *testing.T) {
		got := run(t, exec.Command(program(t, "ssh"), append(before("-s"), "sftp")...), nil)
		if got.status == 0 || !strings.Contains(got.stderr, "subsystem request failed") {
			t.Errorf("got %v, want a refusal", got)
		}
	})
}

// Raw bytes, for a client that makes a WebSocket of them.
func TestProxyCommand(t *testing.T) {
	var seen access.Principal
	h := start(t, func(c *Config) {
		c.WebSocket = func(_ context.Context, rw io.ReadWriteCloser, p access.Principal, remote string) error {
			if seen = p; remote == "" {
				t.Error("no remote address")
			}
			_, err := io.Copy(rw, rw)
			return err
		}
	})
	opts := h.sshOptions(h.key)
	bytes := "GET / HTTP/1.1\r\n\r\n\x00\x03\x04\xff\r\n\x1b[A"
	for name, tc := range map[string]struct {
		flags   []string
		command string
		want    result
	}{
		"proxy":                   {nil, "app-server proxy", result{bytes, "", 0}},
		"proxy that would start":  {nil, "app-server proxy --start", result{bytes, "", 0}},
		"as said to a shell":      {nil, "towline app-server proxy --start", result{bytes, "", 0}},
		"to another socket":       {nil, "app-server proxy --sock /run/x", result{"", "towline: app-server speaks on stdin and stdout here and takes no arguments\n", config.ExitUsage}},
		"other commands stay so":  {nil, "towline help", result{defaultHelp, "", 0}},
		"a terminal would change": {[]string{"-tt"}, "app-server proxy", result{"", "", config.ExitUsage}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(program(t, "ssh"), append(append(append([]string{}, tc.flags...), opts...), tc.command)...)
			got := run(t, cmd, strings.NewReader(bytes))
			if tc.flags != nil { // what is said is on the terminal
				if all := got.stdout + got.stderr; !strings.Contains(all, "ssh -T HOST app-server proxy") {
					t.Errorf("not told how: %q", all)
				}
				got.stdout, got.stderr = "", ""
			}
			if got != tc.want {
				t.Errorf("got  %v\nwant %v", got, tc.want)
			}
		})
	}
	if seen.Name != "ana@laptop" || seen.Role != protocol.RoleAdmin {
		t.Errorf("ran as %+v", seen)
	}
	t.Run("forced lines stay lines", func(t *testing.T) {
		key := newKey(t)
		h.authorize(`command="app-server",restrict ` + key.line("guest"))
		got := run(t, exec.Command(program(t, "ssh"), append(h.sshOptions(key), "app-server proxy")...), strings.NewReader("{}\n"))
		if got != (result{"{}\n", "", 0}) || seen.Name == "guest" {
			t.Errorf("%v", got)
		}
	})
	t.Run("a door without it", func(t *testing.T) {
		h := start(t, nil)
		if got := h.dial().exec(t, "app-server proxy"); got.status != config.ExitUsage {
			t.Errorf("%v", got)
		}
	})
}

// What outlives its connection hears that the key was taken away, and not only
// that the connection is over.
func TestSecurityRevocationReachesWhatOutlivesTheConnection(t *testing.T) {
	began, why := make(chan struct{}), make(chan error, 1)
	h := start(t, func(c *Config) {
		c.Limits.Recheck = 10 * time.Millisecond
		c.WebSocket = func(ctx context.Context, _ io.ReadWriteCloser, _ access.Principal, _ string) error {
			close(began)
			<-ctx.Done()
			why <- context.Cause(ctx)
			return nil
		}
	})
	s, err := h.dial().NewSession()
	must(t, err)
	must(t, s.Start("app-server proxy"))
	wait(t, "the session", began)
	h.authorize(newKey(t).line("somebody else"))
	if err := wait(t, "the end", why); !errors.Is(err, rpc.ErrExpelled) {
		t.Errorf("it ended with %v", err)
	}
}

// A terminal in front of the protocol changes no byte of it; the person gets a
// sentence on stderr and can leave as from any program.
func TestAppServerWithATerminalStaysAProtocol(t *testing.T) {
	for key, b := range map[string]string{"Ctrl-D": "\x04", "Ctrl-C": "\x03"} {
		t.Run(key, func(t *testing.T) {
			h := start(t, nil)
			s := h.dial().terminal(t, 80, 24)
			in, err := s.StdinPipe()
			must(t, err)
			var out, errs lockedBuffer
			s.Stdout, s.Stderr = &out, &errs
			must(t, s.Start("app-server"))
			_, err = io.WriteString(in, "{\"a\":\"\r\n\"}\n"+b+"not read")
			must(t, err)
			if st := exitStatus(t, s.Wait()); st != 0 {
				t.Errorf("status %d", st)
			}
			if got := out.String(); got != "{\"a\":\"\r\n\"}\n" {
				t.Errorf("stdout %q", got)
			}
			if !strings.Contains(errs.String(), "Ctrl-D leaves") {
				t.Errorf("stderr %q does not say how to leave", errs.String())
			}
		})
	}
}

func TestAppServerErrors(t *testing.T) {
	secret := errors.New("open /home/ana/.codex/auth.json: permission denied")
	for name, tc := range map[string]struct {
		err  error
		want result
	}{
		"end of input":   {io.EOF, result{"", "", 0}},
		"for the person": {&config.Problem{Stage: "engine", Err: errors.New("codex is not there"), Hints: []string{"install it"}, Exit: 4}, result{"", "error: engine: codex is not there\nhint: install it\n", 4}},
		"for the log":    {secret, result{"", "towline: the app-server connection ended with an error; the host's log says which\n", 1}},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, func(c *Config) {
				c.AppServer = func(context.Context, io.ReadWriteCloser, access.Principal, string) error { return tc.err }
			})
			if got := h.dial().exec(t, "app-server"); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if tc.err == secret && !strings.Contains(h.log.String(), "permission denied") {
				t.Error("the log does not hold the cause")
			}
		})
	}
}

// Closing the stream ends a Read that waits for the client, and the exit status
// still arrives: a gate gives up on a connection this way.
func TestClosingTheStreamKeepsTheExitStatus(t *testing.T) {
	h := start(t, func(c *Config) {
		c.AppServer = func(_ context.Context, rw io.ReadWriteCloser, _ access.Principal, _ string) error {
			read := make(chan error, 1)
			go func() {
				_, err := rw.Read(make([]byte, 1))
				read <- err
			}()
			_ = rw.Close()
			if err := <-read; !errors.Is(err, io.EOF) {
				t.Errorf("Read ended with %v", err)
			}
			if _, err := rw.Write([]byte("late")); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("Write ended with %v", err)
			}
			return errors.New("gone")
		}
	})
	s, err := h.dial().NewSession()
	must(t, err)
	_, err = s.StdinPipe() // stays open
	must(t, err)
	must(t, s.Start("app-server"))
	if st := exitStatus(t, s.Wait()); st != 1 {
		t.Errorf("status %d", st)
	}
}

func TestRolesAndRestrictionsOfAKey(t *testing.T) {
	seen := make(chan access.Principal, 1)
	h := start(t, func(c *Config) {
		c.UI = func(_ context.Context, s *Session) int { seen <- s.Principal; return 7 }
		c.AppServer = func(_ context.Context, _ io.ReadWriteCloser, p access.Principal, _ string) error {
			seen <- p
			return nil
		}
	})
	ui := []string{"-tt"}
	for name, tc := range map[string]struct {
		options string
		flags   []string
		command string
		role    protocol.Role // RoleNone: nothing runs
		status  int
		stderr  string
	}{
		"owner":                       {"", ui, "", protocol.RoleAdmin, 7, ""},
		"approver":                    {`environment="TOWLINE_ROLE=approver" `, ui, "", protocol.RoleApprover, 7, ""},
		"observer, protocol":          {`environment="TOWLINE_ROLE=observer" `, nil, "app-server", protocol.RoleObserver, 0, ""},
		"restrict has no UI":          {`restrict `, ui, "", protocol.RoleNone, 255, "PTY allocation request failed"},
		"restrict has the protocol":   {`restrict `, nil, "app-server", protocol.RoleAdmin, 0, ""},
		"no-pty has no UI":            {`no-pty `, ui, "", protocol.RoleNone, 255, "PTY allocation request failed"},
		"restrict,pty has the UI":     {`restrict,pty `, ui, "", protocol.RoleAdmin, 7, ""},
		"forced over a shell":         {`command="app-server",restrict `, nil, "", protocol.RoleAdmin, 0, ""},
		"forced over another command": {`command="app-server" `, nil, "help", protocol.RoleAdmin, 0, ""},
		"forced over a subsystem":     {`command="help" `, []string{"-s"}, "codex-app-server", protocol.RoleNone, 0, ""},
		"forced and unknown":          {`command="backup" `, nil, "app-server", protocol.RoleNone, 127, `no command "backup"`},
	} {
		t.Run(name, func(t *testing.T) {
			key := newKey(t)
			h.authorize(tc.options + key.line("guest"))
			args := append(append([]string{}, tc.flags...), h.sshOptions(key)...)
			if tc.command != "" {
				args = append(args, tc.command)
			}
			got := run(t, exec.Command(program(t, "ssh"), args...), nil)
			all := got.stdout + got.stderr
			if got.status != tc.status || !strings.Contains(all, tc.stderr) {
				t.Errorf("got %v, want status %d and %q", got, tc.status, tc.stderr)
			}
			select {
			case p := <-seen:
				if p.Role != tc.role || p.ID != key.fingerprint() || p.Kind != access.KindKey || p.Name != "guest" {
					t.Errorf("ran as %+v, want role %s", p, tc.role)
				}
			default:
				if tc.role != protocol.RoleNone {
					t.Error("nothing ran")
				}
			}
		})
	}
}

// A client that goes on without the terminal it was refused, as `ssh host` from
// a terminal does, is told what it may do instead.
func TestRefusedTerminalIsExplained(t *testing.T) {
	h := start(t, nil)
	h.authorize("restrict " + h.key.line("ci"))
	s, err := h.dial().NewSession()
	must(t, err)
	if err := s.RequestPty("xterm", 24, 80, nil); err == nil {
		t.Fatal("a restricted key got a terminal")
	}
	var errs lockedBuffer
	s.Stderr = &errs
	must(t, s.Shell())
	if st := exitStatus(t, s.Wait()); st != 1 || !strings.Contains(errs.String(), "ssh -T HOST app-server") {
		t.Errorf("status %d, stderr %q", st, errs.String())
	}
}

func TestPanicCostsOneSession(t *testing.T) {
	h := start(t, func(c *Config) {
		c.AppServer = func(context.Context, io.ReadWriteCloser, access.Principal, string) error { panic("boom") }
	})
	c := h.dial()
	if got := c.exec(t, "app-server"); got.status != 1 || got.stdout+got.stderr != "" {
		t.Errorf("got %v", got)
	}
	if got := c.exec(t, "help"); got.status != 0 {
		t.Errorf("the connection did not survive: %v", got)
	}
	if !strings.Contains(h.log.String(), "boom") {
		t.Error("the panic is not in the log")
	}
}
