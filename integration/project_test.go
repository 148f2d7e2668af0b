package integration

import (
	"bufio"
	"os"
	"strings"
	"syscall"
	"testing"

	"towline/integration/peer"
)

// Without a folder the remote's own are shown; the one chosen is remembered for
// the host, and the next time nothing is asked.
func TestProjectIsBrowsedAndRemembered(t *testing.T) {
	t.Parallel()
	r := newRemote(t, peer.Account{}, peer.OpenSSH{})
	r.user.Rehearse()
	r.user.Mkdir("src/website")
	r.user.Place(peer.Binary(t), ".local/bin/towline")
	term := r.laptop.OpenTowline(100, 30, "dev")
	term.Wait("where to work", "src")
	term.Type("src")
	term.Wait("src")
	term.Keys("Right")
	term.Wait("shop", "website")
	term.Type("web")
	term.WaitGone("shop")
	term.Keys("Enter")
	term.Wait("? help", "src/website")
	say(term, "run touch chosen outside the sandbox")
	choose(term, askCommand, "y run")
	term.Wait("ended well")
	if _, err := os.Stat(r.user.Path("src/website/chosen")); err != nil {
		t.Errorf("the work was done elsewhere: %v", err)
	}
	quit(term)

	again := r.laptop.OpenTowline(100, 30, "dev", "--new")
	again.Wait("? help", "src/website")
	quit(again)

	// A default in the configuration stands where nothing is remembered.
	r.laptop.Write(".config/towline/config.toml", "[hosts.other]\nproject = \"~/src/shop\"\n", 0o600)
	r.laptop.Alias("other", r.server, r.user)
	other := r.laptop.OpenTowline(100, 30, "other", "--new")
	other.Wait("? help", "src/shop")
	quit(other)
}

// The laptop's agent is there under one path, also for what runs while the link
// is cut and comes back, and gone when its owner is.
func TestForwardedAgentKeepsItsPath(t *testing.T) {
	t.Parallel()
	peer.Need(t, "ssh-agent", "ssh-add")
	l, u := peer.NewLaptop(t), installed(t)
	s := peer.StartOpenSSH(t, peer.OpenSSH{})
	link := peer.NewLink(t, s.Addr)
	behind(t, l, s, u, link.Addr, "ForwardAgent yes")
	agent := l.Command(t.Context(), "ssh-agent", "-D", "-a", l.Path("agent.sock"))
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Process.Signal(syscall.SIGTERM); _ = agent.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it listens now
		t.Fatal(err)
	}
	l.Setenv("SSH_AUTH_SOCK=" + l.Path("agent.sock"))
	key := peer.NewKey(t, peer.Ed25519, "in the agent", "")
	l.Install("id_agent", key)
	if r := l.Run("ssh-add", "-q", l.Path(".ssh/id_agent")); r.Code != 0 {
		t.Fatal(r.Stderr)
	}

	term := l.OpenTowline(110, 30, "dev", "--project", u.Path("src/shop"))
	term.Wait("? help")
	asks := func(file string) string {
		t.Helper()
		say(term, "run ssh-add -l >"+file+" 2>&1; echo $SSH_AUTH_SOCK >>"+file+" outside the sandbox")
		choose(term, askCommand, "y run")
		term.WaitMatch(`(?s)run ssh-add -l >` + file + `.*ended well`)
		return u.Read("src/shop/" + file)
	}
	before := asks("before.txt")
	link.Cut()
	term.WaitMatch(`(?i)reconnecting`)
	link.Mend()
	term.WaitGone("econnecting")
	after := asks("after.txt")
	if !strings.Contains(before, key.Fingerprint) || before != after {
		t.Errorf("before the cut:\n%s\nafter it:\n%s", before, after)
	}
	quit(term)
	path := strings.TrimSpace(before[strings.LastIndex(strings.TrimSpace(before), "\n")+1:])
	if _, err := os.Stat(path); err == nil {
		if r := l.Run("ssh", "-a", "dev", "SSH_AUTH_SOCK="+path+" ssh-add -l"); strings.Contains(r.Stdout, key.Fingerprint) {
			t.Errorf("the agent can be used after its owner left: %s", r.Stdout)
		}
	}
}
