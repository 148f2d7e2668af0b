package integration

import (
	"regexp"
	"strings"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/integration/peer"
)

// The laptop's 1455 is somebody else's: the program is named at once and the
// login goes on by 1457; with that taken too, the address the browser could not
// open is asked for, and is enough.
func TestLoginWithBusyPorts(t *testing.T) {
	t.Parallel()
	setUp := func(t *testing.T) *office {
		f := newOffice(t, peer.Account{}, peer.OpenSSH{}, issuertest.Options{})
		f.user.Place(peer.Binary(t), ".local/bin/towline")
		return f
	}
	t.Run("1455 here", func(t *testing.T) {
		t.Parallel()
		f := setUp(t)
		f.laptop.Occupy(1455)
		term := f.laptop.OpenTowline(120, 30, "login", "dev")
		address := f.opened(t, 1)
		term.Wait("1455 is", "nc")
		f.agree(t, address)
		term.Wait("[exit 0]", "grace@example.com")
		f.room.WaitNoListener(1455, 1457)
		f.desk.WaitNoListener(1457)
	})
	t.Run("1455 there", func(t *testing.T) {
		t.Parallel()
		f := setUp(t)
		f.user.Occupy(1455)
		term := f.laptop.OpenTowline(120, 30, "login", "dev")
		f.agree(t, f.opened(t, 1))
		term.Wait("[exit 0]", "grace@example.com")
		f.room.WaitNoListener(1457)
		f.desk.WaitNoListener(1455, 1457)
	})
	t.Run("both here", func(t *testing.T) {
		t.Parallel()
		f := setUp(t)
		f.laptop.Occupy(1455)
		f.laptop.Occupy(1457)
		term := f.laptop.OpenTowline(120, 40, "login", "dev")
		term.Wait("1455 is", "1457 is", "nc")
		code := regexp.MustCompile(userCode).FindString(term.WaitMatch(userCode))
		if !f.issuer.EnterCode(code, true) {
			t.Errorf("the issuer does not know the code %q", code)
		}
		term.Wait("[exit 0]", "grace@example.com")
		f.room.WaitNoListener(1455, 1457)
	})
	// No port, and an issuer that gives no codes: what the browser could not open
	// is enough.
	t.Run("both here, and no codes", func(t *testing.T) {
		t.Parallel()
		f := setUp(t)
		f.laptop.Occupy(1455)
		f.laptop.Occupy(1457)
		f.issuer.Fail("/api/accounts/deviceauth/usercode", 20, 404, `{"error":"not_found"}`)
		term := f.laptop.OpenTowline(120, 40, "login", "dev")
		address := f.opened(t, 1)
		term.WaitMatch(`(?i)paste`)
		f.agree(t, address)
		visited := f.browser(t).Visited()
		term.Paste(visited[len(visited)-1])
		term.Keys("Enter")
		screen := term.Wait("[exit 0]", "grace@example.com")
		if strings.Contains(screen, "code=") {
			t.Errorf("what was pasted is shown:\n%s", screen)
		}
		f.room.WaitNoListener(1455, 1457)
	})
}

// Neither end needs ::1.
func TestHostWithoutIPv6Loopback(t *testing.T) {
	t.Parallel()
	f := newOffice(t, peer.Account{}, peer.OpenSSH{}, issuertest.Options{})
	f.user.Place(peer.Binary(t), ".local/bin/towline")
	f.room.NoIPv6Loopback()
	f.desk.NoIPv6Loopback()
	term := f.laptop.OpenTowline(120, 30, "login", "dev")
	f.agree(t, f.opened(t, 1))
	term.Wait("[exit 0]", "grace@example.com")
	f.clean(t)
}

// Given up half-way, by the person or by a cable: no port is held, nothing runs
// on either machine, and nothing is stored.
func TestAbandonedLoginLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"codex", "towline"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			f := newOffice(t, peer.Account{Files: map[string]string{".bashrc": "export PATH=\"$HOME/tools/bin:$PATH\"\n"}}, peer.OpenSSH{}, issuertest.Options{})
			if program == "codex" {
				f.user.Place(peer.Codexes(t)[0].Bin, "tools/bin/codex")
			} else {
				f.user.Place(peer.Binary(t), "tools/bin/towline")
			}
			term := f.laptop.OpenTowline(120, 30, "login", "dev")
			f.opened(t, 1)
			f.room.WaitListener(1455)
			f.desk.WaitListener(1455)
			term.Keys("C-c")
			term.Wait("[exit ")
			f.clean(t)

			again := f.laptop.OpenTowline(120, 30, "login", "dev")
			f.opened(t, 2)
			f.room.WaitListener(1455)
			f.server.DropConnections()
			again.Wait("[exit ", "error: ", "hint: ")
			f.clean(t)
			for _, u := range []*peer.User{f.laptop.User, f.user} {
				if text := u.Read(".codex/auth.json"); text != "" {
					t.Errorf("%s has an auth.json", u.Name)
				}
				if left := u.Left(); len(left) > 0 {
					t.Errorf("in the common folder: %q", left)
				}
			}
		})
	}
}

// Another login is waiting on the host already, a Codex's that somebody forgot:
// as between two Codexes, the newcomer takes over and the old one ends by itself.
func TestLoginWhereACodexLoginIsWaiting(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"codex", "towline"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			f := newOffice(t, peer.Account{Files: map[string]string{".bashrc": "export PATH=\"$HOME/tools/bin:$PATH\"\n"}}, peer.OpenSSH{}, issuertest.Options{})
			c := peer.Codexes(t)[0]
			bin := f.user.Place(c.Bin, "forgotten/codex")
			if program == "codex" {
				f.user.Place(c.Bin, "tools/bin/codex")
			} else {
				f.user.Place(peer.Binary(t), "tools/bin/towline")
			}
			f.user.Mkdir(".codex")
			said := &collected{}
			old := f.user.Command(t.Context(), bin, "login")
			old.Stdout, old.Stderr = said, said
			if err := old.Start(); err != nil {
				t.Fatal(err)
			}
			f.room.WaitListener(1455)
			term := f.laptop.OpenTowline(120, 30, "login", "dev")
			term.Wait("End it and begin yours?") // whose it is nobody knows but the person
			term.Keys("y", "Enter")
			f.agree(t, f.opened(t, 1))
			term.Wait("[exit 0]", "grace@example.com")
			if err := old.Wait(); err == nil || !strings.Contains(said.String(), "cancel") {
				t.Errorf("the forgotten login ended with %v:\n%s", err, said)
			}
			f.clean(t)
		})
	}
}

// Two hosts are logged in from one laptop at the same time: each redirect reaches
// the host it is for.
func TestTwoLoginsAtOnceDoNotCollide(t *testing.T) {
	t.Parallel()
	f := newOffice(t, peer.Account{}, peer.OpenSSH{}, issuertest.Options{})
	f.user.Place(peer.Binary(t), ".local/bin/towline")
	other := peer.NewMachine(t)
	f.issuer.Serve(f.issuer, []string{"auth.openai.com", "chatgpt.com", "api.openai.com"}, other)
	second := peer.NewUser(t, peer.Account{})
	second.On(other)
	second.Place(peer.Binary(t), ".local/bin/towline")
	server := peer.StartOpenSSH(t, peer.OpenSSH{Machine: other})
	f.laptop.Reach("dev2", server.At(f.desk.Expose(server.Addr).Addr), second)

	one := f.laptop.OpenTowline(120, 30, "login", "dev")
	first := f.opened(t, 1)
	f.issuer.SetUser(issuertest.User{Email: "first@example.com", Subject: "user-1", AccountID: "acct-1", Plan: "pro"})
	two := f.laptop.OpenTowline(120, 30, "login", "dev2")
	last := f.opened(t, 2)
	f.agree(t, first)
	one.Wait("[exit 0]", "first@example.com")
	f.issuer.SetUser(issuertest.User{Email: "second@example.com", Subject: "user-2", AccountID: "acct-2", Plan: "pro"})
	f.agree(t, last)
	two.Wait("[exit 0]", "second@example.com")
	for u, account := range map[*peer.User]string{f.user: "acct-1", second: "acct-2"} {
		if text := u.Read(".codex/auth.json"); !strings.Contains(text, `"`+account+`"`) {
			t.Errorf("%s is not logged in with %s", u.Name, account)
		}
	}
	f.clean(t)
	other.WaitNoListener(1455, 1457)
}
