package peer

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Keyring is an account's desktop session as far as secrets go: a message bus
// of its own and, on it, gnome-keyring with one unlocked collection.
type Keyring struct {
	// Environ is what programs of that session have in their environment.
	Environ []string

	u      *User
	t      testing.TB
	bus    string
	daemon *exec.Cmd
}

// busConfig starts nothing by itself: a keyring that is absent stays so.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

// StartBus starts a session bus without a keyring for the account, until the end
// of the test.
func StartBus(t testing.TB, u *User) *Keyring {
	t.Helper()
	Need(t, "dbus-daemon")
	runtime := u.Mkdir(".run-" + random(t, 2))
	k := &Keyring{u: u, t: t, bus: filepath.Join(runtime, "bus")}
	k.Environ = []string{"DBUS_SESSION_BUS_ADDRESS=unix:path=" + k.bus, "XDG_RUNTIME_DIR=" + runtime}
	rel, _ := filepath.Rel(u.Home, runtime)
	conf := u.Write(filepath.Join(rel, "bus.conf"), fmt.Sprintf(busConfig, k.bus), 0o600)
	k.start("the message bus", nil, "dbus-daemon", "--nofork", "--nopidfile", "--config-file="+conf)
	Eventually(t, "an answer of the message bus", func() bool {
		return k.call("org.freedesktop.DBus.ListNames") != ""
	})
	return k
}

// StartKeyring starts the account's session, with a keyring that is unlocked and
// empty, until the end of the test.
func StartKeyring(t testing.TB, u *User) *Keyring {
	t.Helper()
	Need(t, "gnome-keyring-daemon", "secret-tool")
	k := StartBus(t, u)
	k.daemon = k.start("the keyring", []byte("only for tests"), "gnome-keyring-daemon", "--foreground", "--components=secrets", "--unlock")
	Eventually(t, "a keyring on the bus", func() bool {
		return strings.Contains(k.call("org.freedesktop.DBus.ListNames"), `"org.freedesktop.secrets"`)
	})
	// Its first answer comes before its collection does.
	Eventually(t, "an unlocked collection", func() bool {
		out, _ := k.send("org.freedesktop.secrets", "/org/freedesktop/secrets/aliases/default", "org.freedesktop.DBus.Properties.Get",
			"string:org.freedesktop.Secret.Collection", "string:Locked")
		return strings.Contains(out, "boolean false")
	})
	return k
}

// start runs a part of the session until the end of the test.
func (k *Keyring) start(what string, stdin []byte, args ...string) *exec.Cmd {
	k.t.Helper()
	cmd := k.u.Command(context.Background(), args...)
	cmd.Env = append(cmd.Env, k.Environ...)
	said := &syncBuffer{}
	cmd.Stdout, cmd.Stderr, cmd.Stdin = said, said, bytes.NewReader(stdin)
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		_ = cmd.Process.Kill() // also one that is stopped
		_ = cmd.Wait()
		if k.t.Failed() {
			k.t.Logf("%s said:\n%s", what, said)
		}
	})
	return cmd
}

// call asks the bus itself.
func (k *Keyring) call(method string) string {
	out, _ := k.send("org.freedesktop.DBus", "/org/freedesktop/DBus", method)
	return out
}

// send sends a message over the bus and gives the answer.
func (k *Keyring) send(dest, path, method string, args ...string) (string, error) {
	return k.run(append([]string{"dbus-send", "--session", "--print-reply", "--reply-timeout=10000", "--dest=" + dest, path, method}, args...)...)
}

// run runs a program of the session.
func (k *Keyring) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := k.u.Command(ctx, args...)
	cmd.Env = append(cmd.Env, k.Environ...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Lock locks the collection. Nobody is there to answer the prompt that opens it.
func (k *Keyring) Lock() {
	k.t.Helper()
	if out, err := k.send("org.freedesktop.secrets", "/org/freedesktop/secrets", "org.freedesktop.Secret.Service.Lock",
		"array:objpath:/org/freedesktop/secrets/aliases/default"); err != nil {
		k.t.Fatalf("lock the keyring: %v\n%s", err, out)
	}
}

// Hang stops the keyring where it is: it keeps its name on the bus and answers
// nothing. Resume undoes it.
func (k *Keyring) Hang() { k.signal(syscall.SIGSTOP) }

// Resume undoes Hang.
func (k *Keyring) Resume() { k.signal(syscall.SIGCONT) }

func (k *Keyring) signal(s syscall.Signal) {
	k.t.Helper()
	if err := k.daemon.Process.Signal(s); err != nil {
		k.t.Fatal(err)
	}
}

// Lookup is the secret of the entry with the attributes (name, value, …), "" when
// there is none.
func (k *Keyring) Lookup(attributes ...string) string {
	k.t.Helper()
	out, err := k.run(append([]string{"secret-tool", "lookup"}, attributes...)...)
	if err != nil {
		return ""
	}
	return out
}

// Entries describes all entries with the attributes: labels and attributes, no
// secrets.
func (k *Keyring) Entries(attributes ...string) string {
	k.t.Helper()
	out, err := k.run(append([]string{"secret-tool", "search", "--all"}, attributes...)...)
	if err != nil {
		k.t.Fatalf("secret-tool search: %v", err)
	}
	var b strings.Builder
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "secret = ") {
			b.WriteString(line)
		}
	}
	return b.String()
}
