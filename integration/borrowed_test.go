package integration

import (
	"testing"

	"towline/appserver/account/issuertest"
	"towline/integration/peer"
)

// A host without a login works with the laptop's while the laptop is there. What
// renews a login never leaves the laptop, nothing is written on the host, and
// when the laptop leaves, the host has nothing. With the network lent too, the
// host needs no way to the model of its own.
func TestHostBorrowsALogin(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		network bool // lent; the host has none
		codex   bool // the host runs a stock Codex
	}{
		"native":          {},
		"native, network": {network: true},
		"codex":           {codex: true},
		"codex, network":  {network: true, codex: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			canary := peer.NewCanary(t)
			f := &office{desk: peer.NewMachine(t), room: peer.NewMachine(t)}
			sees := []*peer.Machine{f.desk, f.room}
			if tc.network {
				sees = sees[:1]
			}
			f.issuer = peer.StartIssuer(t, issuertest.Options{Canary: canary.Value}, sees...)
			f.room.Trust(f.issuer.CA) // the laptop carries what it cannot read
			f.issuer.ServeModel()
			f.laptop = peer.NewLaptop(t)
			f.laptop.On(f.desk)
			f.user = peer.NewUser(t, peer.Account{})
			f.user.On(f.room)
			f.server = peer.StartOpenSSH(t, peer.OpenSSH{Machine: f.room})
			f.laptop.Reach("dev", f.server.At(f.desk.Expose(f.server.Addr).Addr), f.user)
			f.user.Place(peer.Binary(t), ".local/bin/towline")
			f.user.Mkdir("src/shop")
			kind := "native"
			if tc.codex {
				kind = "codex"
				f.user.Place(peer.Codexes(t)[0].Bin, ".local/bin/codex")
				f.user.Write(".codex/config.toml", "model = \"gpt-5.5\"\ncheck_for_update_on_startup = false\n[analytics]\nenabled = false\n[features]\nplugins = false\napps = false\nremote_plugin = false\nenable_request_compression = false\n", 0o600)
			}
			f.user.Write(".config/towline/config.toml", "[engine]\nkind = \""+kind+"\"\n[engine.native]\nmodel = \"gpt-5.5\"\n", 0o600)
			f.loginHere(t)

			args := []string{"dev", "--project", f.user.Path("src/shop"), "--lend-credentials"}
			if tc.network {
				args = append(args, "--lend-network")
			}
			term := f.laptop.OpenTowline(120, 30, args...)
			term.Wait("? help")
			hello(term)
			c := &custodians{office: f}
			if there, _ := c.look(t, canary.Value); there.Login == nil || there.Login.Mode != "chatgptAuthTokens" {
				t.Errorf("the host says it has %+v", there.Login)
			}

			// The token is rejected: another is asked for, from the laptop.
			f.issuer.ExpireAccess()
			answers := len(f.issuer.Bearers())
			say(term, "say it goes on")
			peer.Eventually(t, "another answer of the model", func() bool { return len(f.issuer.Bearers()) > answers })
			term.WaitGone("● working")
			canary.Absent("what the screen shows", whole(term))
			quit(term)

			canary.Files([]string{f.user.Home}, nil)
			canary.Files(f.user.Left(), nil)
			canary.Files([]string{f.laptop.Path(".codex"), f.laptop.Path(".local"), f.laptop.Path(".config")}, []string{"auth.json"})
			canary.Absent("the server's log", f.server.Log())
			peer.Eventually(t, "a host without a login", func() bool { there, _ := c.look(t, canary.Value); return !there.LoggedIn })
			if n := f.issuer.Reused(); n != 0 {
				t.Errorf("a used refresh token came back %d times", n)
			}
		})
	}
}
