//go:build linux

package bootstrap

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

// accounts serialises changes of the password database in this process; others
// are met by trying again.
var accounts sync.Mutex

// account changes the password database, which another process may have locked.
func account(t testing.TB, args ...string) {
	t.Helper()
	accounts.Lock()
	defer accounts.Unlock()
	var out []byte
	var err error
	within(t, strings.Join(args, " "), func() bool {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput() //nolint:noctx // it is short
		return err == nil || !strings.Contains(string(out), "lock")
	})
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// person is an account made for one test: real login shells know people by
// their entry in the password database.
type person struct {
	*local
	name     string
	uid, gid int
}

// newPerson makes an account, its Remote a system ssh to s. files are relative
// to its home.
func newPerson(t testing.TB, s *remotetest.SSHD, shell string, files map[string]string) *person {
	t.Helper()
	if os.Geteuid() != 0 {
		lacking(t, "root, to make throwaway users")
	}
	path, err := exec.LookPath(shell)
	if err != nil {
		lacking(t, shell)
	}
	ssh := remotetest.Program(t, "ssh")
	var raw [4]byte
	_, _ = rand.Read(raw[:])
	p := &person{name: "tlb" + hex.EncodeToString(raw[:])}
	home := "/home/" + p.name
	account(t, "useradd", "--no-user-group", "--create-home", "--home-dir", home, "--skel", "/dev/null", "--shell", path, "--password", "*", p.name)
	entry, err := user.Lookup(p.name)
	if err != nil {
		t.Fatal(err)
	}
	p.uid, _ = strconv.Atoi(entry.Uid)
	p.gid, _ = strconv.Atoi(entry.Gid)
	t.Cleanup(func() {
		p.end(t)
		account(t, "userdel", "--force", p.name)
		_ = os.RemoveAll(home)
		_ = os.RemoveAll("/tmp/codex-daemon-" + entry.Uid)
	})
	p.local = &local{shell: path, home: home}
	p.wrap = func(command string) *exec.Cmd {
		cmd := exec.Command(ssh, "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", //nolint:noctx // Exec's business
			"-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-i", s.Key, "-p", strconv.Itoa(s.Port), p.name+"@127.0.0.1", command)
		cmd.Dir = "/"
		return cmd
	}
	pub, err := os.ReadFile(s.Key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	p.put(t, ".ssh/authorized_keys", string(pub), 0o600)
	for name, text := range files {
		p.put(t, name, text, 0o600)
	}
	return p
}

// put writes a file of theirs.
func (p *person) put(t testing.TB, name, text string, mode os.FileMode) string {
	t.Helper()
	path := p.write(t, name, text, mode)
	p.own(t, name)
	return path
}

// own gives them what the test made in their home, with the folders above.
func (p *person) own(t testing.TB, name string) {
	t.Helper()
	for at := filepath.Join(p.home, name); at != p.home; at = filepath.Dir(at) {
		if err := os.Lchown(at, p.uid, p.gid); err != nil {
			t.Fatal(err)
		}
	}
}

// place copies a program into their home.
func (p *person) place(t testing.TB, from, name string) {
	t.Helper()
	p.put(t, name, "", 0o700)
	copyFile(t, from, filepath.Join(p.home, name))
	p.own(t, name)
}

// end ends all that runs as them.
func (p *person) end(t testing.TB) {
	within(t, p.name+"'s processes to end", func() bool {
		left := 0
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range dirs {
			var st syscall.Stat_t
			if syscall.Stat(dir, &st) != nil || int(st.Uid) != p.uid {
				continue
			}
			if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				left++
			}
		}
		return left == 0
	})
}

func startSSHD(t testing.TB, directives ...string) *remotetest.SSHD {
	t.Helper()
	if os.Geteuid() != 0 {
		lacking(t, "root, to make throwaway users")
	}
	return remotetest.StartSSHD(t, append(directives, "AuthorizedKeysFile .ssh/authorized_keys")...)
}

// The same over a real sshd, which starts shells in ways of its own: bash reads
// .bashrc there in every session.
func TestLoginShellsOfRealAccounts(t *testing.T) {
	s := startSSHD(t, "Banner "+banner(t))
	posix := noise + "\nPATH=$PATH:$HOME/tools; export PATH\n"
	for name, tc := range map[string]struct {
		shell string
		files map[string]string
	}{
		"bash":              {"bash", map[string]string{".bashrc": noise + "\ncase $- in *i*) ;; *) return ;; esac\n" + posix, ".bash_profile": ". ~/.bashrc\n"}},
		"bash to zsh":       {"bash", map[string]string{".bashrc": noise + "\nexec zsh\n", ".zshrc": posix, ".bash_profile": ". ~/.bashrc\n"}},
		"dash":              {"dash", map[string]string{".profile": posix}},
		"zsh":               {"zsh", map[string]string{".zshrc": posix, ".zshenv": "echo zshenv\n"}},
		"zsh, hidden paths": {"zsh", map[string]string{".zshrc": "export PATH=$PATH:$HOME/tools\n"}},
		"fish":              {"fish", map[string]string{".config/fish/config.fish": noise + "\nset -x PATH $PATH $HOME/tools\n"}},
		"tcsh":              {"tcsh", map[string]string{".cshrc": "echo motd\nif (! $?prompt) exit\nsetenv PATH ${PATH}:$HOME/tools\n"}},
		"nu":                {"nu", map[string]string{".config/nushell/env.nu": "print motd\n$env.PATH = ($env.PATH | append ($env.HOME + '/tools'))\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPerson(t, s, tc.shell, tc.files)
			p.fake(t, "tools/towline", "1.2.3")
			p.own(t, "tools/towline")
			o := options(t)
			rep := probe(t, p.local, o)
			c := find(rep, "tools/towline")
			if c == nil || c.From != "PATH" || c.Version != "1.2.3" {
				t.Errorf("found %+v; environment from the %s (%s), searched %v", rep.Candidates, rep.EnvFrom, rep.EnvNote, rep.PathSearched)
			}
			if rep.User != p.name || rep.UID != p.uid || rep.Home != p.home {
				t.Errorf("report %+v", rep)
			}
		})
	}
}

// banner is a file with what lawyers want shown.
func banner(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "banner")
	if err := os.WriteFile(path, []byte("Authorised use only.\n@towline- hello 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAccountsWithoutAShell(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ shell, directive, want, hint string }{
		"nologin":    {"/usr/sbin/nologin", "", "no login shell (nologin)", "chsh"},
		"false":      {"/bin/false", "", "ended without running our script", "echo ok"},
		"sftp only":  {"/bin/sh", "ForceCommand internal-sftp", "may transfer files only", "ForceCommand"},
		"a menu":     {"/bin/sh", "ForceCommand echo 'Choose: 1) mail'", "Choose: 1) mail", "echo ok"},
		"a git host": {"/bin/sh", "ForceCommand echo 'fatal: git-shell' >&2; exit 128", "for git only", "login shell"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var directives []string
			if tc.directive != "" {
				directives = []string{tc.directive}
			}
			s := startSSHD(t, directives...)
			p := newPerson(t, s, tc.shell, nil)
			_, err := Probe(t.Context(), p, options(t))
			if err == nil {
				t.Fatal("the probe went well")
			}
			refused(t, err, remote.StageShell, tc.want, tc.hint)
		})
	}
}

// What a host can have, over a real sshd, and what follows.
func TestWhatIsThereDecidesWhatHappens(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	b := build(t, towline(t, "1.2.3"), "1.2.3")
	options := func(t *testing.T) Options {
		o := options(t)
		o.Version = "1.2.3"
		return o
	}
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		p := newPerson(t, s, "bash", nil)
		rep := probe(t, p.local, options(t))
		ch := choose(t, rep, options(t))
		if ch.Action != Offer {
			t.Fatalf("chose %+v", ch)
		}
		ch = install(t, p, rep, b)
		if ch.Candidate.Path != filepath.Join(p.home, ".local/share/towline/versions/1.2.3/towline") {
			t.Errorf("installed %+v", ch)
		}
		ch = choose(t, probe(t, p.local, options(t)), options(t))
		if ch.Action != Start || ch.Candidate.From != "installed" || ch.Skew.Kind != Same {
			t.Errorf("then it chose %+v", ch)
		}
	})
	t.Run("an old Towline", func(t *testing.T) {
		t.Parallel()
		p := newPerson(t, s, "bash", nil)
		p.place(t, towline(t, "0.9.0"), ".local/bin/towline")
		rep := probe(t, p.local, options(t))
		ch := choose(t, rep, options(t))
		if ch.Action != Start || ch.Skew.Kind != Older || ch.Skew.Block || ch.Skew.Notice == "" {
			t.Errorf("chose %+v", ch)
		}
		ch = install(t, p, rep, b)
		ch2 := choose(t, probe(t, p.local, options(t)), options(t))
		if ch2.Candidate.Path != ch.Candidate.Path {
			t.Errorf("after the update it chose %+v", ch2)
		}
	})
	t.Run("a Towline from before windows", func(t *testing.T) {
		t.Parallel()
		p := newPerson(t, s, "bash", nil)
		p.put(t, ".local/bin/towline", "#!/bin/sh\n[ \"$1\" = --version ] && echo 'towline version 0.0.1' && exit\necho 'error: unknown command' >&2; exit 2\n", 0o700)
		ch := choose(t, probe(t, p.local, options(t)), options(t))
		if ch.Skew.Kind != OutOfWindow || !ch.Skew.Block || !strings.Contains(ch.Skew.Hint, "--install") {
			t.Errorf("chose %+v", ch)
		}
	})
	t.Run("a read-only home", func(t *testing.T) {
		t.Parallel()
		p := newPerson(t, s, "bash", nil)
		if err := errors.Join(syscall.Mount(p.home, p.home, "", syscall.MS_BIND, ""), syscall.Mount("", p.home, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")); err != nil {
			lacking(t, "the right to mount a file system: "+err.Error())
		}
		t.Cleanup(func() { _ = syscall.Unmount(p.home, syscall.MNT_DETACH) })
		rep := probe(t, p.local, options(t))
		if !rep.ReadOnlyHome || rep.Writable {
			t.Errorf("the report does not say so: %+v", rep)
		}
		_, err := Install(t.Context(), p, rep, b, nil)
		refused(t, err, remote.StageInstall, rep.InstallDir+" cannot be written to (the home folder is read-only)", "install_dir")
		// The setting that the hint names helps.
		dir, err := os.MkdirTemp("", "towline-elsewhere")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := os.Chown(dir, p.uid, p.gid); err != nil {
			t.Fatal(err)
		}
		o := options(t)
		o.InstallDir = filepath.Join(dir, "towline")
		if ch := install(t, p, probe(t, p.local, o), b); ch.Candidate.Path != o.InstallDir+"/versions/1.2.3/towline" {
			t.Errorf("installed %+v", ch)
		}
		if ch := choose(t, probe(t, p.local, o), o); ch.Candidate.From != "installed" {
			t.Errorf("then it chose %+v", ch)
		}
	})
}

func TestNoexecTmpIsReportedAndDoesNotMatter(t *testing.T) {
	t.Parallel()
	dir := mounted(t, "mode=1777")
	if err := errors.Join(syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_NOEXEC, ""), os.Chmod(filepath.Dir(dir), 0o755)); err != nil { //nolint:gosec // others must reach it
		t.Fatal(err)
	}
	s := startSSHD(t, "SetEnv TMPDIR="+dir)
	p := newPerson(t, s, "bash", nil)
	rep := probe(t, p.local, options(t))
	if !rep.NoExecTmp || rep.NoExec {
		t.Errorf("the report says noexec %v for the temporary folder and %v for the install folder", rep.NoExecTmp, rep.NoExec)
	}
	if ch := install(t, p, rep, pretend(t, "1.0.0", 1000)); ch.Candidate.Version != "1.0.0" {
		t.Errorf("installed %+v", ch)
	}
}

// Two people on one machine: the second never meets the first one's daemon, even
// where the environment names it and permissions would let them in.
func TestSecondUserNeverMeetsTheFirstOnesDaemon(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	first := newPerson(t, s, "bash", nil)
	second := newPerson(t, s, "bash", map[string]string{
		".bash_profile": fmt.Sprintf("export XDG_RUNTIME_DIR=%[1]s/run CODEX_HOME=%[1]s/.codex XDG_STATE_HOME=%[1]s/state\n", first.home),
	})
	if err := os.Chmod(first.home, 0o755); err != nil { //nolint:gosec // what is tested
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"run/towline/towline.sock", ".codex/app-server-control/app-server-control.sock", "state/towline/run/codex-" + host + ".sock"} {
		path := filepath.Join(first.home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // what is tested
			t.Fatal(err)
		}
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		if err := os.Chmod(path, 0o777); err != nil { //nolint:gosec // what is tested
			t.Fatal(err)
		}
		first.own(t, name)
	}
	first.put(t, ".bash_profile", fmt.Sprintf("export XDG_RUNTIME_DIR=%[1]s/run CODEX_HOME=%[1]s/.codex XDG_STATE_HOME=%[1]s/state\n", first.home), 0o600)
	for _, p := range []*person{first, second} {
		p.fake(t, ".local/bin/codex", MinCodex)
		p.own(t, ".local/bin/codex")
		rep := probe(t, p.local, options(t))
		n := 0
		for _, c := range rep.Candidates {
			if c.Socket != "" {
				n++
			}
		}
		if want := map[*person]int{first: 3, second: 0}[p]; n != want {
			t.Errorf("%d daemons, want %d: %+v", n, want, rep.Candidates)
		}
	}
	// Nor does what is installed by the first serve the second.
	rep := probe(t, second.local, options(t))
	if ch := choose(t, rep, options(t)); ch.Action != Start {
		t.Errorf("chose %+v", ch)
	}
}

// The real Codex behind a real sshd: started by one connection, it outlives it
// and serves the next.
func TestCodexOutlivesTheSSHConnection(t *testing.T) {
	t.Parallel()
	eachCodex(t, func(t *testing.T, bin string) {
		s := startSSHD(t)
		p := newPerson(t, s, "zsh", map[string]string{
			".zshrc":             "echo motd; export FROM_RC=yes PATH=$PATH:$HOME/tools\n",
			".codex/config.toml": "check_for_update_on_startup = false\n[analytics]\nenabled = false\n[features]\nplugins = false\napps = false\nremote_plugin = false\n",
		})
		if err := os.Mkdir(filepath.Join(p.home, "tools"), 0o755); err != nil { //nolint:gosec // theirs
			t.Fatal(err)
		}
		real, err := filepath.EvalSymlinks(bin)
		if err != nil {
			t.Fatal(err)
		}
		// Where it lies others may not reach. The same file under another name
		// costs nothing; across file systems it is copied.
		if err := os.Link(real, filepath.Join(p.home, "tools/codex")); err != nil {
			p.place(t, real, "tools/codex")
		}
		if err := os.Lchown(filepath.Join(p.home, "tools"), p.uid, p.gid); err != nil {
			t.Fatal(err)
		}
		rep := probe(t, p.local, options(t))
		for i, action := range []Action{Start, Join} {
			ch := choose(t, rep, options(t))
			if ch.Action != action || ch.Candidate.Kind != Codex {
				t.Fatalf("chose %+v", ch)
			}
			st, opened := open(t, p.local, rep, ch)
			if opened.Started != (i == 0) || opened.CutEndsTurn {
				t.Errorf("opened %+v", opened)
			}
			c, agent := converse(t, st)
			if !strings.Contains(agent, ch.Candidate.Version) {
				t.Errorf("%q answers", agent)
			}
			c.hangUp() // which ends the ssh
			rep = probe(t, p.local, options(t))
		}
	})
}
