//go:build linux

package bootstrap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"towline/launcher/remote"
)

// real builds towline as version, once each.
var real struct {
	sync.Mutex
	dir  string
	done map[string]string
}

func init() {
	cleanUp = func() {
		if real.dir != "" {
			_ = os.RemoveAll(real.dir)
		}
	}
}

func towline(t testing.TB, version string) string {
	t.Helper()
	real.Lock()
	defer real.Unlock()
	if bin, ok := real.done[version]; ok {
		return bin
	}
	if real.dir == "" {
		dir, err := os.MkdirTemp("", "towline-bootstrap")
		if err != nil {
			t.Fatal(err)
		}
		real.dir, real.done = dir, map[string]string{}
	}
	bin := filepath.Join(real.dir, version)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.release="+version, "-o", bin, "towline/cmd/towline") //nolint:noctx // shared by all tests
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build towline: %v\n%s", err, out)
	}
	real.done[version] = bin
	return bin
}

// build is a Build of a file.
func build(t testing.TB, path, version string) Build {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return Build{
		Open: func() (io.ReadCloser, error) { return os.Open(path) }, Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:]),
		Version: version, OS: runtime.GOOS, Arch: runtime.GOARCH,
	}
}

// pretend is a small Build: a script that says its version, padded to size.
func pretend(t testing.TB, version string, size int) Build {
	t.Helper()
	about, err := json.Marshal(map[string]any{"version": version, "protocol": map[string]int{"min": 1, "max": 1}, "os": runtime.GOOS, "arch": runtime.GOARCH})
	if err != nil {
		t.Fatal(err)
	}
	text := "#!/bin/sh\necho '" + string(about) + "'\n#" + strings.Repeat("x", size) + "\n"
	path := filepath.Join(t.TempDir(), "towline")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return build(t, path, version)
}

func install(t testing.TB, l Remote, rep Report, b Build) Choice {
	t.Helper()
	ch, err := Install(t.Context(), l, rep, b, nil)
	if err != nil {
		t.Fatalf("Install: %v", err)
	}
	return ch
}

// tree lists what an install folder holds, without what is inside files.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		if target, err := os.Readlink(path); err == nil {
			rel += " -> " + target
		} else if strings.HasPrefix(filepath.Base(rel), "lock") {
			return nil
		} else if info.Mode().Perm()&0o077 != 0 {
			rel += " open to others"
		}
		out = append(out, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

// The real binary goes up, is checked, runs, and is found by the next look.
func TestTowlineIsInstalledWhereThereIsNothing(t *testing.T) {
	bin := towline(t, "1.2.3")
	b := build(t, bin, "1.2.3")
	l := newLocal(t, "bash")
	o := options(t)
	o.Version = "1.2.3"
	rep := probe(t, l, o)
	rep.Candidates = nil // whatever this machine has
	ch := choose(t, rep, o)
	if ch.Action != Offer || !strings.Contains(ch.Why, "/usr/bin") || !strings.Contains(ch.Why, ".nvm") {
		t.Fatalf("chose %+v", ch)
	}
	var calls, last int64
	ch, err := Install(t.Context(), l, rep, b, func(done, total int64) {
		calls++
		if done < last || total != b.Size {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	})
	if err != nil {
		t.Fatal(err)
	}
	if calls < 10 || last != b.Size {
		t.Errorf("%d calls of progress, the last at %d of %d", calls, last, b.Size)
	}
	want := filepath.Join(l.home, ".local/share/towline/versions/1.2.3/towline")
	if ch.Action != Start || ch.Candidate.Path != want || ch.Candidate.Version != "1.2.3" || ch.Skew.Kind != Same {
		t.Errorf("chose %+v", ch)
	}
	if got := tree(t, rep.InstallDir); got != "current -> versions/1.2.3/towline\nversions\nversions/1.2.3\nversions/1.2.3/towline" {
		t.Errorf("the folder holds\n%s", got)
	}
	rep = probe(t, l, o)
	if c := find(rep, "versions/1.2.3/towline"); c == nil || c.From != "installed" || c.Window.Max == 0 {
		t.Errorf("found %+v", rep.Candidates)
	}
	// Again, from another laptop with the same build: nothing is sent.
	ch, err = Install(t.Context(), l, rep, Build{
		Open: func() (io.ReadCloser, error) { return nil, errors.New("it was read") },
		Size: b.Size, SHA256: b.SHA256, Version: b.Version, OS: b.OS, Arch: b.Arch,
	}, nil)
	if err != nil || ch.Candidate.Path != want {
		t.Errorf("a second Install: %+v, %v", ch, err)
	}
}

func TestUpdateKeepsTheVersionBeforeAndCanGoBack(t *testing.T) {
	l := newLocal(t, "dash")
	rep := probe(t, l, options(t))
	install(t, l, rep, pretend(t, "1.0.0", 10))
	// A daemon of the oldest version goes on running.
	first := filepath.Join(rep.InstallDir, "versions/1.0.0/towline")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, sleep, first)
	daemon := exec.Command(first, "600") //nolint:noctx // ended below
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = daemon.Process.Kill(); _ = daemon.Wait() }()

	install(t, l, rep, pretend(t, "1.1.0", 10))
	install(t, l, rep, pretend(t, "1.2.0", 10))
	install(t, l, rep, pretend(t, "1.3.0", 10))
	if got := tree(t, rep.InstallDir); got != "current -> versions/1.3.0/towline\nprevious -> versions/1.2.0/towline\nversions\n"+
		"versions/1.0.0\nversions/1.0.0/towline\nversions/1.2.0\nversions/1.2.0/towline\nversions/1.3.0\nversions/1.3.0/towline" {
		t.Errorf("after three updates the folder holds\n%s", got)
	}
	rep = probe(t, l, options(t))
	if rep.Previous != "1.2.0" {
		t.Errorf("the report says that one could go back to %q", rep.Previous)
	}
	ch, err := Rollback(t.Context(), l, rep)
	if err != nil || ch.Candidate.Version != "1.2.0" || !strings.HasSuffix(ch.Candidate.Path, "versions/1.2.0/towline") {
		t.Fatalf("Rollback: %+v, %v", ch, err)
	}
	if c := find(probe(t, l, options(t)), "versions/1.2.0/towline"); c == nil || c.From != "installed" {
		t.Error("after it the older version is not the current one")
	}
	if ch, err = Rollback(t.Context(), l, rep); err != nil || ch.Candidate.Version != "1.3.0" {
		t.Errorf("back again: %+v, %v", ch, err)
	}
	// Another build under the same name lies beside it.
	ch = install(t, l, rep, pretend(t, "1.3.0", 20))
	if !strings.Contains(ch.Candidate.Path, "versions/1.3.0-") {
		t.Errorf("another build of a version went to %s", ch.Candidate.Path)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = errors.Join(os.Remove(to), os.WriteFile(to, b, 0o700)) //nolint:gosec // it is to be run
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRollbackWithNothingToGoBackTo(t *testing.T) {
	l := newLocal(t, "bash")
	rep := probe(t, l, options(t))
	_, err := Rollback(t.Context(), l, rep)
	refused(t, err, remote.StageInstall, "no version to go back to", "--install")
	install(t, l, rep, pretend(t, "1.0.0", 10))
	_, err = Rollback(t.Context(), l, rep)
	refused(t, err, remote.StageInstall, "no version to go back to", "--install")
}

// counting counts how often a build was read, which is how often it was sent.
func counting(b Build) (Build, *atomic.Int64) {
	n := new(atomic.Int64)
	open := b.Open
	b.Open = func() (io.ReadCloser, error) { n.Add(1); return open() }
	return b, n
}

// withoutFlock makes the scripts use the other kind of lock, as on macOS.
const withoutFlock = "have() { [ \"$1\" != flock ] && command -v \"$1\" >/dev/null 2>&1; }\n"

func TestOneOfSeveralInstallersWins(t *testing.T) {
	for name, prelude := range map[string]string{"flock": "", "folder": withoutFlock} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLocal(t, "bash")
			o := options(t)
			o.prelude = prelude
			rep := probe(t, l, o)
			b, sent := counting(pretend(t, "1.0.0", 1<<20))
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					ch, err := Install(t.Context(), l, rep, b, nil)
					if err != nil || ch.Candidate.Version != "1.0.0" {
						t.Errorf("Install: %+v, %v", ch, err)
					}
				})
			}
			wg.Wait()
			if n := sent.Load(); n != 1 {
				t.Errorf("%d installers sent the binary, want 1", n)
			}
			if got := tree(t, rep.InstallDir); got != "current -> versions/1.0.0/towline\nversions\nversions/1.0.0\nversions/1.0.0/towline" {
				t.Errorf("the folder holds\n%s", got)
			}
		})
	}
}

// stuck is a build whose reading stops half-way until it is let go.
func stuck(t testing.TB, b Build) (Build, chan struct{}, chan struct{}) {
	t.Helper()
	reached, gone := make(chan struct{}), make(chan struct{})
	open := b.Open
	var once sync.Once
	b.Open = func() (io.ReadCloser, error) {
		f, err := open()
		if err != nil {
			return nil, err
		}
		half := io.LimitReader(f, b.Size/2)
		wait := readerFunc(func(p []byte) (int, error) {
			once.Do(func() { close(reached) })
			<-gone
			return 0, errors.New("the laptop is gone")
		})
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(half, wait), f}, nil
	}
	return b, reached, gone
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// An installer whose process dies, or whose link is dead without the server
// having noticed, does not keep others out.
func TestLockOfADeadInstallerIsReleased(t *testing.T) {
	for name, prelude := range map[string]string{"flock": "", "folder": withoutFlock} {
		for how, die := range map[string]func(t *testing.T, l *local, cancel context.CancelFunc){
			"link cut":     func(_ *testing.T, _ *local, cancel context.CancelFunc) { cancel() },
			"killed":       func(t *testing.T, l *local, _ context.CancelFunc) { l.killHolder(t) },
			"stands still": func(*testing.T, *local, context.CancelFunc) {},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				l := newLocal(t, "bash")
				o := options(t)
				o.prelude = prelude
				o.stall = 2 * poll * 5
				rep := probe(t, l, o)
				b, reached, gone := stuck(t, pretend(t, "1.0.0", 4<<20))
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() {
					if _, err := Install(ctx, l, rep, b, nil); err == nil {
						t.Error("the first installer says that it installed")
					}
				})
				<-reached
				within(t, "the first upload to begin", func() bool {
					m, _ := filepath.Glob(filepath.Join(rep.InstallDir, "versions/*/.upload.*"))
					return len(m) == 1
				})
				die(t, l, cancel)
				if how == "link cut" {
					close(gone)
				}
				other := pretend(t, "1.0.0", 4<<20)
				if ch := install(t, l, rep, other); ch.Candidate.Version != "1.0.0" {
					t.Errorf("the second installed %+v", ch)
				}
				if how != "link cut" {
					close(gone)
				}
				wg.Wait()
				cancel()
				if got := tree(t, rep.InstallDir); got != "current -> versions/1.0.0/towline\nversions\nversions/1.0.0\nversions/1.0.0/towline" {
					t.Errorf("the folder holds\n%s", got)
				}
			})
		}
	}
}

// killHolder kills the script that holds the install lock.
func (l *local) killHolder(t testing.TB) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(l.home, ".local/share/towline/lock.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var host string
	var pid int
	if _, err := fmt.Sscan(string(raw), &host, &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// corrupting changes one byte of what is sent after the script.
type corrupting struct{ *local }

type corruptedProcess struct {
	remote.Process
	in io.WriteCloser
}

func (p corruptedProcess) Stdin() io.WriteCloser { return p.in }

type corruptor struct {
	io.WriteCloser
	first bool
}

func (c *corruptor) Write(p []byte) (int, error) {
	if c.first { // the script
		c.first = false
		return c.WriteCloser.Write(p)
	}
	q := bytes.Clone(p)
	q[len(q)/2] ^= 1
	return c.WriteCloser.Write(q)
}

func (c corrupting) Exec(ctx context.Context, command string, o remote.ExecOptions) (remote.Process, error) {
	p, err := c.local.Exec(ctx, command, o)
	if err != nil {
		return nil, err
	}
	return corruptedProcess{p, &corruptor{p.Stdin(), true}}, nil
}

func TestInstallSaysWhyItFailed(t *testing.T) {
	l := newLocal(t, "bash")
	rep := probe(t, l, options(t))
	good := pretend(t, "1.0.0", 1<<20)
	for name, tc := range map[string]struct {
		change     func(t *testing.T, rep *Report, b *Build) Remote
		want, hint string
	}{
		"other system":   {func(_ *testing.T, _ *Report, b *Build) Remote { b.Arch = "riscv64"; return l }, "the binary at hand is for linux/riscv64", "--binary FILE"},
		"no build":       {func(_ *testing.T, _ *Report, b *Build) Remote { b.SHA256 = ""; return l }, "no complete Towline binary", "make build"},
		"read-only home": {func(_ *testing.T, r *Report, _ *Build) Remote { r.Writable, r.ReadOnlyHome = false, true; return l }, rep.InstallDir + " cannot be written to (the home folder is read-only)", "install_dir"},
		"noexec":         {func(_ *testing.T, r *Report, _ *Build) Remote { r.NoExec = true; return l }, rep.InstallDir + " lies on a file system mounted noexec", "install_dir"},
		"full":           {func(_ *testing.T, r *Report, _ *Build) Remote { r.DiskFree = 1 << 20; return l }, "has 1.0 MB left", "install_dir"},
		"in the way": {func(t *testing.T, r *Report, _ *Build) Remote {
			r.InstallDir = l.write(t, "file", "", 0o600)
			return l
		}, "cannot make the folder " + filepath.Join(l.home, "file"), "install_dir"},
		"open to others": {func(t *testing.T, r *Report, _ *Build) Remote {
			r.InstallDir = filepath.Join(l.home, "shared")
			if err := errors.Join(os.Mkdir(r.InstallDir, 0o700), os.Chmod(r.InstallDir, 0o777)); err != nil { //nolint:gosec // what is tested
				t.Fatal(err)
			}
			return l
		}, "belongs to somebody else, or others can write to it", "folder of your own"},
		"file unreadable": {func(_ *testing.T, _ *Report, b *Build) Remote {
			b.Open = func() (io.ReadCloser, error) { return nil, os.ErrPermission }
			return l
		}, "read the binary to install: permission denied", "check"},
		"file changed":        {func(t *testing.T, _ *Report, b *Build) Remote { b.Open = pretend(t, "1.0.1", 1<<20).Open; return l }, "changed while it was read", "again"},
		"damaged on the way":  {func(_ *testing.T, r *Report, _ *Build) Remote { r.Tools = nil; return corrupting{l} }, "what arrived is not what was sent", "again"},
		"damaged, compressed": {func(*testing.T, *Report, *Build) Remote { return corrupting{l} }, "cannot write", "df -h"},
		"does not run": {func(t *testing.T, _ *Report, b *Build) Remote {
			path := l.write(t, "bad", "#!/bin/sh\necho broken >&2\nexit 3\n", 0o600)
			v := b.Version
			*b = build(t, path, v)
			return l
		}, "does not run there (status 3); it said: broken", "doctor"},
		"no probe": {func(_ *testing.T, r *Report, _ *Build) Remote { r.InstallDir = ""; return l }, "did not tell where", "doctor"},
	} {
		t.Run(name, func(t *testing.T) {
			rep, b := rep, good
			r := tc.change(t, &rep, &b)
			_, err := Install(t.Context(), r, rep, b, nil)
			refused(t, err, remote.StageInstall, tc.want, tc.hint)
			m, _ := filepath.Glob(filepath.Join(rep.InstallDir, "versions/*"))
			if len(m) > 0 {
				t.Errorf("it left %v behind", m)
			}
		})
	}
}

// mounted gives a folder on a file system of its own.
func mounted(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		lacking(t, "root, to mount a file system")
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		lacking(t, "the right to mount a file system: "+err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullDiskNamesThePath(t *testing.T) {
	l := newLocal(t, "bash")
	o := options(t)
	o.InstallDir = filepath.Join(mounted(t, "size=256k"), "towline")
	rep := probe(t, l, o)
	if rep.DiskFree != 256<<10 {
		t.Errorf("%d bytes are free, want 256 KiB", rep.DiskFree)
	}
	b := pretend(t, "1.0.0", 1<<20)
	_, err := Install(t.Context(), l, rep, b, nil)
	refused(t, err, remote.StageInstall, o.InstallDir+" has 0.2 MB left", "install_dir")
	rep.DiskFree = -1 // as with a quota, which df does not know
	for _, rep.Tools = range [][]string{{"gzip"}, nil} {
		_, err = Install(t.Context(), l, rep, b, nil)
		refused(t, err, remote.StageInstall, o.InstallDir+"/versions/1.0.0/.upload.", "df -h "+o.InstallDir)
		if !strings.Contains(err.Error(), "No space left") {
			t.Errorf("%v does not say why", err)
		}
	}
}

func TestNoexecIsToldBeforeAndAfter(t *testing.T) {
	l := newLocal(t, "bash")
	o := options(t)
	dir := mounted(t, "")
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_NOEXEC, ""); err != nil {
		t.Fatal(err)
	}
	o.InstallDir = filepath.Join(dir, "towline")
	rep := probe(t, l, o)
	if !rep.NoExec {
		t.Error("the report does not say so")
	}
	b := pretend(t, "1.0.0", 10)
	_, err := Install(t.Context(), l, rep, b, nil)
	refused(t, err, remote.StageInstall, "mounted noexec", "install_dir")
	rep.NoExec = false
	_, err = Install(t.Context(), l, rep, b, nil)
	refused(t, err, remote.StageInstall, "refuses to run programs from "+o.InstallDir, "install_dir")
}
