package integration

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"towline/integration/peer"
)

// bridge is a running `towline bridge dev`.
type bridge struct {
	addr string
	cmd  *exec.Cmd
}

// startBridge starts one on the laptop and waits until it says where it is.
func startBridge(t *testing.T, l *peer.Laptop, args ...string) *bridge {
	t.Helper()
	b := &bridge{}
	b.cmd = l.Command(t.Context(), append([]string{peer.Binary(t), "bridge", "dev", "--json"}, args...)...)
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	b.cmd.Stderr = &said
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make(chan []byte, 1)
	go func() { raw, _ := bufio.NewReader(out).ReadBytes('\n'); line <- raw }() // ends with the process
	t.Cleanup(func() {
		_ = b.cmd.Process.Signal(syscall.SIGTERM)
		_ = b.cmd.Wait()
		if t.Failed() {
			t.Logf("the bridge said:\n%s", said.String())
		}
	})
	var r struct {
		Ready  bool   `json:"ready"`
		Listen string `json:"listen"`
	}
	select {
	case raw := <-line:
		if err := json.Unmarshal(raw, &r); err != nil || !r.Ready || r.Listen == "" {
			t.Fatalf("the bridge said %q: %v", raw, err)
		}
	case <-time.After(peer.Patience):
		t.Fatal("the bridge says nothing")
	}
	b.addr = r.Listen
	return b
}

// A stock `codex --remote` on the bridge works across a link that is cut all the
// time, and never knows: each turn ends, each approval counts, and nothing of an
// answer is missing or there twice.
func TestStockCodexOnTheBridgeNeverSeesTheCuts(t *testing.T) {
	t.Parallel()
	peer.EachCodex(t, func(t *testing.T, c peer.Codex) {
		t.Parallel()
		l, u := peer.NewLaptop(t), installed(t)
		s := peer.StartOpenSSH(t, peer.OpenSSH{NoForwarding: true})
		link := peer.NewChaos(t, s.Addr, peer.Weather{Life: 2 * time.Second, Bytes: 1 << 20, Stall: 300 * time.Millisecond})
		behind(t, l, s, u, link.Addr)
		b := startBridge(t, l, "--listen", "ws://127.0.0.1:0")
		l.InstallCodex(c, "bin", "http://127.0.0.1:9/v1")
		term := l.Open(110, 40, "env", "HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost",
			l.Path("bin/codex"), "--remote", b.addr)
		term.Wait("Ask Codex to do anything")
		link.Begin()
		for _, file := range []string{"one", "two", "three"} {
			say(term, "run touch "+u.Path("src/shop/"+file)+" outside the sandbox")
			term.Wait("Would you like to run the following command?", "esc to cancel")
			time.Sleep(500 * time.Millisecond) // a person reads it
			term.Keys("y")
			term.WaitGone("Would you like to run the following command?")
			term.WaitMatch(`(?s)` + file + `.*ended well`)
			say(term, "count to 15 slowly, "+file)
			term.WaitMatch(`(?s)slowly, ` + file + `.*13\s+14\s+15\s+done`)
		}
		link.Calm()
		say(term, "hello there")
		term.WaitMatch(`(?s)hello there.*Rehearsal`)
		screen := term.Scrollback()
		for turn := range strings.SplitSeq(screen, "› ") { // each begins with what was said
			if _, answer, counted := strings.Cut(turn, "slowly, "); counted && strings.Count(answer, "Rehearsal: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 done.") != 1 {
				t.Errorf("the answer is not there once:\n%s", turn)
			}
		}
		for _, file := range []string{"one", "two", "three"} {
			if _, err := os.Stat(u.Path("src/shop/" + file)); err != nil {
				t.Error(err)
			}
		}
		if strings.Contains(screen, "Reconnecting") {
			t.Errorf("the client noticed:\n%s", screen)
		}
		if link.Cuts() < 5 {
			t.Errorf("only %d cuts", link.Cuts())
		}
	})
}

// One command is the bridge and the stock client on it, and ends both.
func TestStockCodexOpenedOnAHost(t *testing.T) {
	t.Parallel()
	c := peer.Codexes(t)[0]
	l, u := peer.NewLaptop(t), installed(t)
	l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{NoForwarding: true}), u)
	l.InstallCodex(c, "bin", "http://127.0.0.1:9/v1")
	term := l.Open(110, 40, "env", "HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost",
		"PATH="+l.Path("bin")+":/usr/bin:/bin", peer.Binary(t), "dev", "--codex")
	term.Wait("Ask Codex to do anything")
	say(term, "hello there")
	term.WaitMatch(`(?s)hello there.*Rehearsal`)
	term.Keys("C-d")
	term.Wait("[exit 0]")
	for _, line := range l.CommandLines() {
		if strings.Contains(line, "codex") {
			t.Errorf("left: %s", line)
		}
	}
}

// Whoever else is on the laptop cannot use the bridge.
func TestBridgeIsForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	r := newRemote(t, peer.Account{}, peer.OpenSSH{})
	r.user.Rehearse()
	r.user.Place(peer.Binary(t), ".local/bin/towline")
	b := startBridge(t, r.laptop, "--listen", "unix://"+r.laptop.Path("b.sock"))
	if b.addr != "unix://"+r.laptop.Path("b.sock") {
		t.Errorf("it listens on %s", b.addr)
	}
	info, err := os.Stat(r.laptop.Path("b.sock"))
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the socket: %v, %v", info, err)
	}
}

// A daemon that runs is reached through the SSH server itself; a server that
// forbids it costs a process in between and nothing else.
func TestDaemonIsReachedWithoutAProcessBetween(t *testing.T) {
	t.Parallel()
	for name, forbidden := range map[string]bool{"allowed": false, "forbidden": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, u := peer.NewLaptop(t), installed(t)
			s := peer.StartOpenSSH(t, peer.OpenSSH{NoForwarding: forbidden})
			link := peer.NewLink(t, s.Addr)
			behind(t, l, s, u, link.Addr)
			first := l.OpenTowline(100, 30, "dev", "--project", u.Path("src/shop"))
			first.Wait("? help")
			quit(first) // the daemon stays

			term := l.OpenTowline(100, 30, "dev")
			term.Wait("? help")
			carriers := func() int {
				n := 0
				for _, line := range u.CommandLines() {
					if strings.Contains(line, "app-server proxy") {
						n++
					}
				}
				return n
			}
			check := func(when string) {
				t.Helper()
				if n := carriers(); (n > 0) != forbidden {
					t.Errorf("%s: %d processes carry the connection:\n%s", when, n, strings.Join(u.CommandLines(), "\n"))
				}
			}
			check("at first")
			link.Cut()
			term.WaitMatch(`(?i)reconnecting`)
			link.Mend()
			term.WaitGone("econnecting")
			check("after a cut")
			say(term, "hello there")
			term.WaitMatch(`(?s)hello there.*Rehearsal`)
			quit(term)
		})
	}
}
