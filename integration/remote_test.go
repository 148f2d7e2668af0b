package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"towline/integration/peer"
)

// remote is a laptop, a server with an account, and the alias "dev" between them.
type remote struct {
	laptop *peer.Laptop
	server *peer.Server
	user   *peer.User
}

// newRemote sets up the usual way to work: keys, a known host, a project folder
// ~/src/shop over there.
func newRemote(t *testing.T, a peer.Account, o peer.OpenSSH) *remote {
	t.Helper()
	r := &remote{laptop: peer.NewLaptop(t), user: peer.NewUser(t, a)}
	r.server = peer.StartOpenSSH(t, o)
	r.laptop.Reach("dev", r.server, r.user)
	r.user.Mkdir("src/shop")
	return r
}

// hello has one turn with the rehearsal model, which says its name.
func hello(term *peer.Terminal) {
	say(term, "hello there")
	term.Wait("Rehearsal model")
	term.WaitGone("● working")
}

// choose answers a question with one of the keys it offers, "y run". They are
// named once they count, which is when there was time to read the question.
func choose(term *peer.Terminal, question, offered string) {
	term.Wait(question, offered)
	term.Keys(offered[:1])
	term.WaitGone(question)
}

func quit(term *peer.Terminal) string {
	term.Type("/quit")
	term.Keys("Enter")
	return term.Wait("[exit 0]")
}

// A server with nothing on it: the offer says what would go where, the program
// is uploaded over the connection there is, and the work begins. The second
// time nothing is asked.
func TestConnectInstallsWhereNothingIs(t *testing.T) {
	t.Parallel()
	r := newRemote(t, peer.Account{}, peer.OpenSSH{NoForwarding: true})
	r.user.Rehearse()
	term := r.laptop.OpenTowline(100, 30, "dev", "--project", r.user.Path("src/shop"))
	term.Wait("Install Towline on dev?", r.user.Path(".local/share/towline"), "no sudo")
	choose(term, "Install Towline on dev?", "y install")
	term.Wait("? help")
	hello(term)
	say(term, "run touch made-there.txt outside the sandbox")
	choose(term, askCommand, "y run")
	term.Wait("ended well")
	if _, err := os.Stat(r.user.Path("src/shop/made-there.txt")); err != nil {
		t.Errorf("the work was not done there: %v", err)
	}
	if screen := quit(term); !strings.Contains(screen, "towline dev") {
		t.Errorf("leaving does not say how to come back:\n%s", screen)
	}

	again := r.laptop.OpenTowline(100, 30, "dev")
	again.Wait("? help", "made-there.txt")
	quit(again)
	if n := strings.Count(r.server.Log(), "Accepted publickey"); n != 2 {
		t.Errorf("two runs logged in %d times", n)
	}
	private(t, r.user)
}

// private holds that nobody else on the machine can read or reach what Towline
// keeps for u.
func private(t *testing.T, u *peer.User) {
	t.Helper()
	for _, dir := range []string{".local/share/towline", ".local/state/towline", ".config/towline"} {
		info, err := os.Stat(u.Path(dir))
		if err != nil {
			continue
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", dir, info.Mode())
		}
	}
	if left := u.Left(); len(left) > 0 {
		t.Errorf("in the common folder: %q", left)
	}
}

// Declined, nothing is put there, and what to type instead is said.
func TestDeclinedInstallLeavesNothingThere(t *testing.T) {
	t.Parallel()
	r := newRemote(t, peer.Account{}, peer.OpenSSH{})
	term := r.laptop.OpenTowline(100, 30, "dev", "--project", r.user.Path("src/shop"))
	choose(term, "Install Towline on dev?", "n don't")
	term.Wait("not connected", "--install")
	term.Keys("q")
	term.Wait("error: find", "hint:", "--install", "[exit ")
	if _, err := os.Stat(r.user.Path(".local")); err == nil {
		t.Error("something was put there all the same")
	}
}

// A stock Codex on the host is worked with as it is: not copied, not a child
// that dies with the link.
func TestConnectToAStockCodex(t *testing.T) {
	t.Parallel()
	peer.EachCodex(t, func(t *testing.T, c peer.Codex) {
		t.Parallel()
		r := newRemote(t, peer.Account{Files: map[string]string{
			".bashrc": "export PATH=\"$HOME/tools/bin:$PATH\"\n" + peer.CodexExports,
		}}, peer.OpenSSH{NoForwarding: true})
		r.user.InstallCodex(c, "tools/bin", peer.Rehearsal(t), r.user.Path("src/shop"))
		term := r.laptop.OpenTowline(100, 30, "dev", "--project", r.user.Path("src/shop"))
		term.Wait("? help")
		hello(term)

		// The link is cut in the middle of a turn; the turn goes on.
		say(term, "count to 20 slowly")
		term.Wait("1 2 3")
		r.server.DropConnections()
		term.WaitMatch(`18\s+19\s+20\s+done`)
		if n := strings.Count(term.Scrollback(), "18 19 20"); n > 1 {
			t.Errorf("the answer is there %d times:\n%s", n, term.Scrollback())
		}
		quit(term)

		if n := len(daemons(r.user)); n != 1 {
			t.Errorf("%d daemons of Codex run: %q", n, r.user.CommandLines())
		}
		_ = filepath.WalkDir(r.user.Home, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || path == r.user.Path("tools/bin/codex") {
				return nil
			}
			if info, err := d.Info(); err == nil && info.Size() > 50<<20 {
				t.Errorf("%s has %d bytes: Codex was made to copy itself", path, info.Size())
			}
			return nil
		})
	})
}

// Two people on one machine each have a daemon of their own, wherever they
// begin.
func TestSecondUserNeverMeetsTheFirst(t *testing.T) {
	t.Parallel()
	r := newRemote(t, peer.Account{}, peer.OpenSSH{})
	r.user.Rehearse()
	r.user.Place(peer.Binary(t), ".local/bin/towline")
	first := r.laptop.OpenTowline(100, 30, "dev", "--project", r.user.Path("src/shop"))
	first.Wait("? help")
	say(first, "say the first one was here")
	first.Wait("the first one was here")

	other := peer.NewUser(t, peer.Account{})
	other.Rehearse()
	other.Mkdir("src/shop")
	other.Place(peer.Binary(t), ".local/bin/towline")
	colleague := peer.NewLaptop(t)
	colleague.Reach("dev", r.server, other)
	second := colleague.OpenTowline(100, 30, "dev", "--project", other.Path("src/shop"))
	second.Wait("? help")
	hello(second)
	if s := second.Scrollback(); strings.Contains(s, "first one") {
		t.Errorf("the second user sees the first one's work:\n%s", s)
	}
	for _, u := range []*peer.User{r.user, other} {
		if n := len(daemons(u)); n != 1 {
			t.Errorf("%s has %d daemons: %q", u.Name, n, u.CommandLines())
		}
		private(t, u)
	}
}

// Whatever start files do to the shell that sshd gives our command to: the
// program in a folder that only they know is found, runs, and has their
// environment.
func TestConnectThroughEveryLoginShell(t *testing.T) {
	t.Parallel()
	peer.EachLoginShell(t, func(t *testing.T, sh peer.LoginShell, u *peer.User) {
		t.Parallel()
		l := peer.NewLaptop(t)
		l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{}), u)
		u.Rehearse()
		u.Mkdir("src/shop")
		u.Place(peer.Binary(t), sh.Dir+"/towline")
		term := l.OpenTowline(100, 30, "dev", "--project", u.Path("src/shop"))
		term.Wait("? help")
		hello(term)
		quit(term)
		for _, pid := range daemons(u) {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if err != nil {
				t.Fatal(err)
			}
			path := ""
			for kv := range strings.SplitSeq(string(raw), "\x00") {
				if v, ok := strings.CutPrefix(kv, "PATH="); ok {
					path = v
				}
			}
			if !slices.Contains(strings.Split(path, ":"), u.Path(sh.Dir)) {
				t.Errorf("the daemon's PATH lacks %s: %s", sh.Dir, path)
			}
		}
	})
}

// daemons are the processes of the account's app-servers.
func daemons(u *peer.User) []int {
	var out []int
	for _, pid := range u.Processes() {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if line := string(raw); err == nil && strings.Contains(line, "app-server") && strings.Contains(line, "--listen") {
			out = append(out, pid)
		}
	}
	return out
}

// The other servers people have.
func TestConnectThroughOtherServers(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T, u *peer.User) *peer.Server{
		"dropbear":   func(t *testing.T, _ *peer.User) *peer.Server { return peer.StartDropbear(t, false) },
		"gliderlabs": func(t *testing.T, u *peer.User) *peer.Server { return peer.StartGoHost(t, peer.GoHost{User: u}) },
		"one session": func(t *testing.T, _ *peer.User) *peer.Server {
			return peer.StartOpenSSH(t, peer.OpenSSH{MaxSessions: 1, NoForwarding: true})
		},
		"slow login, banner": func(t *testing.T, u *peer.User) *peer.Server {
			u.Write(".ssh/rc", "echo rc says hello; sleep 2\n", 0o644)
			return peer.StartOpenSSH(t, peer.OpenSSH{Banner: "Authorised users only.\n"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
			u.Rehearse()
			u.Mkdir("src/shop")
			l.Reach("dev", start(t, u), u)
			term := l.OpenTowline(100, 30, "dev", "--project", u.Path("src/shop"))
			choose(term, "Install Towline on dev?", "y install")
			// A busy dropbear has been seen to refuse a command right after the last.
			for range 2 {
				if term.WaitMatch(`\? help|✘ not connected`); !term.Shows("r try again", time.Second) {
					break
				}
				t.Logf("tried again after:\n%s", term.Screen())
				term.Keys("r")
				term.WaitGone("✘ not connected")
			}
			term.Wait("? help")
			hello(term)
			quit(term)
		})
	}
}

// Towline's own door needs no probe and no shell.
func TestConnectThroughTowlinesDoor(t *testing.T) {
	t.Parallel()
	l := peer.NewLaptop(t)
	h := peer.Start(t, peer.HostConfig{})
	h.Authorize(l.Key)
	l.Alias("dev", h.Server(), nil)
	l.Knows(h.Server())
	term := l.OpenTowline(100, 30, "dev")
	term.Wait("where to work", h.Project)
	term.Keys("Enter")
	term.Wait("? help")
	hello(term)
	quit(term)
}
