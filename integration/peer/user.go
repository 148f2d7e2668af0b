package peer

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// User is an account of this machine made for one test: real ssh and real login
// shells know people by their entry in the password database, not by $HOME.
type User struct {
	Name     string
	Home     string
	Shell    string
	UID, GID int
	Password string // "" when it has none that works

	t       testing.TB
	machine *Machine // where it works; nil is here
}

// On makes what the account runs from now on run on the machine.
func (u *User) On(m *Machine) { u.machine = m }

// Account says what a new User is like. The zero value has bash, no password
// and an empty home.
type Account struct {
	Shell    string            // absolute path; must be in /etc/shells for Dropbear
	Password bool              // give it a random one, by which PAM knows it
	Files    map[string]string // relative to its home, with their text
}

// NeedRoot fails in CI and skips elsewhere unless the test runs as root, which
// accounts, PAM and network namespaces need.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Lacking(t, "root, to make throwaway users, log in by PAM and make network namespaces")
	}
}

// accounts serialises changes of the password database within this process;
// other processes are met by trying again.
var accounts sync.Mutex

// NewUser makes an account that is removed, with its processes and its home, at
// the end of the test.
func NewUser(t testing.TB, a Account) *User {
	t.Helper()
	NeedRoot(t)
	Need(t, "useradd", "userdel", "chpasswd")
	if a.Shell == "" {
		a.Shell = "/bin/bash"
	}
	if _, err := os.Stat(a.Shell); err != nil {
		Lacking(t, a.Shell+" is not installed")
	}
	u := &User{Name: "tl" + random(t, 4), Shell: a.Shell, t: t}
	u.Home = filepath.Join("/home", u.Name)
	// "*" is no password; "!", the default, would lock the account for sshd.
	u.account("useradd", "--no-user-group", "--create-home", "--home-dir", u.Home, "--skel", "/dev/null",
		"--shell", a.Shell, "--password", "*", u.Name)
	t.Cleanup(u.remove)
	entry, err := user.Lookup(u.Name)
	if err != nil {
		t.Fatal(err)
	}
	u.UID, _ = strconv.Atoi(entry.Uid)
	u.GID, _ = strconv.Atoi(entry.Gid)
	if err := os.Chmod(u.Home, 0o700); err != nil { //nolint:gosec // a folder needs its x bit
		t.Fatal(err)
	}
	if a.Password {
		u.SetPassword("pw-" + random(t, 6))
	}
	for name, text := range a.Files {
		u.Write(name, text, 0o600)
	}
	return u
}

// random is n random bytes in hexadecimal.
func random(t testing.TB, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

// account runs a program that changes the password database, again while
// another process holds its lock.
func (u *User) account(args ...string) {
	u.t.Helper()
	accounts.Lock()
	defer accounts.Unlock()
	for end := time.Now().Add(Patience); ; {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput() //nolint:noctx // short, and also runs in cleanups
		if err == nil {
			return
		}
		if !bytes.Contains(out, []byte("lock")) || time.Now().After(end) {
			u.t.Fatalf("%v: %v\n%s", args, err, out)
		}
		time.Sleep(50 * time.Millisecond) // the lock is a file; nothing tells when it goes
	}
}

// SetPassword gives the account a password that PAM accepts.
func (u *User) SetPassword(password string) {
	u.t.Helper()
	accounts.Lock()
	defer accounts.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "chpasswd")
	cmd.Stdin = strings.NewReader(u.Name + ":" + password + "\n") // not on a command line
	if out, err := cmd.CombinedOutput(); err != nil {
		u.t.Fatalf("chpasswd: %v\n%s", err, out)
	}
	u.Password = password
}

// ExpirePassword makes the next login by PAM ask for a new password, which
// sshd does in one keyboard-interactive conversation of several prompts.
func (u *User) ExpirePassword() {
	u.t.Helper()
	u.account("chage", "--lastday", "0", u.Name)
}

// Path is a path below the home.
func (u *User) Path(rel string) string { return filepath.Join(u.Home, rel) }

// Mkdir makes a folder below the home, private to the user, with its parents.
func (u *User) Mkdir(rel string) string {
	u.t.Helper()
	at := u.Home
	for part := range strings.SplitSeq(filepath.Clean(rel), string(filepath.Separator)) {
		at = filepath.Join(at, part)
		if err := os.Mkdir(at, 0o700); errors.Is(err, os.ErrExist) {
			continue
		} else if err != nil {
			u.t.Fatal(err)
		}
		u.own(at)
	}
	return at
}

// Write puts a file below the home and returns its path.
func (u *User) Write(rel, text string, mode os.FileMode) string {
	u.t.Helper()
	if dir := filepath.Dir(rel); dir != "." {
		u.Mkdir(dir)
	}
	path := u.Path(rel)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		u.t.Fatal(err)
	}
	u.own(path)
	return path
}

// Append adds text to a file below the home.
func (u *User) Append(rel, text string) {
	u.t.Helper()
	old, err := os.ReadFile(u.Path(rel))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		u.t.Fatal(err)
	}
	u.Write(rel, string(old)+text, 0o600)
}

// Read is the text of a file below the home, "" when there is none.
func (u *User) Read(rel string) string {
	u.t.Helper()
	b, err := os.ReadFile(u.Path(rel))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		u.t.Fatal(err)
	}
	return string(b)
}

// Place puts a copy of a program below the home, as an installer would.
func (u *User) Place(program, rel string) string {
	u.t.Helper()
	u.Mkdir(filepath.Dir(rel))
	path := u.Path(rel)
	// The same file under another name costs nothing; across file systems it is
	// copied.
	real, err := filepath.EvalSymlinks(program)
	if err != nil {
		u.t.Fatal(err)
	}
	if err := os.Link(real, path); err == nil {
		return path
	}
	if out, err := exec.Command("cp", real, path).CombinedOutput(); err != nil { //nolint:noctx // short
		u.t.Fatalf("cp: %v\n%s", err, out)
	}
	if err := os.Chmod(path, 0o755); err != nil { //nolint:gosec // a program
		u.t.Fatal(err)
	}
	return path
}

func (u *User) own(path string) {
	u.t.Helper()
	if err := os.Lchown(path, u.UID, u.GID); err != nil {
		u.t.Fatal(err)
	}
}

// Authorize lets a key in.
func (u *User) Authorize(lines ...string) {
	u.t.Helper()
	u.Append(".ssh/authorized_keys", strings.Join(lines, "\n")+"\n")
}

// Rehearse configures Towline for the account: the native engine and the
// offline model.
func (u *User) Rehearse() {
	u.t.Helper()
	u.Write(".config/towline/config.toml", "[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n", 0o600)
}

// Environ is what a login of the account would begin with.
func (u *User) Environ() []string {
	return []string{
		"HOME=" + u.Home, "USER=" + u.Name, "LOGNAME=" + u.Name, "SHELL=" + u.Shell,
		"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "LC_ALL=C.UTF-8",
	}
}

// Command is a program run as the account, in its home.
func (u *User) Command(ctx context.Context, args ...string) *exec.Cmd {
	if u.machine != nil {
		args = u.Argv(args...) // only root can go there
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = u.Environ()
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env, cmd.Dir = u.Environ(), u.Home
	// No controlling terminal: whoever runs the tests must not be asked.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}} //nolint:gosec // small numbers
	return cmd
}

// Argv is a command line that runs args as the account, for a terminal. It
// becomes the process of args.
func (u *User) Argv(args ...string) []string {
	argv := append([]string{
		"setpriv", "--reuid", strconv.Itoa(u.UID), "--regid", strconv.Itoa(u.GID), "--clear-groups",
		"--", "env", "-C", u.Home,
	}, args...)
	if u.machine != nil {
		return u.machine.Argv(argv...)
	}
	return argv
}

// Processes are the ids of what runs as the account.
func (u *User) Processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var st syscall.Stat_t
		if syscall.Stat("/proc/"+e.Name(), &st) != nil || int(st.Uid) != u.UID {
			continue
		}
		if state, _ := processState(pid); state != "Z" { // the dead wait for init at its leisure
			out = append(out, pid)
		}
	}
	return out
}

// CommandLines are the command lines of what runs as the account.
func (u *User) CommandLines() []string {
	var out []string
	for _, pid := range u.Processes() {
		if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(raw) > 0 {
			out = append(out, strings.TrimRight(strings.ReplaceAll(string(raw), "\x00", " "), " "))
		}
	}
	return out
}

// End kills everything that runs as the account.
func (u *User) End() {
	if u.UID == 0 {
		return // never resolved: not ours to touch
	}
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		alive := u.Processes()
		if len(alive) == 0 {
			return
		}
		for _, pid := range alive {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	u.t.Errorf("processes of %s do not end: %v", u.Name, u.CommandLines())
}

func (u *User) remove() {
	if u.t.Failed() {
		for _, f := range []string{".local/state/towline/towline.log"} {
			if b, err := os.ReadFile(u.Path(f)); err == nil {
				u.t.Logf("%s of %s:\n%s", f, u.Name, b)
			}
		}
		if info, err := os.Stat(u.Home); err != nil || owner(info) != u.UID {
			u.t.Logf("the home of %s (%d) is not its own: %v, %v", u.Name, u.UID, info, err)
		}
		u.t.Logf("%s ran: %q", u.Name, u.CommandLines())
	}
	u.End()
	u.account("userdel", "--force", u.Name)
	if err := os.RemoveAll(u.Home); err != nil {
		u.t.Error(err)
	}
	// The next account may get the same number: it must not find what others'
	// programs left in the common folder.
	for _, path := range u.Left() {
		if err := os.RemoveAll(path); err != nil {
			u.t.Error(err)
		}
	}
}

// Left is what the account has in the common temporary folder.
func (u *User) Left() []string {
	u.t.Helper()
	entries, err := os.ReadDir("/tmp")
	if err != nil {
		u.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if info, err := e.Info(); err == nil && owner(info) == u.UID && u.UID != 0 {
			out = append(out, filepath.Join("/tmp", e.Name()))
		}
	}
	return out
}

// owner is the user id a file belongs to.
func owner(info os.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
