package sandbox

import (
	"log/slog"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"towline/appserver/protocol"
)

// probes are run inside a sandbox: the test binary is started again with
// "probe", a name and arguments.
var probes = map[string]func(args []string) error{}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case Command:
			os.Exit(Main(os.Args[2:]))
		case "probe":
			if err := probes[os.Args[2]](os.Args[3:]); err != nil {
				_, _ = os.Stdout.WriteString("probe: " + err.Error() + "\n")
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func self(t testing.TB) string {
	t.Helper()
	p, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// runner is a Runner over the test binary; the tests need what Check wants.
func runner(t testing.TB) *Runner {
	t.Helper()
	r := New(self(t), slog.New(slog.DiscardHandler))
	if err := r.Check(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI must be able to confine programs: %v", err)
		}
		t.Skipf("NOT TESTED, this machine cannot confine programs: %v", err)
	}
	return r
}

// both runs a test with and without the optional namespace layer.
func both(t *testing.T, test func(t *testing.T, r *Runner)) {
	t.Helper()
	r := runner(t)
	t.Run("landlock alone", func(t *testing.T) {
		alone := New(r.self, r.log)
		alone.probe.Do(func() {})
		test(t, alone)
	})
	t.Run("with namespaces", func(t *testing.T) {
		if !r.support().namespaces {
			if os.Getenv("CI") == "true" {
				t.Fatalf("CI must allow user namespaces: %v", r.Weaknesses())
			}
			t.Skipf("NOT TESTED, namespaces do not work here: %v", r.Weaknesses())
		}
		test(t, r)
	})
}

// run runs argv in dir under p and returns its output and status.
func run(t *testing.T, r *Runner, p protocol.SandboxPolicy, dir string, argv ...string) (string, int) {
	t.Helper()
	path, err := osexec.LookPath(argv[0])
	if err != nil {
		t.Fatal(err)
	}
	cmd := &osexec.Cmd{Path: path, Args: argv, Dir: dir, Env: []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "HOME=" + dir, "LC_ALL=C"}}
	if err := r.Confine(cmd, p); err != nil {
		t.Fatalf("confine: %v", err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("start %q: %v", argv, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func sh(t *testing.T, r *Runner, p protocol.SandboxPolicy, dir, script string) (string, int) {
	t.Helper()
	return run(t, r, p, dir, "/bin/sh", "-c", script)
}

var (
	readOnly  = protocol.SandboxPolicy{Type: protocol.PolicyReadOnly}
	workspace = protocol.SandboxPolicy{Type: protocol.PolicyWorkspaceWrite, ExcludeSlashTmp: true}
)

// project makes a workspace with control folders and a place outside of it.
// Neither is under /tmp or $TMPDIR of the confined program.
func project(t *testing.T) (ws, outside string) {
	t.Helper()
	base := t.TempDir()
	ws, outside = filepath.Join(base, "ws"), filepath.Join(base, "outside")
	for _, d := range []string{ws + "/.git/hooks", ws + "/.codex", ws + "/sub", outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, ws+"/old.txt", "old")
	write(t, ws+"/.git/config", "git")
	write(t, outside+"/precious", "precious")
	return ws, outside
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, path, text string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || string(b) != text {
		t.Errorf("%s holds %q (%v), want %q", path, b, err, text)
	}
}

func missing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s exists (%v)", path, err)
	}
}

func TestWorkspaceIsWritable(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		ws, _ := project(t)
		out, code := sh(t, r, workspace, ws, `
			set -e
			echo new > new.txt; echo more >> old.txt; mkdir -p a/b; mv new.txt a/b/; ln old.txt sub/hard; ln -s old.txt soft
			chmod 755 a/b/new.txt; touch -d 2001-01-01 a/b/new.txt; echo t > "$TMPDIR/x"; rm "$TMPDIR/x"
			echo > /dev/null; cat /etc/passwd > copy; echo noise > /dev/stderr; mkfifo pipe; (sleep 0; echo done)`)
		if code != 0 {
			t.Fatalf("exit %d: %s", code, out)
		}
		want(t, ws+"/a/b/new.txt", "new\n")
		if !strings.Contains(out, "noise") || !strings.Contains(out, "done") {
			t.Errorf("output %q", out)
		}
	})
}

func TestReadOnlyReadsEverythingAndWritesNothing(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		ws, outside := project(t)
		out, code := sh(t, r, readOnly, ws, `cat `+outside+`/precious; echo x > new.txt; echo x > "$TMPDIR/x"; echo x > /tmp/towline-escape; chmod 777 old.txt; touch old.txt; rm old.txt`)
		if code == 0 || !strings.HasPrefix(out, "precious") {
			t.Errorf("exit %d, output %q", code, out)
		}
		want(t, ws+"/old.txt", "old")
		missing(t, ws+"/new.txt")
		missing(t, "/tmp/towline-escape")
		if st, _ := os.Stat(ws + "/old.txt"); st.Mode().Perm() != 0o644 {
			t.Errorf("mode changed to %v", st.Mode())
		}
	})
}

func TestNothingOutsideTheWorkspaceChanges(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		for name, script := range map[string]string{
			"write":              `echo x > ../outside/precious`,
			"append":             `echo x >> ../outside/precious`,
			"create":             `echo x > ../outside/new`,
			"through a symlink":  `ln -s ../outside/precious link && echo x > link`,
			"directory symlink":  `ln -s ../outside d && echo x > d/new`,
			"rename into":        `mv old.txt ../outside/new`,
			"rename out of":      `mv ../outside/precious here`,
			"rename over":        `mv -f old.txt ../outside/precious`,
			"link into":          `ln old.txt ../outside/new`,
			"link then write":    `ln ../outside/precious hard && echo x > hard`,
			"truncate":           `truncate -s 0 ../outside/precious`,
			"delete":             `rm -f ../outside/precious`,
			"mkdir":              `mkdir ../outside/new`,
			"symlink":            `ln -s x ../outside/new`,
			"exchange directory": `mv ../ws ../ws2`,
			"bind mount":         `mount --bind . ../outside`,
			"namespace":          `unshare -Urm sh -c 'mount --bind . ../outside; echo x > ../outside/precious'`,
			"chroot":             `chroot ../outside sh -c 'echo x > /precious'`,
			"dd through proc":    `dd if=/dev/zero of=/proc/self/root` + `"$PWD"/../outside/precious count=1`,
			"proc cwd":           `echo x > /proc/self/cwd/../outside/precious`,
			"a parent's root":    `echo x > /proc/$PPID/root` + `"$PWD"/../outside/precious`,
			"other process mem":  `echo x > /proc/$PPID/mem`,
		} {
			t.Run(name, func(t *testing.T) {
				ws, outside := project(t)
				sh(t, r, workspace, ws, script)
				want(t, outside+"/precious", "precious")
				entries, err := os.ReadDir(outside)
				if err != nil || len(entries) != 1 {
					t.Errorf("outside holds %v (%v)", entries, err)
				}
				if _, err := os.Stat(ws); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

func TestControlFoldersStayReadOnly(t *testing.T) {
	r := runner(t)
	if !r.support().namespaces {
		t.Skipf("NOT TESTED, namespaces do not work here: %v", r.Weaknesses())
	}
	for name, script := range map[string]string{
		"hook":           `echo x > .git/hooks/pre-commit`,
		"config":         `echo x > .git/config`,
		"rename away":    `mv .git .g; mkdir -p .git/hooks; echo x > .git/config`,
		"rename parent":  `mv ../ws/sub ../ws/sub2 && mv .codex sub2/`,
		"agent settings": `echo x > .codex/config.toml`,
		"mode":           `chmod 777 .git/config`,
	} {
		t.Run(name, func(t *testing.T) {
			ws, _ := project(t)
			sh(t, r, workspace, ws, script)
			want(t, ws+"/.git/config", "git")
			missing(t, ws+"/.git/hooks/pre-commit")
			missing(t, ws+"/.codex/config.toml")
			if st, err := os.Stat(ws + "/.git/config"); err != nil || st.Mode().Perm() != 0o644 {
				t.Errorf("config: %v %v", st, err)
			}
			if _, err := os.Stat(ws + "/.codex"); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("worktree", func(t *testing.T) {
		ws, outside := project(t)
		if err := os.RemoveAll(ws + "/.git"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(ws+"/sub/real", 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, ws+"/.git", "gitdir: sub/real\n")
		sh(t, r, workspace, ws, `echo x > .git; rm .git; echo x > sub/real/config; echo y > sub/fine`)
		want(t, ws+"/.git", "gitdir: sub/real\n")
		missing(t, ws+"/sub/real/config")
		want(t, ws+"/sub/fine", "y\n")
		_ = outside
	})
	t.Run("granted explicitly", func(t *testing.T) {
		ws, _ := project(t)
		p := workspace
		p.WritableRoots = []string{ws + "/.git"}
		if out, code := sh(t, r, p, ws, `echo x > .git/index`); code != 0 {
			t.Errorf("exit %d: %s", code, out)
		}
	})
}

func TestMetadataOutsideIsSafeWithNamespaces(t *testing.T) {
	r := runner(t)
	if !r.support().namespaces {
		t.Skipf("NOT TESTED, namespaces do not work here: %v", r.Weaknesses())
	}
	ws, outside := project(t)
	before, err := os.Stat(outside + "/precious")
	if err != nil {
		t.Fatal(err)
	}
	out, code := sh(t, r, workspace, ws, `chmod 777 ../outside/precious; touch ../outside/precious; chown 1:1 ../outside/precious`)
	after, err := os.Stat(outside + "/precious")
	if err != nil || code == 0 || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("exit %d, %v, before %v after %v: %s", code, err, before, after, out)
	}
}
