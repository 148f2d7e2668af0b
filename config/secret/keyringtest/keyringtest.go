//go:build !darwin && !windows

// Package keyringtest gives a test a real Secret Service of its own: a private
// session bus, and gnome-keyring on it with an unlocked default collection.
// Nothing of it touches the keyring of whoever runs the test.
//
// What it needs is in Debian's packages dbus and gnome-keyring. Where they are
// missing a test is skipped, and fails when CI=true.
package keyringtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// patience bounds every wait of a test, generous for a loaded machine.
const patience = 45 * time.Second

const (
	password = "the keyring of a test"
	busName  = "org.freedesktop.secrets"
	basePath = dbus.ObjectPath("/org/freedesktop/secrets")
	service  = "org.freedesktop.Secret.Service."
	item     = "org.freedesktop.Secret.Item"
)

// Keyring is a private session bus with or without a Secret Service on it. It
// ends with its test.
type Keyring struct {
	t       testing.TB
	dir     string
	address string

	mu     sync.Mutex
	daemon *program
	hung   *dbus.Conn
	free   chan struct{} // closed when a hung service may let go
}

// Start gives a bus with an unlocked keyring.
func Start(t testing.TB) *Keyring {
	t.Helper()
	k := Bus(t)
	k.Serve()
	return k
}

// Bus gives a bus with nothing on it, and nothing that could be started on
// demand.
func Bus(t testing.TB) *Keyring {
	t.Helper()
	need(t, "dbus-daemon", "dbus")
	dir, err := os.MkdirTemp("", "keyring") // short: a socket's path is
	if err != nil {
		t.Fatal(err)
	}
	k := &Keyring{t: t, dir: dir, address: "unix:path=" + filepath.Join(dir, "bus")}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, d := range []string{"data", "run", "home"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(dir, "bus.conf")
	const text = `<busconfig><type>session</type><listen>%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`
	if err := os.WriteFile(conf, fmt.Appendf(nil, text, k.address), 0o600); err != nil {
		t.Fatal(err)
	}
	k.start("dbus-daemon", nil, "--nofork", "--nopidfile", "--config-file="+conf)
	k.wait("the bus", func() error {
		c, err := k.connect(t.Context())
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	return k
}

// need skips a test that lacks a program, or fails it in CI.
func need(t testing.TB, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: install the package %s", name, pkg)
	}
	t.Skipf("%s is missing: install the package %s to run this", name, pkg)
}

// Env is the environment of a program that uses this keyring, to be added to
// PATH, HOME and what else it needs.
func (k *Keyring) Env() []string {
	return []string{"DBUS_SESSION_BUS_ADDRESS=" + k.address, "XDG_RUNTIME_DIR=" + filepath.Join(k.dir, "run")}
}

// Getenv looks up what Env sets, and nothing else.
func (k *Keyring) Getenv(name string) string {
	for _, kv := range k.Env() {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// Serve starts gnome-keyring, unlocked.
func (k *Keyring) Serve() {
	k.t.Helper()
	need(k.t, "gnome-keyring-daemon", "gnome-keyring")
	k.Hang(false)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.daemon = k.start("gnome-keyring-daemon", strings.NewReader(password),
		"--foreground", "--unlock", "--components=secrets", "--control-directory="+filepath.Join(k.dir, "run"))
	k.wait("the Secret Service", func() error {
		return k.do(func(c *dbus.Conn) error {
			path := dbus.ObjectPath("/")
			err := c.Object(busName, basePath).CallWithContext(c.Context(), service+"ReadAlias", dbus.FlagNoAutoStart, "default").Store(&path)
			if err == nil && path == "/" {
				err = errors.New("no default collection yet")
			}
			return err
		})
	})
}

// Absent ends the Secret Service: the bus stays.
func (k *Keyring) Absent() {
	k.t.Helper()
	k.Hang(false)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.daemon != nil {
		k.daemon.stop()
		k.daemon = nil
	}
	k.wait("the Secret Service to go", func() error {
		return k.do(func(c *dbus.Conn) error {
			var has bool
			err := c.BusObject().CallWithContext(c.Context(), "org.freedesktop.DBus.NameHasOwner", 0, busName).Store(&has)
			if err == nil && has {
				err = errors.New("still there")
			}
			return err
		})
	})
}

// Hang puts a Secret Service on the bus that takes every call and answers none,
// in the place of the real one; Hang(false) takes it away again.
func (k *Keyring) Hang(on bool) {
	k.t.Helper()
	k.mu.Lock()
	if k.hung != nil {
		close(k.free)
		_ = k.hung.Close()
		k.hung = nil
	}
	k.mu.Unlock()
	if !on {
		return
	}
	k.Absent()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.free = make(chan struct{})
	c, err := dbus.Connect(k.address, dbus.WithHandler(silent{k.free}))
	if err != nil {
		k.t.Fatal(err)
	}
	if r, err := c.RequestName(busName, dbus.NameFlagDoNotQueue); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		k.t.Fatalf("the name of the Secret Service is taken: %v %v", r, err)
	}
	k.hung = c
	k.t.Cleanup(func() { k.Hang(false) })
}

// silent holds every call until it may let go.
type silent struct{ free chan struct{} }

func (s silent) LookupObject(dbus.ObjectPath) (dbus.ServerObject, bool) {
	<-s.free
	return nil, false
}

// Lock closes the default collection, as an idle desktop does.
func (k *Keyring) Lock() {
	k.t.Helper()
	k.must(func(c *dbus.Conn) error {
		var locked []dbus.ObjectPath
		var prompt dbus.ObjectPath
		err := c.Object(busName, basePath).CallWithContext(c.Context(), service+"Lock", 0, []dbus.ObjectPath{collection}).Store(&locked, &prompt)
		if err == nil && len(locked) == 0 {
			err = errors.New("the collection stays open")
		}
		return err
	})
}

const collection = basePath + "/collection/login"

// Unlock opens it again with its password, through gnome-keyring's own door for
// its login program.
func (k *Keyring) Unlock() {
	k.t.Helper()
	k.must(func(c *dbus.Conn) error {
		var discard dbus.Variant
		var session dbus.ObjectPath
		o := c.Object(busName, basePath)
		if err := o.CallWithContext(c.Context(), service+"OpenSession", 0, "plain", dbus.MakeVariant("")).Store(&discard, &session); err != nil {
			return err
		}
		return o.CallWithContext(c.Context(), "org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface.UnlockWithMasterPassword", 0,
			collection, secret{session, []byte{}, []byte(password), "text/plain"}).Err
	})
}

type secret struct {
	Session     dbus.ObjectPath
	Parameters  []byte
	Value       []byte
	ContentType string
}

// Item is one entry, as the service keeps it.
type Item struct {
	Label      string
	Attributes map[string]string
	Secret     string
}

// Items lists every entry of the default collection.
func (k *Keyring) Items() []Item {
	k.t.Helper()
	var out []Item
	k.must(func(c *dbus.Conn) error {
		out = nil
		var discard dbus.Variant
		var session dbus.ObjectPath
		if err := c.Object(busName, basePath).CallWithContext(c.Context(), service+"OpenSession", 0, "plain", dbus.MakeVariant("")).Store(&discard, &session); err != nil {
			return err
		}
		var paths []dbus.ObjectPath
		if err := c.Object(busName, collection).StoreProperty("org.freedesktop.Secret.Collection.Items", &paths); err != nil {
			return err
		}
		for _, p := range paths {
			o := c.Object(busName, p)
			var i Item
			var s secret
			if err := errors.Join(
				o.StoreProperty(item+".Label", &i.Label), o.StoreProperty(item+".Attributes", &i.Attributes),
				o.CallWithContext(c.Context(), item+".GetSecret", 0, session).Store(&s),
			); err != nil {
				return err
			}
			i.Secret = string(s.Value)
			delete(i.Attributes, "xdg:schema") // gnome-keyring's own, there after it wrote its file
			out = append(out, i)
		}
		return nil
	})
	return out
}

// Put makes an entry, beside any like it that is there.
func (k *Keyring) Put(i Item) {
	k.t.Helper()
	k.must(func(c *dbus.Conn) error {
		var discard dbus.Variant
		var session dbus.ObjectPath
		if err := c.Object(busName, basePath).CallWithContext(c.Context(), service+"OpenSession", 0, "plain", dbus.MakeVariant("")).Store(&discard, &session); err != nil {
			return err
		}
		props := map[string]dbus.Variant{item + ".Label": dbus.MakeVariant(i.Label), item + ".Attributes": dbus.MakeVariant(i.Attributes)}
		return c.Object(busName, collection).CallWithContext(c.Context(), "org.freedesktop.Secret.Collection.CreateItem", 0,
			props, secret{session, []byte{}, []byte(i.Secret), "text/plain"}, false).Err
	})
}

// Prompts counts the questions the service has ready to ask: each is an object
// of its own until it is withdrawn.
func (k *Keyring) Prompts() int {
	k.t.Helper()
	n := 0
	k.must(func(c *dbus.Conn) error {
		var xml string
		err := c.Object(busName, basePath+"/prompt").CallWithContext(c.Context(), "org.freedesktop.DBus.Introspectable.Introspect", 0).Store(&xml)
		n = strings.Count(xml, "<node name=")
		return err
	})
	return n
}

// Deaf gives the address of a socket that lets everybody in and never says a
// word: a session bus that hangs.
func Deaf(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "deaf")
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "bus"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var held []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			held = append(held, c)
		}
		for _, c := range held {
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	return "unix:path=" + filepath.Join(dir, "bus")
}

func (k *Keyring) connect(ctx context.Context) (*dbus.Conn, error) {
	return dbus.Connect(k.address, dbus.WithContext(ctx))
}

// do runs f with a connection of its own.
func (k *Keyring) do(f func(*dbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.t.Context()), patience)
	defer cancel()
	c, err := k.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return f(c)
}

func (k *Keyring) must(f func(*dbus.Conn) error) {
	k.t.Helper()
	if err := k.do(f); err != nil {
		k.t.Fatalf("the test's keyring: %v", err)
	}
}

// wait asks until there is no error.
func (k *Keyring) wait(what string, ready func() error) {
	k.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ready()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("%s did not come: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond) // between two questions, not instead of one
	}
}

// program is a process of the test's.
type program struct {
	cmd  *exec.Cmd
	done chan struct{}
	once sync.Once
}

func (k *Keyring) start(name string, in io.Reader, args ...string) *program {
	k.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		k.t.Fatal(err)
	}
	p, err := k.launch(path, in, args)
	if errors.Is(err, syscall.EPERM) {
		// gnome-keyring's file may carry a capability that a container does
		// not have to give; a copy carries none.
		b, readErr := os.ReadFile(path)
		if readErr != nil {
			k.t.Fatal(readErr)
		}
		path = filepath.Join(k.dir, name)
		if err := os.WriteFile(path, b, 0o700); err != nil { //nolint:gosec // a program has its x bit
			k.t.Fatal(err)
		}
		p, err = k.launch(path, in, args)
	}
	if err != nil {
		k.t.Fatalf("%s: %v", name, err)
	}
	k.t.Cleanup(p.stop)
	return p
}

func (k *Keyring) launch(path string, in io.Reader, args []string) (*program, error) {
	cmd := exec.CommandContext(context.WithoutCancel(k.t.Context()), path, args...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(k.dir, "home"),
		"XDG_DATA_HOME=" + filepath.Join(k.dir, "data"), "LANG=C.UTF-8",
	}, k.Env()...)
	cmd.Stdin = in
	var out bytes.Buffer // drained, and of interest only to a debugger
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &program{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	return p, nil
}

func (p *program) stop() {
	p.once.Do(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
}
