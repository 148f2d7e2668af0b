package integration

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/integration/peer"
)

// Where the usual folder will not do, the error says which it was and how to
// name another; with another it works.
func TestInstallWhereTheHomeWillNotDo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		mounts func(home string) []string
		says   []string // in the cause of the failure
	}{
		"read-only home": {func(home string) []string { return []string{peer.ReadOnly(home)} }, []string{".local/share/towline"}},
		"noexec home": {func(home string) []string {
			return []string{fmt.Sprintf("mount --bind %[1]s %[1]s; mount -o remount,bind,noexec %[1]s", home)}
		}, []string{".local/share/towline", "noexec"}},
		"full disk": {func(home string) []string {
			return []string{
				fmt.Sprintf("cp -a %s /var/tmp/$$.home; mount -t tmpfs -o size=2m,mode=0700 none %s", home, home),
				fmt.Sprintf("cp -a /var/tmp/$$.home/. %s/; rm -r /var/tmp/$$.home", home),
			}
		}, []string{".local/share/towline"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, u := peer.NewLaptop(t), peer.NewUser(t, peer.Account{})
			u.Rehearse()
			u.Mkdir("src/shop")
			u.Authorize(l.Key.Line)
			// Elsewhere there is room.
			spare, err := os.MkdirTemp("/var/tmp", "spare")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(spare) })
			if err := os.Chown(spare, u.UID, u.GID); err != nil {
				t.Fatal(err)
			}
			s := peer.StartOpenSSH(t, peer.OpenSSH{Mounts: append(tc.mounts(u.Home), peer.NoExecTmp)})
			l.Alias("dev", s, u)
			l.Knows(s)
			r := l.Towline("connect", "dev", "--install", "--json")
			last := lastError(r.Stderr)
			if r.Code == 0 || !strings.HasPrefix(last, "error: install") || !strings.Contains(last, "hint:") || !strings.Contains(last, "install_dir") {
				t.Errorf("it ended with %d and said\n%s", r.Code, r.Stderr)
			}
			for _, want := range tc.says {
				if !strings.Contains(last, want) {
					t.Errorf("it does not say %q:\n%s", want, last)
				}
			}

			l.Write(".config/towline/config.toml", fmt.Sprintf("[hosts.dev]\ninstall_dir = %q\n", spare), 0o600)
			term := l.OpenTowline(100, 30, "dev", "--project", u.Path("src/shop"))
			term.Wait(spare)
			choose(term, "Install Towline on dev?", "y install")
			term.Wait("? help")
			hello(term)
			quit(term)
		})
	}
}

// Several first connections at once: one of them installs, all of them work.
func TestConcurrentFirstConnections(t *testing.T) {
	t.Parallel()
	r := newRemote(t, peer.Account{}, peer.OpenSSH{})
	r.user.Rehearse()
	var wg sync.WaitGroup
	results := make([]peer.Result, 4)
	for i := range results {
		wg.Go(func() { results[i] = r.laptop.Towline("connect", "dev", "--install", "--json") })
	}
	wg.Wait()
	for i, res := range results {
		if res.Code != 0 {
			t.Errorf("connection %d ended with %d:\n%s", i, res.Code, res.Stderr)
		}
	}
	if n := len(daemons(r.user)); n != 1 {
		t.Errorf("%d daemons: %q", n, r.user.CommandLines())
	}
}

// A host whose Towline is of another time. What is compatible is worked with
// and said; what is not can be read, sends nothing, and offers the update, with
// the way back.
func TestVersionSkew(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		variant peer.Variant
		blocked bool
	}{
		"older, compatible":   {peer.Variant{Version: "v0.0.1", Window: protocol.Spoken}, false},
		"newer, compatible":   {peer.Variant{Version: "v99.0.0", Window: protocol.Window{Min: protocol.Spoken.Min, Max: protocol.Spoken.Max + 1}}, false},
		"newer, incompatible": {peer.Variant{Version: "v99.0.0", Window: protocol.Window{Min: protocol.Spoken.Max + 1, Max: protocol.Spoken.Max + 2}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRemote(t, peer.Account{}, peer.OpenSSH{})
			r.user.Rehearse()
			// A laptop of that time has put it there.
			other := peer.BuildVariant(t, tc.variant)
			if res := r.laptop.Run(other, "connect", "dev", "--install", "--json"); res.Code != 0 {
				t.Fatalf("the other version's install ended with %d:\n%s", res.Code, res.Stderr)
			}
			term := r.laptop.OpenTowline(110, 30, "dev", "--project", r.user.Path("src/shop"))
			if !tc.blocked {
				term.Wait("? help", tc.variant.Version)
				hello(term)
				quit(term)
				return
			}
			term.Wait("sending is blocked", tc.variant.Version, "u update")
			time.Sleep(time.Second) // the time to read it
			term.Keys("u")
			term.Wait("towline connect dev --rollback")
			choose(term, "Update Towline on dev?", "y update")
			term.WaitGone("sending is blocked")
			term.Wait("? help")
			hello(term)
			quit(term)
			for _, pid := range daemons(r.user) {
				if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || strings.Contains(exe, tc.variant.Version) {
					t.Errorf("the daemon is still %s, %v", exe, err)
				}
			}
			for _, want := range []struct {
				flag, version string
			}{{"--rollback", tc.variant.Version}, {"--install", ""}} {
				if res := r.laptop.Towline("connect", "dev", "--json", want.flag); res.Code != 0 {
					t.Errorf("%s ended with %d:\n%s", want.flag, res.Code, res.Stderr)
				}
				res := r.laptop.Towline("connect", "dev", "--json")
				if blocked := strings.Contains(res.Stdout, `"blocked":true`); blocked != (want.version != "") {
					t.Errorf("after %s:\n%s", want.flag, res.Stdout)
				}
			}
		})
	}
}
