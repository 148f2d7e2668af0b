//go:build linux

package bootstrap

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"towline/appserver/rpc"
	"towline/launcher/remote"
)

const rehearsal = "[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n"

// resumed wraps a link as the launcher does.
func resumed(t testing.TB, s rpc.Stream) rpc.Stream {
	t.Helper()
	links := make(chan rpc.Stream, 1)
	links <- s
	return rpc.NewResumable(rpc.ResumeOptions{Dial: func(ctx context.Context) (rpc.Stream, error) {
		select {
		case s := <-links:
			return s, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
}

// From nothing to a daemon that others join: installed, started with the login
// environment, found again, and reached by its own program after an update.
func TestTowlineFromNothingToADaemonThatOthersJoin(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	p := newPerson(t, s, "bash", map[string]string{
		".config/towline/config.toml": rehearsal,
		".bashrc":                     noise + "\ncase $- in *i*) ;; *) return ;; esac\nexport FROM_RC=yes\n",
		".bash_profile":               ". ~/.bashrc\n",
	})
	o := options(t)
	o.Version = "1.2.3"
	rep := probe(t, p.local, o)
	ch := install(t, p, rep, build(t, towline(t, "1.2.3"), "1.2.3"))
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			link, opened, err := Open(t.Context(), p, rep, ch)
			if err != nil {
				t.Errorf("Open: %v", err)
				return
			}
			if !opened.Resumable || opened.CutEndsTurn || opened.Kind != Towline || opened.Version != "1.2.3" {
				t.Errorf("opened %+v", opened)
			}
			c, agent := converse(t, resumed(t, link))
			if !strings.Contains(agent, "1.2.3") {
				t.Errorf("%q answers", agent)
			}
			c.hangUp()
		})
	}
	wg.Wait()
	sock := filepath.Join(p.home, ".local/state/towline/run/towline.sock")
	first := p.daemons(t, sock)
	if len(first) != 1 || !strings.Contains(first[0], "\x00FROM_RC=yes\x00") {
		t.Fatalf("%d daemons, or one without the login environment", len(first))
	}

	// The daemon is found, and joined without asking the rc files again.
	p.put(t, ".bash_profile", "touch ~/asked\n", 0o600)
	rep = probe(t, p.local, o)
	_ = os.Remove(filepath.Join(p.home, "asked"))
	ch = choose(t, rep, o)
	if ch.Action != Join || ch.Candidate.Socket != sock || ch.Candidate.Version != "1.2.3" || ch.Skew.Kind != Same {
		t.Fatalf("chose %+v", ch)
	}
	ch.Plain = true
	link, opened := open(t, p.local, rep, ch)
	if opened.Resumable {
		t.Error("resumption was offered although it was not to be")
	}
	c, _ := converse(t, link)
	c.hangUp()
	if _, err := os.Stat(filepath.Join(p.home, "asked")); err == nil {
		t.Error("joining a daemon ran the rc files")
	}

	// An update leaves it running, and says of which version it is.
	install(t, p, rep, build(t, towline(t, "2.0.0"), "2.0.0"))
	install(t, p, rep, pretend(t, "2.0.1", 10))
	install(t, p, rep, pretend(t, "2.0.2", 10)) // the one that runs is not among the kept two
	rep = probe(t, p.local, o)
	ch = choose(t, rep, o)
	if ch.Action != Join || ch.Candidate.Version != "1.2.3" || !strings.Contains(ch.Candidate.Path, "/versions/1.2.3/") {
		t.Errorf("after updates it chose %+v", ch)
	}
	// Even one whose file is gone is reached by its own program.
	if err := os.RemoveAll(filepath.Join(p.home, ".local/share/towline/versions/1.2.3")); err != nil {
		t.Fatal(err)
	}
	rep = probe(t, p.local, o)
	ch = choose(t, rep, o)
	if ch.Action != Join || ch.Candidate.Version != "1.2.3" || !strings.HasPrefix(ch.Candidate.Path, "/proc/") {
		t.Errorf("with its file removed it chose %+v", ch)
	}
	link, _ = open(t, p.local, rep, ch)
	c, agent := converse(t, resumed(t, link))
	c.hangUp()
	if !strings.Contains(agent, "1.2.3") {
		t.Errorf("%q answers", agent)
	}

	// Asked to, it makes room once it has nothing to do.
	next := install(t, p, rep, build(t, towline(t, "2.0.0"), "2.0.0"))
	over, err := HandOver(t.Context(), p, rep, next)
	if err != nil || !over {
		t.Fatalf("HandOver: %v, %v", over, err)
	}
	link, opened = open(t, p.local, rep, next)
	c, agent = converse(t, resumed(t, link))
	c.hangUp()
	if !strings.Contains(agent, "2.0.0") || !opened.Resumable {
		t.Errorf("then %q answers: %+v", agent, opened)
	}
}

// daemons are the environments of the processes that serve at sock, told by
// being towline and not a proxy.
func (p *person) daemons(t testing.TB, sock string) []string {
	t.Helper()
	if _, err := os.Stat(sock); err != nil {
		t.Errorf("the daemon does not serve at %s: %v", sock, err)
	}
	var out []string
	for _, pid := range p.processes("app-server") {
		dir := filepath.Join("/proc", itoa(pid))
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		exe, _ := os.Readlink(filepath.Join(dir, "exe"))
		if !strings.Contains(string(args), "proxy") && strings.Contains(exe, "/versions/") {
			out = append(out, "\x00"+string(env))
		}
	}
	return out
}

func TestWhatDoesNotStartSaysWhy(t *testing.T) {
	for name, tc := range map[string]struct{ program, stage, want, hint string }{
		"dies":         {"echo 'error: no room for sockets' >&2; exit 4", remote.StageStart, "no room for sockets", "doctor dev"},
		"advises":      {"printf 'error: start: no room\\nhint: run `towline status`\\n' >&2; exit 4", remote.StageStart, "(exit status 4); it said: start: no room", "on dev: run `towline status`"},
		"speaks":       {"echo 'Usage: towline [command]'; exit 0", remote.StageHandshake, "does not speak HTTP", "doctor dev"},
		"says nothing": {"exit 0", remote.StageHandshake, "does not answer", "doctor dev"},
		"refuses":      {"printf 'HTTP/1.1 403 Forbidden\\r\\nContent-Length: 8\\r\\n\\r\\nnot you\\033'; cat >/dev/null", remote.StageHandshake, "403 Forbidden: not you", "doctor dev"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLocal(t, "bash")
			path := l.write(t, "towline", "#!/bin/sh\n"+tc.program+"\n", 0o700)
			rep := probe(t, l, options(t))
			_, _, err := Open(t.Context(), l, rep, Choice{Action: Start, Candidate: Candidate{Kind: Towline, Path: path}})
			refused(t, err, tc.stage, tc.want, tc.hint)
		})
	}
	l := newLocal(t, "bash")
	rep := probe(t, l, options(t))
	_, _, err := Open(t.Context(), l, rep, Choice{Action: Start, Candidate: Candidate{Kind: Codex, Path: "/gone/codex"}})
	refused(t, err, remote.StageStart, "/gone/codex is not there any more", "doctor dev")
	_, _, err = Open(t.Context(), l, rep, Choice{Action: Start, Candidate: Candidate{Kind: Codex, Path: "/bin/true"}, Env: map[string]string{"A B": ""}})
	refused(t, err, remote.StageStart, "cannot be an environment variable", "SetEnv")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = Open(ctx, l, rep, Choice{Action: Start, Candidate: Candidate{Kind: Codex, Path: "/bin/true"}})
	if err == nil {
		t.Error("Open with a context that ended went well")
	}
}

// Where the system does not tell who listens, a socket is asked before it is
// believed, and a dead one starts a daemon.
func TestDeadSocketStartsADaemon(t *testing.T) {
	for name, prelude := range map[string]string{"told by the kernel": "", "asked": "listening() { tl_inode=; }\n"} {
		for _, alive := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, alive %v", name, alive), func(t *testing.T) {
				t.Parallel()
				l := newLocal(t, "bash")
				// It says how it was called, and cannot connect to what is dead.
				path := l.write(t, "towline", "#!/bin/sh\n[ \"$3\" = --sock ] && [ -e ~/dead ] && exit 1\n[ -t 0 ] || read -r x || exit 0\necho \"called: $*\" >&2\nexit 1\n", 0o700)
				dir, err := os.MkdirTemp("", "tl")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.RemoveAll(dir) })
				sock := filepath.Join(dir, "towline.sock")
				ln, err := net.Listen("unix", sock)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = ln.Close() }()
				want := "proxy --sock " + sock
				if !alive {
					ln.(*net.UnixListener).SetUnlinkOnClose(false)
					_ = ln.Close()
					l.write(t, "dead", "", 0o600)
					want = "proxy --start"
				}
				o := options(t)
				o.prelude = prelude
				rep := probe(t, l, o)
				_, _, err = Open(t.Context(), l, rep, Choice{Action: Join, Candidate: Candidate{Kind: Towline, Path: path, Socket: sock}})
				refused(t, err, remote.StageStart, "called: app-server "+want, "doctor")
			})
		}
	}
}

// Towline's own SSH door runs no shell: a Remote that knows its two commands.
func TestOwnDoorIsOpenedWithoutAShell(t *testing.T) {
	for name, tc := range map[string]struct {
		proxy string
		note  bool
	}{
		"an old one":            {"echo 'towline: app-server speaks on stdin and stdout here and takes no arguments' >&2; exit 2", true},
		"with a forced command": {"exec cat", true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLocal(t, "bash")
			l.server = doorServer
			var asked []string
			l.wrap = func(command string) *exec.Cmd {
				asked = append(asked, command)
				script := tc.proxy
				if command == doorLines {
					script = "exec cat"
				}
				return exec.Command("sh", "-c", script) //nolint:noctx // Exec's business
			}
			rep := probe(t, l, options(t))
			s, opened := open(t, l, rep, choose(t, rep, options(t)))
			defer func() { _ = s.Close(nil) }()
			if opened.CutEndsTurn || opened.Resumable || (opened.Note != "") != tc.note || strings.Join(asked, "; ") != "app-server proxy; app-server" {
				t.Errorf("opened %+v by %q", opened, asked)
			}
			if err := s.Write(t.Context(), []byte("{}")); err != nil {
				t.Fatal(err)
			}
			if msg, err := s.Read(t.Context()); err != nil || string(msg) != "{}" {
				t.Errorf("read %q, %v", msg, err)
			}
		})
	}
}

// The last words of a program that ends later are there to be shown.
func TestStderrOfTheProgramIsKept(t *testing.T) {
	l := newLocal(t, "bash")
	path := l.write(t, "codex", "#!/bin/sh\nread -r x; printf '{}\\n'; read -r x; echo 'WARNING: x' >&2; printf '\\033[31mError: out of \\007memory\\n' >&2; exit 1\n", 0o700)
	rep := probe(t, l, options(t))
	s, opened, err := Open(t.Context(), l, rep, Choice{Action: Stdio, Candidate: Candidate{Kind: Codex, Path: path}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(nil) }()
	for range 2 {
		if err := s.Write(t.Context(), []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	for {
		if _, err := s.Read(t.Context()); err != nil {
			break
		}
	}
	within(t, "the last words", func() bool { return opened.Stderr() == "Error: out of memory" })
}
