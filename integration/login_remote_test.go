package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"towline/appserver/account/issuertest"
	"towline/integration/peer"
)

// newCodexOffice is an office whose host has the stock Codex, where only its
// login shell finds it.
func newCodexOffice(t *testing.T, o peer.OpenSSH) (f *office, bin string) {
	t.Helper()
	c := peer.Codexes(t)[0]
	f = newOffice(t, peer.Account{Files: map[string]string{".bashrc": "export PATH=\"$HOME/tools/bin:$PATH\"\n"}}, o, issuertest.Options{})
	return f, f.user.Place(c.Bin, "tools/bin/codex")
}

// loggedIn holds that the stock codex of the host has the login.
func loggedIn(t *testing.T, f *office, bin, words string) {
	t.Helper()
	if out, err := codexSays(t, f.user, bin, "login", "status"); err != nil || !strings.Contains(out, words) {
		t.Errorf("codex login status: %v\n%s", err, out)
	}
}

// callback is where the browser was sent with the code.
func (f *office) callback(t *testing.T) string {
	t.Helper()
	all := f.chromium.Visited()
	i := slices.IndexFunc(all, func(u string) bool { return strings.Contains(u, "/auth/callback?code=") })
	if i < 0 {
		t.Fatalf("the browser was not sent back: %q", all)
	}
	return all[i]
}

// The laptop's 1455 is taken, and the host's Codex, which knows nothing of that, is
// brought to wait on 1457.
func TestRemoteLoginBringsCodexToTheOtherPort(t *testing.T) {
	t.Parallel()
	peer.EachCodex(t, func(t *testing.T, c peer.Codex) {
		t.Parallel()
		f := newOffice(t, peer.Account{}, peer.OpenSSH{}, issuertest.Options{})
		bin := f.user.Place(c.Bin, ".local/bin/codex")
		f.desk.Occupy(1455)
		term := f.laptop.OpenTowline(120, 40, "login", "dev")
		address := f.opened(t, 1)
		if !strings.Contains(address, "127.0.0.1%3A1457") {
			t.Errorf("the page sends the browser elsewhere: %s", address)
		}
		screen := term.Wait("Port 1457 of this machine leads to dev")
		if !regexp.MustCompile(`Port 1455 is held by nc \(pid \d+, user root\)`).MatchString(screen) {
			t.Errorf("the program on 1455 is not named:\n%s", screen)
		}
		f.room.WaitNoListener(1455) // it was held only for a moment
		f.agree(t, address)
		term.Wait("[exit 0]", "grace@example.com")
		loggedIn(t, f, bin, "Logged in using ChatGPT")
		f.desk.WaitNoListener(1457)
		f.room.WaitNoListener(1455, 1457)
	})
}

// No port of the laptop's is free: a code does as well. Its issuer has none: then
// the address the browser could not open is pasted, and never shown.
func TestRemoteLoginWithoutAPort(t *testing.T) {
	t.Parallel()
	t.Run("code", func(t *testing.T) {
		t.Parallel()
		f, bin := newCodexOffice(t, peer.OpenSSH{})
		f.desk.Occupy(1455)
		f.desk.Occupy(1457)
		term := f.laptop.OpenTowline(120, 60, "login", "dev")
		if page := f.opened(t, 1); page != "https://auth.openai.com/codex/device" {
			t.Errorf("the browser was sent to %s", page)
		}
		screen := term.Wait("Port 1455 is held by nc", "Port 1457 is held by nc", "Going on with a code")
		code := regexp.MustCompile(`\b[A-Z0-9]{4}-[A-Z0-9]{5}\b`).FindString(screen)
		if !f.issuer.EnterCode(code, true) {
			t.Fatalf("the issuer does not know the code %q:\n%s", code, screen)
		}
		term.Wait("[exit 0]", "grace@example.com")
		loggedIn(t, f, bin, "Logged in using ChatGPT")
		f.room.WaitNoListener(1455, 1457)
	})
	for _, program := range []string{"codex", "towline"} {
		t.Run("paste with "+program, func(t *testing.T) {
			t.Parallel()
			f, bin := newCodexOffice(t, peer.OpenSSH{NoForwarding: true})
			if program == "towline" {
				if err := os.Remove(bin); err != nil {
					t.Fatal(err)
				}
				f.user.Place(peer.Binary(t), ".local/bin/towline")
			}
			f.issuer.Fail("/api/accounts/deviceauth/usercode", 10, http.StatusNotFound, `{"error":"not enabled"}`)
			f.desk.Occupy(1455)
			f.desk.Occupy(1457)
			term := f.laptop.OpenTowline(120, 60, "login", "dev")
			address := f.opened(t, 1)
			term.Wait("No code is to be had", "Going on by pasting", "paste it here")
			f.agree(t, address)
			back := f.callback(t)
			term.Type(strings.Replace(back, "state=", "state=x", 1))
			term.Keys("Enter")
			term.Wait("its state does not match")
			term.Type(back)
			term.Keys("Enter")
			term.Wait("[exit 0]", "grace@example.com")
			code := regexp.MustCompile(`code=([^&]+)`).FindStringSubmatch(back)[1]
			if all := term.Scrollback(); strings.Contains(all, code) {
				t.Errorf("the code is on the screen:\n%s", all)
			}
			if text := f.user.Read(".codex/auth.json"); !strings.Contains(text, "refresh_token") {
				t.Errorf("auth.json is %q", text)
			}
			f.room.WaitNoListener(1455, 1457)
		})
	}
}

// A redirect of another login is turned away by the host's own Codex, which goes
// on waiting: what comes to the laptop's port gets there unread.
func TestRemoteLoginTurnsOtherRedirectsAway(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		o    peer.OpenSSH
		args []string
	}{
		"forwarding":    {},
		"no forwarding": {o: peer.OpenSSH{NoForwarding: true}},
		"system ssh":    {args: []string{"--transport", "system"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer.Need(t, "curl")
			f, bin := newCodexOffice(t, tc.o)
			term := f.laptop.OpenTowline(120, 40, append([]string{"login", "dev"}, tc.args...)...)
			address := f.opened(t, 1)
			term.Wait("Port 1455 of this machine leads to dev")
			r := f.laptop.Run("curl", "-s", "-o", "-", "-w", " %{http_code}", "http://127.0.0.1:1455/auth/callback?code=x&state=y")
			if r.Stdout != "State mismatch 400" {
				t.Errorf("the host answered %q (%s)", r.Stdout, r.Stderr)
			}
			f.agree(t, address)
			term.Wait("[exit 0]", "grace@example.com")
			loggedIn(t, f, bin, "Logged in using ChatGPT")
			f.clean(t)
		})
	}
}

// Where sshd forwards nothing, whatever the host has carries the bytes; what is
// missing is passed over.
func TestRemoteLoginThroughWhateverIsThere(t *testing.T) {
	t.Parallel()
	ways := []struct {
		name  string
		files []string // what makes it work
	}{
		{"towline", nil},
		{"nc", []string{"/usr/bin/nc", "/usr/bin/ncat", "/usr/bin/netcat", "/bin/nc", "/usr/bin/busybox", "/bin/busybox"}},
		{"bash", []string{"/usr/bin/bash", "/bin/bash"}},
		{"socat", []string{"/usr/bin/socat"}},
		{"python3", []string{"/usr/bin/python3"}},
		{"perl", []string{"/usr/bin/perl"}},
	}
	for i, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			peer.Need(t, "curl")
			if way.name != "towline" && !slices.ContainsFunc(way.files, exists) {
				peer.Lacking(t, way.name+" is not installed")
			}
			// What comes before it is taken away: a file that is no program lies over it.
			var hide []string
			for _, before := range ways[:i] {
				for _, file := range before.files {
					if real, err := filepath.EvalSymlinks(file); err == nil {
						hide = append(hide, "mount --bind /etc/hostname "+real)
					}
				}
			}
			c := peer.Codexes(t)[0]
			f := newOffice(t, peer.Account{Shell: "/bin/dash"}, peer.OpenSSH{NoForwarding: true, Mounts: hide}, issuertest.Options{})
			f.user.Place(c.Bin, ".local/bin/codex")
			if way.name == "towline" {
				f.user.Place(peer.Binary(t), ".local/bin/towline")
			}
			term := f.laptop.OpenTowline(120, 40, "login", "dev", "--no-browser")
			term.Wait(fmt.Sprintf("Going through %s there, because dev forwards no ports", way.name), "Port 1455 of this machine leads to dev")
			r := f.laptop.Run("curl", "-s", "-o", "-", "-w", " %{http_code}", "http://127.0.0.1:1455/auth/callback?code=x&state=y")
			if r.Stdout != "State mismatch 400" {
				t.Errorf("the host answered %q (%s)", r.Stdout, r.Stderr)
			}
			term.Keys("C-c")
			term.Wait("[exit 130]", "interrupted")
			f.clean(t)
			peer.Eventually(t, "nothing that carries", func() bool {
				return !slices.ContainsFunc(f.user.CommandLines(), func(l string) bool { return strings.Contains(l, "1455") })
			})
		})
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A login of Codex's waits on the laptop's port: it is the person's to end. Left
// alone, it stays, and the other port is taken.
func TestRemoteLoginAsksBeforeItEndsAnotherHere(t *testing.T) {
	t.Parallel()
	for answer, port := range map[string]string{"y": "1455", "n": "1457"} {
		t.Run(answer, func(t *testing.T) {
			t.Parallel()
			f, _ := newCodexOffice(t, peer.OpenSSH{})
			bin := f.laptop.Place(peer.Codexes(t)[0].Bin, "bin/codex")
			f.laptop.Mkdir(".codex")
			said := &collected{}
			local := f.laptop.User.Command(t.Context(), bin, "login")
			local.Stdout, local.Stderr = said, said
			if err := local.Start(); err != nil {
				t.Fatal(err)
			}
			f.desk.WaitListener(1455)
			term := f.laptop.OpenTowline(120, 40, "login", "dev", "--no-browser")
			term.Wait("1455 is held by another login here: codex (pid ", "End it?")
			term.Keys(answer, "Enter")
			term.Wait("Port " + port + " of this machine leads to dev")
			if answer == "y" {
				if err := local.Wait(); err == nil || !strings.Contains(said.String(), "Login cancelled") {
					t.Errorf("the other login ended with %v:\n%s", err, said)
				}
			} else {
				if !slices.Contains(f.desk.Listeners(), 1455) {
					t.Error("the other login was ended")
				}
				_ = local.Process.Kill()
				_ = local.Wait()
			}
			term.Keys("C-c")
			term.Wait("[exit 130]")
			f.clean(t)
		})
	}
}

// Two laptops log one host in at a time. The second is told, and when it leaves
// the first alone goes on with a code.
func TestTwoLaptopsDoNotEndEachOthersLogin(t *testing.T) {
	t.Parallel()
	f, bin := newCodexOffice(t, peer.OpenSSH{})
	one := f.laptop.OpenTowline(120, 40, "login", "dev")
	first := f.opened(t, 1)
	f.room.WaitListener(1455)
	two := f.laptop.OpenTowline(120, 60, "login", "dev")
	two.Wait("port 1455 of dev is held by codex (pid ", "End it and begin yours?")
	two.Keys("n", "Enter")
	two.Wait("That login goes on; yours goes on with a code instead")
	screen := two.WaitMatch(`\b[A-Z0-9]{4}-[A-Z0-9]{5}\b`)
	f.agree(t, first)
	one.Wait("[exit 0]", "grace@example.com")
	if !f.issuer.EnterCode(regexp.MustCompile(`\b[A-Z0-9]{4}-[A-Z0-9]{5}\b`).FindString(screen), true) {
		t.Error("the issuer does not know the code")
	}
	two.Wait("[exit 0]", "grace@example.com")
	loggedIn(t, f, bin, "Logged in using ChatGPT")
	f.clean(t)
}

// Keys and tokens go by standard input, whole, and are verified there.
func TestRemoteLoginWithAKey(t *testing.T) {
	t.Parallel()
	const key = "sk-canary-0123456789_abcdefghij"
	for _, program := range []string{"codex", "towline"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			f, bin := newCodexOffice(t, peer.OpenSSH{})
			if program == "towline" {
				f.user.Place(peer.Binary(t), ".local/bin/towline")
				if err := os.Remove(bin); err != nil {
					t.Fatal(err)
				}
			}
			cmd := f.laptop.Command(t.Context(), peer.Binary(t), "login", "dev", "--with-api-key", "-v")
			cmd.Stdin = strings.NewReader(key + "\n")
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "dev is logged in with") || !strings.Contains(string(out), "auth.json") {
				t.Fatalf("it ended with %v:\n%s", err, out)
			}
			if strings.Contains(string(out), "canary") {
				t.Errorf("the key is in the output:\n%s", out)
			}
			if text := f.user.Read(".codex/auth.json"); !strings.Contains(text, `"`+key+`"`) {
				t.Errorf("auth.json is %q", text)
			}
			f.clean(t)
		})
	}
}

// A script gets one JSON object a line, and a status.
func TestRemoteLoginForAScript(t *testing.T) {
	t.Parallel()
	f, _ := newCodexOffice(t, peer.OpenSSH{})
	cmd := f.laptop.Command(t.Context(), peer.Binary(t), "login", "dev", "--json", "--no-browser")
	out := &collected{}
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := out.find(t, `\{"event":"url",.*"port":1455\}`)
	if !strings.Contains(line, `"host":"dev"`) {
		t.Errorf("line %s", line)
	}
	f.agree(t, regexp.MustCompile(`https://[^"]+`).FindString(line))
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v:\n%s", err, out)
	}
	out.find(t, `\{"event":"done","host":"dev","account":"grace@example.com",.*"mode":"chatgpt","store":"file","path":"[^"]*/.codex/auth.json"`)
	f.clean(t)

	// One that drives it ends it by leaving.
	cmd = f.laptop.Command(t.Context(), peer.Binary(t), "login", "dev", "--events", "--no-browser")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	driven := &collected{}
	cmd.Stdout = driven
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	driven.find(t, `\{"event":"url",`)
	_ = in.Close()
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well without its driver")
	}
	driven.find(t, `\{"event":"failed","host":"dev","stage":"login","error":"the program that drives this login left"`)
	f.clean(t)

	if err := os.Remove(f.user.Path("tools/bin/codex")); err != nil {
		t.Fatal(err)
	}
	r := f.laptop.Towline("login", "dev", "--json")
	if r.Code != 4 || !strings.Contains(r.Stdout, `"event":"failed"`) || !strings.Contains(r.Stdout, `"stage":"find"`) {
		t.Errorf("without anything to log in with: %+v", r)
	}
}

// The window is closed, or the cable pulled: neither side keeps anything.
func TestRemoteLoginEndsWithItsWindow(t *testing.T) {
	t.Parallel()
	t.Run("window", func(t *testing.T) {
		t.Parallel()
		f, _ := newCodexOffice(t, peer.OpenSSH{NoForwarding: true})
		cmd := f.laptop.Command(t.Context(), peer.Binary(t), "login", "dev", "--no-browser")
		out := &collected{}
		cmd.Stderr = out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.find(t, "Port 1455 of this machine leads to dev")
		_ = cmd.Process.Kill() // not even a word of goodbye
		_ = cmd.Wait()
		f.clean(t)
	})
	t.Run("cable", func(t *testing.T) {
		t.Parallel()
		f, _ := newCodexOffice(t, peer.OpenSSH{Config: "ClientAliveInterval 1\nClientAliveCountMax 2"})
		term := f.laptop.OpenTowline(120, 40, "login", "dev", "--no-browser")
		term.Wait("Port 1455 of this machine leads to dev")
		f.room.Sever(t)
		f.room.WaitNoListener(1455, 1457)
		peer.Eventually(t, "no process of a login there", func() bool { return len(logins(f.user)) == 0 })
		began := time.Now()
		term.Keys("C-c")
		term.Wait("[exit 130]")
		if took := time.Since(began); took > peer.Patience/2 { // the link itself is given up later
			t.Errorf("it took %v to give up a login whose host is gone", took)
		}
		f.clean(t)
	})
}
