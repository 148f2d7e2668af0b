package integration

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"towline/integration/peer"
)

// behind puts a link that a test controls between the laptop and the server, as
// the alias "dev".
func behind(t *testing.T, l *peer.Laptop, s *peer.Server, u *peer.User, addr string, lines ...string) {
	t.Helper()
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	l.Alias("dev", &peer.Server{Addr: addr}, u, append(lines, "HostKeyAlias ["+host+"]:"+port)...)
	l.Knows(s)
	u.Authorize(l.Key.Line)
}

// installed is an account with Towline, rehearsing, and a project.
func installed(t *testing.T) *peer.User {
	t.Helper()
	u := peer.NewUser(t, peer.Account{})
	u.Rehearse()
	u.Mkdir("src/shop")
	u.Place(peer.Binary(t), ".local/bin/towline")
	return u
}

// The link goes away in the middle of an answer and of a line being typed: the
// screen stays, says so, keeps what was typed, and goes on where it was.
func TestScreenSurvivesALostLink(t *testing.T) {
	t.Parallel()
	l, u := peer.NewLaptop(t), installed(t)
	s := peer.StartOpenSSH(t, peer.OpenSSH{})
	link := peer.NewLink(t, s.Addr)
	behind(t, l, s, u, link.Addr)
	term := l.OpenTowline(100, 30, "dev", "--project", u.Path("src/shop"))
	term.Wait("? help")
	say(term, "count to 30 slowly")
	term.Wait("1 2 3")
	term.Type("half a senten")
	link.Cut()
	term.WaitMatch(`(?i)reconnecting`)
	term.Wait("attempt", "half a senten", "count to 30 slowly")
	link.Mend()
	term.WaitMatch(`28\s+29\s+30\s+done`)
	term.WaitGone("reconnecting")
	term.Type("ce")
	term.Wait("half a sentence")
	if n := strings.Count(term.Scrollback(), "**Rehearsal:** 1 2 3") + strings.Count(term.Scrollback(), "Rehearsal: 1 2 3"); n != 1 {
		t.Errorf("the answer is there %d times:\n%s", n, term.Scrollback())
	}

	// A question that was open when the link went is open when it is back.
	term.Keys("C-u")
	say(term, "run touch after-the-cut outside the sandbox")
	term.Wait(askCommand)
	link.Cut()
	term.WaitMatch(`(?i)reconnecting`)
	link.Mend()
	term.WaitGone("econnecting")
	choose(term, askCommand, "y run")
	term.Wait("ended well")
	if _, err := os.Stat(u.Path("src/shop/after-the-cut")); err != nil {
		t.Error(err)
	}
	quit(term)
}

// r tries at once, d leaves and says how to come back; work goes on meanwhile.
func TestRetryAndDetachWhileTheLinkIsDown(t *testing.T) {
	t.Parallel()
	l, u := peer.NewLaptop(t), installed(t)
	s := peer.StartOpenSSH(t, peer.OpenSSH{})
	link := peer.NewLink(t, s.Addr)
	behind(t, l, s, u, link.Addr)
	term := l.OpenTowline(100, 30, "dev", "--project", u.Path("src/shop"))
	term.Wait("? help")
	say(term, "count to 12 slowly")
	term.Wait("1 2 3")
	link.Cut()
	term.WaitMatch(`(?i)reconnecting.*attempt [2-9]`)
	term.Keys("r")
	term.WaitMatch(`(?i)attempt ([3-9]|\d\d)`)
	// A letter that another follows at once is text: a person who means the banner's
	// pauses.
	if term.Shows("› r", time.Second) {
		t.Error("the banner's letter was typed")
	}
	term.Keys("d")
	term.Wait("towline dev", "[exit 0]")
	link.Mend()
	again := l.OpenTowline(100, 30, "dev")
	again.WaitMatch(`10\s+11\s+12\s+done`)
	quit(again)
}

// A cable that is pulled says nothing: no reset, no end. Both sides notice
// within the keepalive's time, and the work goes on when it is plugged in.
func TestPulledCableIsNoticed(t *testing.T) {
	t.Parallel()
	place := peer.Chain(t, 1)[0]
	l, u := peer.NewLaptop(t), installed(t)
	s := peer.StartOpenSSH(t, peer.OpenSSH{Place: place})
	l.Reach("dev", s, u, "ServerAliveInterval 1", "ServerAliveCountMax 3")
	term := l.OpenTowline(100, 30, "dev", "--project", u.Path("src/shop"))
	term.Wait("? help")
	say(term, "count to 40 slowly")
	term.Wait("1 2 3")
	place.Sever(t)
	term.WaitMatch(`(?i)reconnecting`)
	place.Join(t)
	term.WaitMatch(`38\s+39\s+40\s+done`)
	quit(term)
}

// The daemon was stopped while we were away (a reboot, an upgrade): it is
// started again, and the thread is where it was.
func TestRebootedHostIsReturnedTo(t *testing.T) {
	t.Parallel()
	l, u := peer.NewLaptop(t), installed(t)
	s := peer.StartOpenSSH(t, peer.OpenSSH{})
	link := peer.NewLink(t, s.Addr)
	behind(t, l, s, u, link.Addr)
	term := l.OpenTowline(100, 30, "dev", "--project", u.Path("src/shop"))
	term.Wait("? help")
	hello(term)
	link.Cut()
	u.End()
	term.WaitMatch(`(?i)reconnecting`)
	link.Mend()
	end := time.Now().Add(peer.Patience)
	term.WaitGone("reconnecting")
	say(term, "say back again")
	term.WaitMatch(`(?s)say back again.*back again.*\S`)
	if time.Now().After(end) {
		t.Error("it took too long")
	}
	quit(term)
}

// Everything travels in one SSH connection, which is logged in once.
func TestOneConnectionForEverything(t *testing.T) {
	t.Parallel()
	r := newRemote(t, peer.Account{}, peer.OpenSSH{})
	r.user.Rehearse()
	term := r.laptop.OpenTowline(100, 30, "dev", "--project", r.user.Path("src/shop"))
	choose(term, "Install Towline on dev?", "y install")
	term.Wait("? help")
	hello(term)
	if n := strings.Count(r.server.Log(), "Connection from"); n != 1 {
		t.Errorf("%d connections", n)
	}
	quit(term)
}
