//go:build unix

package sshconfig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"towline/config"
)

// script makes a program of sh lines to stand for ssh.
func script(t *testing.T, lines string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ssh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+lines), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return path
}

// write makes a configuration file.
func write(t *testing.T, text string) Options {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Options{UserFile: path}
}

func TestResolveDestinations(t *testing.T) {
	needSSH(t)
	o := write(t, "Host dev\n HostName dev.example.com\n User alice\n Port 2200\nHost ::1\n User six\n")
	for in, want := range map[string]string{
		"dev":                    "dev alice@dev.example.com:2200",
		"bob@dev":                "dev bob@dev.example.com:2200",
		`CORP\bob@dev`:           `dev CORP\bob@dev.example.com:2200`,
		"a@b@dev":                "dev a@b@dev.example.com:2200",
		"ssh://dev":              "dev alice@dev.example.com:2200",
		"ssh://bob@dev:99":       "dev bob@dev.example.com:99",
		"ssh://bob@dev:99/":      "dev bob@dev.example.com:99",
		"SSH://bob%2Bx@dev":      "dev bob+x@dev.example.com:2200",
		"unlisted.example.com":   "unlisted.example.com me@unlisted.example.com:22",
		"::1":                    "::1 six@::1:22",
		"ssh://[::1]:2222":       "::1 six@::1:2222",
		"UPPER.example.com":      "UPPER.example.com me@upper.example.com:22",
		"under_score.ex-ample.c": "under_score.ex-ample.c me@under_score.ex-ample.c:22",
	} {
		for _, program := range []string{"", NoProgram} {
			o := o
			o.Program, o.User = program, "me"
			got, err := Resolve(t.Context(), o, in)
			if err != nil {
				t.Errorf("%q: %v", in, err)
				continue
			}
			who := got.User
			if program == "" && !strings.Contains(in, "@") && who == o.withLocalUser() {
				who = "me" // ssh asks the system who runs it
			}
			if s := fmt.Sprintf("%s %s@%s:%d", got.Alias, who, got.HostName, got.Port); s != want {
				t.Errorf("%q by %s is %s, want %s", in, got.Source, s, want)
			}
		}
	}
	for in, want := range map[string]string{
		"dev:99":           "dev alice@dev.example.com:99",
		"bob@dev:99":       "dev bob@dev.example.com:99",
		"[::1]:99":         "::1 six@::1:99",
		"::1":              "::1 six@::1:22",
		"ssh://bob@dev:99": "dev bob@dev.example.com:99",
	} {
		got, err := ResolveHop(t.Context(), o, in)
		if s := fmt.Sprintf("%s %s@%s:%d", got.Alias, got.User, got.HostName, got.Port); err != nil || s != want {
			t.Errorf("hop %q is %s (%v), want %s", in, s, err, want)
		}
	}
}

// withLocalUser is who runs the test.
func (o Options) withLocalUser() string { return Options{}.withDefaults().User }

// A name becomes an argument of ssh and a word in somebody's ProxyCommand.
func TestNamesThatCannotBeHostsAreRefused(t *testing.T) {
	proof := filepath.Join(t.TempDir(), "ran")
	o := Options{Program: script(t, "touch "+proof+"\n")}
	for _, name := range []string{
		"", "-", "-oProxyCommand=touch x", "--", "a b", "a\tb", "a\nb", "a\x00b", "a\x1b[2J", "a\u00a0b", "a\x7f", "\xff\xfe",
		"$(reboot)", "a;b", "a|b", "a`b`", "a'b", `a"b`, "a&b", "a>b", "a<b", "a(b)", "a{b,c}", `a\b`, "a,b", strings.Repeat("a", 1025),
		"@host", "user@", "user@-x", "-u@host", "u;x@host", "u x@host", "u\n@host", `u\@host`, "$u`id`@host",
		"ssh://", "ssh://@h", "ssh://h:0", "ssh://h:65536", "ssh://h:x", "ssh://h:", "ssh://[::1", "ssh://[::1]x", "ssh://%2dx@h", "ssh://a%20b@h",
	} {
		for what, resolve := range map[string]func(context.Context, Options, string) (Target, error){"name": Resolve, "hop": ResolveHop} {
			_, err := resolve(t.Context(), o, name)
			if err == nil {
				t.Errorf("%s %q was accepted", what, name)
				continue
			}
			var p *config.Problem
			if !errors.As(err, &p) || p.Stage != "resolve" || p.Exit != config.ExitUsage || len(p.Hints) == 0 || strings.ContainsAny(err.Error(), "\x00\x1b\n\x7f") {
				t.Errorf("%s %q: %q", what, name, err)
			}
		}
	}
	if exists(proof) {
		t.Error("ssh was run for a name that was refused")
	}
}

// What ssh cannot make sense of is said with its file and line, and what to do.
func TestResolveExplainsWhatSSHSays(t *testing.T) {
	needSSH(t)
	for name, tc := range map[string]struct{ config, err, hint string }{
		"unknown option": {"Host a\n  HostNam b\n", "line 2: Bad configuration option: hostnam", "mend line 2 of "},
		"open quote":     {"Host \"a\n", "line 1: invalid quotes", "mend line 1 of "},
		"bad value":      {"Port none\n", "line 1: Bad port 'none'.", "mend line 1 of "},
		"too much":       {"# x\nUser a b\n", "line 2: keyword user extra arguments", "mend line 2 of "},
		"bad token":      {"IdentityFile ~/%Z\n", "IdentityFile ~/%Z: unknown token %Z", "ssh -G -F "},
		"lone percent":   {"CertificateFile ~/%\n", "CertificateFile ~/%: a lone % at the end", "ssh -G -F "},
		"bad hop":        {"ProxyJump a@b-%z\n", "ProxyJump a@b-%z: unknown token %z", "ssh -G -F "},
		"host of signs":  {"HostName a;reboot\n", "the host name holds ';'", "ssh -G -F "},
	} {
		t.Run(name, func(t *testing.T) {
			o := write(t, tc.config)
			_, err := Resolve(t.Context(), o, "dev")
			var p *config.Problem
			if !errors.As(err, &p) || p.Stage != "resolve" || p.Exit != config.ExitConfig || !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("got %v, want %q", err, tc.err)
			}
			if hints := strings.Join(p.Hints, "\n"); !strings.Contains(hints, tc.hint) || !strings.Contains(hints, o.UserFile) {
				t.Errorf("hints %q, want %q", hints, tc.hint)
			}
		})
	}
}

func TestResolveExplainsOtherFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		script, err, hint string
		exit              int
	}{
		"permissions": {"echo 'Bad owner or permissions on /home/me/.ssh/config' >&2; exit 255", "Bad owner or permissions on /home/me/.ssh/config", "chmod 600 /home/me/.ssh/config", config.ExitConfig},
		"silent":      {"exit 3", "ssh does not make sense of it (exit status 3): it said nothing", "ssh -G dev", config.ExitConfig},
		"escapes":     {`printf '\033[2Jbad\007\r\n' >&2; exit 255`, "exit status 255): [2Jbad", "ssh -G dev", config.ExitConfig},
		"not ssh":     {"echo hello", "not a configuration: no hostname", "ssh -G dev", config.ExitFailure},
		"binary":      {`printf 'hostname a\377\nport 22\nuser u\n'`, "not a configuration: it is not text", "ssh -G dev", config.ExitFailure},
		"endless":     {"yes 'identityfile x' | head -c 3000000", "not a configuration: more than 10000 lines", "ssh -G dev", config.ExitFailure},
		"bad number":  {`printf 'hostname a\nport 99999\nuser u\n'`, `Port: "99999" is not a number from 1 to 65535`, "ssh -G dev", config.ExitConfig},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Resolve(t.Context(), Options{Program: script(t, tc.script)}, "dev")
			if err == nil || !strings.Contains(err.Error(), tc.err) || strings.ContainsAny(err.Error(), "\x1b\x07\r") || config.ExitCode(err) != tc.exit {
				t.Errorf("got %q (exit %d), want %q", err, config.ExitCode(err), tc.err)
			}
			if hints := strings.Join(config.Hints(err), "\n"); !strings.Contains(hints, tc.hint) {
				t.Errorf("hints %q, want %q", hints, tc.hint)
			}
		})
	}
	if _, err := Resolve(t.Context(), Options{Program: "/nowhere/ssh"}, "dev"); config.ExitCode(err) != config.ExitConfig || len(config.Hints(err)) == 0 {
		t.Errorf("a program that is not there: %v", err)
	}
}

// What ssh says besides is kept, and what every ssh without a terminal says is
// not. Options newer than this program do no harm.
func TestResolveKeepsWhatSSHSays(t *testing.T) {
	o := Options{Program: script(t, `
cat >&2 <<'E'
Pseudo-terminal will not be allocated because stdin is not a terminal.
/etc/ssh/ssh_config line 9: Deprecated option "useroaming"
E
cat <<'E'
host dev
hostname dev.example.com
user me
port 22
futureoption one two
futureoption three
refuseconnection none
`+"\r"+`
E
`)}
	got, err := Resolve(t.Context(), o, "dev")
	if err != nil || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "Deprecated") {
		t.Errorf("warnings %q, %v", got.Warnings, err)
	}
	if v := got.Options["futureoption"]; !slices.Equal(v, []string{"one two", "three"}) {
		t.Errorf("a newer option is %q", v)
	}
}

// ssh runs without a terminal, in a session of its own, and what it started ends
// with it when it takes too long.
func TestResolveEndsWhatItStarted(t *testing.T) {
	dir := t.TempDir()
	program := script(t, "sleep 1000 &\necho $! >"+dir+"/child\ncut -d' ' -f1,6 /proc/$$/stat >"+dir+"/session 2>/dev/null\nmv "+dir+"/child "+dir+"/started\nwait\n")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	go func() { // as soon as it runs, its time is over
		defer cancel(context.DeadlineExceeded)
		for end := time.Now().Add(40 * time.Second); !exists(dir+"/started") && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
	}()
	_, err := Resolve(ctx, Options{Program: program}, "dev")
	if err == nil {
		t.Fatal("no error")
	}
	raw, err := os.ReadFile(dir + "/started")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(40 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // the test's own
			t.Fatal("what it started lives on")
		}
	}
	if raw, err := os.ReadFile(dir + "/session"); err == nil && len(raw) > 0 {
		if f := strings.Fields(string(raw)); len(f) != 2 || f[0] != f[1] {
			t.Errorf("process and session are %q: it has our terminal", f)
		}
	}
}

// alive says whether a process still runs; one that only waits to be collected
// does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(raw), ") Z ")
}

func TestResolveTakesNotForEver(t *testing.T) {
	out, _, err := run(t.Context(), 50*time.Millisecond, script(t, "echo early; sleep 1000"), nil)
	if !errors.Is(err, context.DeadlineExceeded) || string(out) != "early\n" && len(out) != 0 {
		t.Errorf("got %q, %v", out, err)
	}
	err = explain("ssh -G dev", "", context.DeadlineExceeded)
	if !strings.Contains(err.Error(), "`ssh -G dev` did not answer within 5s") || !strings.Contains(config.Hints(err)[0], "ssh -vG dev") {
		t.Errorf("got %v, %v", err, config.Hints(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Resolve(ctx, Options{Program: script(t, "sleep 1000")}, "dev"); config.ExitCode(err) != config.ExitInterrupted {
		t.Errorf("cancelled: %v", err)
	}
	// A child that holds the pipes open does not hold us.
	out, _, err = run(t.Context(), 40*time.Second, script(t, "sleep 3 & echo done"), nil)
	if err != nil || string(out) != "done\n" {
		t.Errorf("with a lingering child: %q, %v", out, err)
	}
}

// With ExitOnForwardFailure ssh -G gives up where an agent to forward is absent.
func TestAgentToForwardMayBeAbsent(t *testing.T) {
	needSSH(t)
	o := write(t, "Host dev\n HostName dev.example.com\n ForwardAgent /nowhere/agent\n ExitOnForwardFailure yes\n")
	got, err := Resolve(t.Context(), o, "dev")
	if err != nil || got.HostName != "dev.example.com" || got.ForwardAgent != "/nowhere/agent" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Match exec is decided by running it, which is why only one host is ever asked
// about.
func TestResolveDecidesMatchExec(t *testing.T) {
	needSSH(t)
	o := write(t, "Match originalhost dev exec \"test %n = dev\"\n ProxyJump gate\nHost dev\n HostName dev.example.com\n")
	got, err := Resolve(t.Context(), o, "dev")
	if err != nil || !slices.Equal(got.ProxyJump, []string{"gate"}) {
		t.Errorf("got %v, %v", got.ProxyJump, err)
	}
}
