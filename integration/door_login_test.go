package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/integration/peer"
)

// ownDoor is Towline's SSH door run by an account without privileges, as people
// run it: what the kernel shows of others' processes is what it goes by.
type ownDoor struct {
	*office
	dir string // TOWLINE_HOME, below the account's home
}

// newOwnDoor starts one with that configuration, or the rehearsal's.
func newOwnDoor(t *testing.T, toml string) *ownDoor {
	t.Helper()
	f := newDesk(t, issuertest.Options{})
	f.user = peer.NewUser(t, peer.Account{})
	f.user.On(f.room)
	f.user.Rehearse()
	if toml != "" {
		f.user.Write(".config/towline/config.toml", toml, 0o600)
	}
	f.user.Write(".config/towline/authorized_keys", f.laptop.Key.Line+"\n", 0o600)
	cmd := f.user.Command(context.Background(), peer.Binary(t), "serve", "--json", "--ssh-listen", net.JoinHostPort(f.room.Addr, "2222"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log := &collected{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the host said:\n%s", log)
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	var ready struct {
		SSH string `json:"ssh"`
	}
	if err != nil || json.Unmarshal(line, &ready) != nil || ready.SSH == "" {
		t.Fatalf("serve is not ready: %q, %v\n%s", line, err, log)
	}
	link := f.desk.Expose(ready.SSH)
	_, port, _ := net.SplitHostPort(link.Addr)
	f.laptop.Configure("Host dev\n  HostName " + f.desk.Near + "\n  Port " + port + "\n  StrictHostKeyChecking accept-new\n  BatchMode yes")
	return &ownDoor{f, f.user.Path(".local/state/towline")}
}

// reach asks something of the host's loopback through the door, as a browser
// behind `ssh -L` would.
func (d *ownDoor) reach(t *testing.T, addr string) peer.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
	defer cancel()
	cmd := d.laptop.Command(ctx, "ssh", "-W", addr, "dev")
	cmd.Stdin = strings.NewReader("GET /nothing-of-the-sort HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	var out, errs collected
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // what it says tells
	return peer.Result{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// refused fails unless the door refused, for the reason given.
func refused(t *testing.T, r peer.Result, why string) {
	t.Helper()
	if r.Stdout != "" || !strings.Contains(r.Stderr, "administratively prohibited") || !strings.Contains(r.Stderr, why) {
		t.Errorf("not refused because %q: %+v", why, r)
	}
}

// start runs a program as the host's account until the test ends or stop is called.
func (d *ownDoor) start(t *testing.T, args ...string) (stop func()) {
	t.Helper()
	cmd := d.user.Command(context.Background(), args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said := &collected{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := false
	stop = func() {
		if !done {
			done = true
			_ = in.Close()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("%q said:\n%s", args, said)
		}
	})
	return stop
}

// The door leads to a login and to nothing else: not to a program of the same user
// on the same port, not to another user's, not to a Codex that serves there. The
// stock Codex, which hides its files from everybody, is known all the same.
func TestDoorLeadsToTheStockLoginAndNothingElse(t *testing.T) {
	t.Parallel()
	peer.Need(t, "nc")
	d := newOwnDoor(t, "")
	none := "no login is pending on this host; start one with"
	for _, addr := range []string{"localhost:1455", "127.0.0.1:1457", "[::1]:1455"} {
		refused(t, d.reach(t, addr), none)
	}
	for _, addr := range []string{"localhost:22", "localhost:2222", d.room.Near + ":443", "127.0.0.2:1455"} {
		refused(t, d.reach(t, addr), "port forwarding is switched off on this host by policy")
	}
	peer.EachCodex(t, func(t *testing.T, c peer.Codex) { // one after the other: there is one port
		stop := d.start(t, c.Bin, "login")
		d.room.WaitListener(1455)
		if r := d.reach(t, "localhost:1455"); !strings.HasPrefix(r.Stdout, "HTTP/1.1 404") {
			t.Errorf("the login was not reached: %+v", r)
		}
		refused(t, d.reach(t, "localhost:1457"), none)
		stop()
		d.room.WaitNoListener(1455)
		refused(t, d.reach(t, "localhost:1455"), none)

		stop = d.start(t, c.Bin, "app-server", "--listen", "ws://127.0.0.1:1455")
		d.room.WaitListener(1455)
		refused(t, d.reach(t, "localhost:1455"), "port 1455") // whether it can be seen or not
		stop()
		d.room.WaitNoListener(1455)
	})
	stop := d.start(t, "nc", "-l", "-k", "127.0.0.1", "1455")
	d.room.WaitListener(1455)
	refused(t, d.reach(t, "localhost:1455"), "which is no login")
	stop()
	d.room.WaitNoListener(1455)
	d.room.Occupy(1457) // root's
	refused(t, d.reach(t, "localhost:1457"), "belongs to uid 0")
	if n := strings.Count(d.user.Read(".local/state/towline/audit.jsonl"), `"event":"ssh.forward"`); n != len(peer.Codexes(t)) {
		t.Errorf("%d logins reached are in the audit", n)
	}
}

// A login that an engine of the daemon began is pending, too, for as long as it is.
func TestDoorLeadsToAnEnginesLogin(t *testing.T) {
	t.Parallel()
	d := newOwnDoor(t, "[engine]\nkind = \"native\"\n[engine.native]\nbase_url = \"http://127.0.0.1:9/v1\"\nrequires_openai_auth = true\n")
	cmd := d.laptop.Command(t.Context(), "ssh", "-T", "dev", "app-server")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said := &collected{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the engine said:\n%s", said)
		}
	}()
	tell := func(line string) {
		t.Helper()
		if _, err := io.WriteString(in, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	tell(`{"id":1,"method":"initialize","params":{"clientInfo":{"name":"test","title":null,"version":"1"}}}`)
	said.find(t, `"id":1`)
	tell(`{"method":"initialized"}`)
	tell(`{"id":2,"method":"account/login/start","params":{"type":"chatgpt"}}`)
	id := regexp.MustCompile(`"loginId":"([^"]+)"`).FindStringSubmatch(said.find(t, `"loginId":"[^"]+"`))
	d.room.WaitListener(1455)
	if r := d.reach(t, "localhost:1455"); !strings.HasPrefix(r.Stdout, "HTTP/1.1 404") {
		t.Errorf("the login was not reached: %+v", r)
	}
	tell(`{"id":3,"method":"account/login/cancel","params":{"loginId":"` + id[1] + `"}}`)
	d.room.WaitNoListener(1455)
	refused(t, d.reach(t, "localhost:1455"), "no login is pending")
}

// What an admin may say to the door about the host's login, over the real ssh.
func TestDoorCommandsAboutTheLogin(t *testing.T) {
	t.Parallel()
	d := newOwnDoor(t, "")
	ask := func(stdin string, args ...string) peer.Result {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
		defer cancel()
		cmd := d.laptop.Command(ctx, append([]string{"ssh", "dev"}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		var out, errs collected
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run() // the status says it
		return peer.Result{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
	}
	told(t, ask("", "login", "status"), 1, "Not logged in")
	const key = "sk-door-0123456789abcdef-key"
	told(t, ask(key+"\n", "login", "--with-api-key"), 0, "auth.json")
	if text := d.user.Read(".codex/auth.json"); !strings.Contains(text, key) {
		t.Errorf("auth.json holds %q", text)
	}
	r := ask("", "login", "status", "--json")
	var st map[string]any
	if err := json.Unmarshal([]byte(r.Stdout), &st); err != nil || r.Code != 0 || strings.Contains(r.Stdout, key) {
		t.Errorf("login status --json: %+v, %v", r, err)
	}
	r = ask("", "credentials", "status", "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &st); err != nil || r.Code != 0 || st["loggedIn"] != true || strings.Contains(r.Stdout, key) {
		t.Errorf("credentials status --json: %+v, %v", r, err)
	}
	told(t, ask("", "logout"), 0)
	if text := d.user.Read(".codex/auth.json"); text != "" {
		t.Errorf("after the logout: %q", text)
	}
	told(t, ask("", "credentials", "put", "other"), 2, "is not how that is said here")
	told(t, ask("", "login", "--experimental_issuer", "http://evil"), 2, "is not how that is said here")

	// With a terminal, a person is shown a code.
	term := d.laptop.Open(100, 50, "ssh", "-t", "dev", "login", "--device-auth")
	code := regexp.MustCompile(`\b[A-Z0-9]{4}-[A-Z0-9]{4,5}\b`).FindString(term.WaitMatch(`\b[A-Z0-9]{4}-[A-Z0-9]{4,5}\b`))
	if !d.issuer.EnterCode(code, true) {
		t.Errorf("the issuer does not know %q", code)
	}
	term.Wait("grace@example.com", "[exit 0]")
	told(t, ask("", "login", "status"), 0, "ChatGPT")
}

// A login that was begun through the door ends with its client, however that goes.
func TestDoorLoginEndsWithItsClient(t *testing.T) {
	t.Parallel()
	d := newOwnDoor(t, "")
	for name, args := range map[string][]string{
		"a person's":  {"ssh", "-tt", "dev", "login"},
		"a program's": {"ssh", "-T", "dev", "login", "--events"},
		"a plain one": {"ssh", "-T", "dev", "login"},
	} {
		cmd := d.laptop.Command(context.Background(), args...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		d.room.WaitListener(1455)
		if !slices.ContainsFunc(d.user.CommandLines(), func(l string) bool { return regexp.MustCompile(` login\b`).MatchString(l) }) {
			t.Errorf("%s login is no process of the host's account: %q", name, d.user.CommandLines())
		}
		_ = cmd.Process.Kill()
		_ = in.Close()
		_ = cmd.Wait()
		d.room.WaitNoListener(1455, 1457)
		peer.Eventually(t, "no process of "+name+" login", func() bool {
			return !slices.ContainsFunc(d.user.CommandLines(), func(l string) bool { return regexp.MustCompile(` login\b`).MatchString(l) })
		})
	}
	d.clean(t)
	if out, err := exec.CommandContext(t.Context(), "ls", "-A", filepath.Join(d.user.Home, ".codex")).CombinedOutput(); err == nil && strings.Contains(string(out), "auth.json\n") {
		t.Errorf("something was stored: %s", out)
	}
}
