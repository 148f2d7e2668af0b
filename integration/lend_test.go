package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/integration/peer"
)

// bank is an office whose laptop has a login to lend and whose host has none.
type bank struct {
	*office
	canary *peer.Canary
}

// The engines a host lends to.
const (
	nativeEngine = "[engine]\nkind = \"native\"\n[engine.native]\nmodel = \"gpt-5.5\"\n"
	codexEngine  = "[engine]\nkind = \"codex\"\n"
	stockConfig  = "model = \"gpt-5.5\"\ncheck_for_update_on_startup = false\n[analytics]\nenabled = false\n[features]\nplugins = false\n" +
		"apps = false\nremote_plugin = false\nenable_request_compression = false\n[notice.model_migrations]\n\"gpt-5.5\" = \"gpt-6-sol\"\n"
)

// newBank makes one. shut is a host that reaches nothing but the laptop.
func newBank(t *testing.T, shut bool, o peer.OpenSSH) *bank {
	t.Helper()
	b := &bank{canary: peer.NewCanary(t)}
	io := issuertest.Options{Canary: b.canary.Value}
	if shut {
		b.office = newShutOffice(t, o, io)
	} else {
		b.office = newOffice(t, peer.Account{}, o, io)
	}
	b.issuer.ServeModel()
	b.user.Mkdir("src/shop")
	b.loginHere(t)
	return b
}

// newShutOffice is an office whose host cannot see the issuer, though it would
// believe it.
func newShutOffice(t *testing.T, o peer.OpenSSH, i issuertest.Options) *office {
	t.Helper()
	f := &office{desk: peer.NewMachine(t), room: peer.NewMachine(t)}
	f.issuer = peer.StartIssuer(t, i, f.desk)
	f.room.Trust(f.issuer.CA)
	f.laptop = peer.NewLaptop(t)
	f.laptop.On(f.desk)
	f.user = peer.NewUser(t, peer.Account{})
	f.user.On(f.room)
	o.Machine = f.room
	f.server = peer.StartOpenSSH(t, o)
	f.laptop.Reach("dev", f.server.At(f.desk.Expose(f.server.Addr).Addr), f.user)
	return f
}

// serves puts a Towline on the host, with an engine.
func (b *bank) serves(t *testing.T, engine string) {
	t.Helper()
	b.user.Place(peer.Binary(t), ".local/bin/towline")
	b.user.Write(".config/towline/config.toml", engine, 0o600)
	if engine == codexEngine {
		b.stock(t)
	}
}

// stock puts a Codex on the host that would talk to OpenAI.
func (b *bank) stock(t *testing.T) {
	t.Helper()
	b.user.Place(peer.Codexes(t)[0].Bin, ".local/bin/codex")
	b.user.Write(".codex/config.toml", stockConfig+fmt.Sprintf("[projects.%q]\ntrust_level = \"trusted\"\n", b.user.Path("src/shop")), 0o600)
}

// opens the UI on the host, with what the laptop lends.
func (b *bank) opens(t *testing.T, lends ...string) *peer.Terminal {
	t.Helper()
	args := append([]string{"dev", "--project", b.user.Path("src/shop")}, lends...)
	return b.laptop.OpenTowline(120, 30, args...)
}

// unseen holds that no token ever reached the host's disk.
func (b *bank) unseen(t *testing.T) {
	t.Helper()
	b.canary.Files(append([]string{b.user.Home}, b.user.Left()...), nil)
	b.canary.Absent("the server's log", b.server.Log())
}

// lent is the account the host was lent, "" for none.
func (b *bank) lent(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
	defer cancel()
	out, err := b.user.Command(ctx, b.user.Path(".local/bin/towline"), "status", "--json").Output()
	if err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	var st struct {
		Lent *struct {
			Account string `json:"account"`
		} `json:"lent"`
	}
	if err := json.Unmarshal(out, &st); err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	if st.Lent == nil {
		return ""
	}
	return st.Lent.Account
}

// A host without a login works with the laptop's, renews its token over the
// connection, and has none when the laptop has left. Nothing of it was ever on its
// disk, in an environment or on a command line.
func TestLendCredentials(t *testing.T) {
	t.Parallel()
	for name, engine := range map[string]string{"codex": codexEngine, "native": nativeEngine} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t, false, peer.OpenSSH{})
			b.serves(t, engine)
			term := b.opens(t, "--lend-credentials")
			term.Wait("? help")
			hello(term)
			if got := b.lent(t); got != "acct-tow" {
				t.Errorf("the host was lent %q", got)
			}
			b.unseen(t)

			rotated := b.issuer.Rotated()
			b.issuer.ExpireAccess()
			answers := len(b.issuer.Bearers())
			say(term, "say it goes on")
			peer.Eventually(t, "an answer to a renewed token", func() bool { return len(b.issuer.Bearers()) > answers })
			term.WaitGone("● working")
			if n := b.issuer.Rotated() - rotated; n != 1 || b.issuer.Reused() != 0 {
				t.Errorf("the laptop's login was refreshed %d times, and a token used again %d times", n, b.issuer.Reused())
			}
			quit(term)
			peer.Eventually(t, "a host without the login", func() bool { return b.lent(t) == "" })
			b.unseen(t)
			if log := b.user.Read(".local/state/towline/audit.jsonl"); !strings.Contains(log, `"event":"account.lend"`) {
				t.Errorf("the audit does not tell:\n%s", log)
			}
			told(t, b.laptop.Towline("login", "status"), 0, "ChatGPT")
		})
	}
}

// A stock Codex without Towline gets the login in a process of the connection's
// own. The login the host has itself stays as it is.
func TestLendCredentialsToAStockCodex(t *testing.T) {
	t.Parallel()
	b := newBank(t, false, peer.OpenSSH{})
	b.stock(t)
	own := "{\"auth_mode\":\"apikey\",\"OPENAI_API_KEY\":\"sk-its-own\"}"
	b.user.Write(".codex/auth.json", own, 0o600)
	term := b.opens(t, "--lend-credentials", "--no-install")
	term.Wait("? help", "login lent")
	hello(term)
	b.issuer.ExpireAccess()
	answers := len(b.issuer.Bearers())
	say(term, "say it goes on")
	peer.Eventually(t, "an answer to a renewed token", func() bool { return len(b.issuer.Bearers()) > answers })
	term.WaitGone("● working")
	quit(term)
	peer.Eventually(t, "no process that has the login", func() bool {
		return !strings.Contains(strings.Join(b.user.CommandLines(), "\n"), "app-server")
	})
	b.unseen(t)
	if got := b.user.Read(".codex/auth.json"); got != own {
		t.Errorf("the host's own login is now %q", got)
	}
}

// What cannot be lent, or not to that host, is refused with the way to go instead.
func TestLendRefusals(t *testing.T) {
	t.Parallel()
	t.Run("an api key", func(t *testing.T) {
		t.Parallel()
		f := newOffice(t, peer.Account{}, peer.OpenSSH{}, issuertest.Options{})
		f.laptop.Write(".codex/auth.json", `{"auth_mode":"apikey","OPENAI_API_KEY":"sk-long-lived"}`, 0o600)
		told(t, f.laptop.Towline("dev", "--lend-credentials", "--json"), 2, "does not end by itself", "credentials put dev --api-key")
	})
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		f := newOffice(t, peer.Account{}, peer.OpenSSH{}, issuertest.Options{})
		told(t, f.laptop.Towline("dev", "--lend-credentials", "--json"), 2, "no login to lend", "towline login dev")
	})
	t.Run("a policy here", func(t *testing.T) {
		t.Parallel()
		f := newOffice(t, peer.Account{}, peer.OpenSSH{}, issuertest.Options{})
		f.desk.Etc("towline/requirements.toml", "allow_lend_credentials = false\nallow_lend_network = false\n")
		told(t, f.laptop.Towline("dev", "--lend-credentials", "--json"), 5, "not allowed on this machine", "requirements.toml")
		told(t, f.laptop.Towline("dev", "--lend-network", "--json"), 5, "not allowed on this machine", "requirements.toml")
	})
	t.Run("a policy there", func(t *testing.T) {
		t.Parallel()
		b := newBank(t, false, peer.OpenSSH{})
		b.serves(t, nativeEngine)
		b.room.Etc("towline/requirements.toml", "allow_lend_network = false\n")
		r := b.laptop.Towline("dev", "--lend-credentials", "--lend-network", "--json")
		told(t, r, 5, "dev does not take it", "not allowed on this machine")
		b.unseen(t)
	})
	t.Run("a login of its own", func(t *testing.T) {
		t.Parallel()
		b := newBank(t, false, peer.OpenSSH{})
		b.serves(t, codexEngine)
		own := "{\"auth_mode\":\"apikey\",\"OPENAI_API_KEY\":\"sk-its-own\"}"
		b.user.Write(".codex/auth.json", own, 0o600)
		told(t, b.laptop.Towline("dev", "--lend-credentials", "--json"), 5, "a login of its own")
		if got := b.user.Read(".codex/auth.json"); got != own {
			t.Errorf("the host's own login is now %q", got)
		}
	})
	t.Run("a stock codex has no way in for a network", func(t *testing.T) {
		t.Parallel()
		b := newBank(t, false, peer.OpenSSH{})
		b.stock(t)
		told(t, b.laptop.Towline("dev", "--lend-network", "--json"), 4, "no Towline daemon serves this host", "--install")
	})
	t.Run("a model that needs none", func(t *testing.T) {
		t.Parallel()
		b := newBank(t, false, peer.OpenSSH{})
		b.user.Place(peer.Binary(t), ".local/bin/towline")
		b.user.Rehearse()
		told(t, b.laptop.Towline("dev", "--lend-credentials", "--json"), 2, "needs no ChatGPT login")
	})
}

// A laptop that vanishes is waited for, and then the host has nothing any more.
func TestLentCredentialsEndWithoutAGoodbye(t *testing.T) {
	t.Parallel()
	b := newBank(t, false, peer.OpenSSH{})
	b.serves(t, codexEngine)
	term := b.opens(t, "--lend-credentials", "--lend-grace", "3s")
	term.Wait("? help")
	hello(term)
	if b.lent(t) == "" {
		t.Fatal("nothing is lent")
	}
	b.laptop.End() // as a machine that lost its power
	peer.Eventually(t, "a host without the login", func() bool { return b.lent(t) == "" })
	b.unseen(t)
}

// Two laptops: the second's login takes the place of the first's, whose leaving
// then takes nothing away.
func TestTwoLenders(t *testing.T) {
	t.Parallel()
	b := newBank(t, false, peer.OpenSSH{})
	b.serves(t, nativeEngine)
	first := b.opens(t, "--lend-credentials")
	first.Wait("? help")
	hello(first)

	other := peer.NewLaptop(t)
	other.On(b.desk)
	other.Reach("dev", b.server.At(b.desk.Expose(b.server.Addr).Addr), b.user)
	u := issuertest.User{Email: "ann@example.com", Subject: "user-ann", AccountID: "acct-ann", Plan: "pro"}
	tok := b.issuer.Login(u)
	auth, err := json.Marshal(map[string]any{
		"auth_mode": "chatgpt", "OPENAI_API_KEY": nil, "last_refresh": "2099-01-01T00:00:00Z",
		"tokens": map[string]any{"id_token": tok.ID, "access_token": tok.Access, "refresh_token": tok.Refresh, "account_id": tok.AccountID},
	})
	if err != nil {
		t.Fatal(err)
	}
	other.Write(".codex/auth.json", string(auth), 0o600)
	second := other.OpenTowline(120, 30, "dev", "--lend-credentials")
	second.Wait("? help")
	peer.Eventually(t, "the second's login", func() bool { return b.lent(t) == "acct-ann" })
	quit(first)
	hello(second)
	if got := b.lent(t); got != "acct-ann" {
		t.Errorf("after the first has left, the host has %q", got)
	}
	quit(second)
	peer.Eventually(t, "a host without a login", func() bool { return b.lent(t) == "" })
	b.unseen(t)
}

// A host that reaches nothing but the laptop works with a model the laptop
// reaches, also over a link that is cut on the way.
func TestLendNetwork(t *testing.T) {
	t.Parallel()
	for name, engine := range map[string]string{"codex": codexEngine, "native": nativeEngine} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t, true, peer.OpenSSH{})
			b.serves(t, engine)
			term := b.opens(t, "--lend-credentials", "--lend-network")
			term.Wait("? help", "network lent")
			hello(term)

			say(term, "count to 20 slowly")
			term.Wait("1 2 3")
			b.server.DropConnections()
			term.WaitMatch(`18\s+19\s+20`)
			term.WaitGone("● working")
			quit(term)
			b.unseen(t)
			log := b.user.Read(".local/state/towline/audit.jsonl")
			if !strings.Contains(log, `"event":"network.lend"`) || !strings.Contains(log, "chatgpt.com:443") {
				t.Errorf("the audit does not tell:\n%s", log)
			}
		})
	}
}

// Neither the laptop's own ports nor its neighbours are lent, whatever the host
// asks for; the daemon's proxy is for its user alone.
func TestLentNetworkLeadsNowhereElse(t *testing.T) {
	t.Parallel()
	peer.Need(t, "curl")
	b := newBank(t, true, peer.OpenSSH{})
	b.serves(t, codexEngine)
	b.desk.Occupy(8099)
	term := b.opens(t, "--lend-credentials", "--lend-network")
	term.Wait("? help", "network lent")
	hello(term)
	proxy := ""
	for _, pid := range b.user.Processes() {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		for kv := range strings.SplitSeq(string(raw), "\x00") {
			if v, ok := strings.CutPrefix(kv, "HTTPS_PROXY="); ok {
				proxy = v
			}
		}
	}
	if proxy == "" {
		t.Fatal("no process of the host has the proxy")
	}
	fetch := func(u *peer.User, address string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
		defer cancel()
		out, err := u.Command(ctx, "curl", "-sS", "-m", "20", "-x", proxy, "--noproxy", "", "-p", address).CombinedOutput()
		return string(out), err
	}
	if out, err := fetch(b.user, "https://chatgpt.com/backend-api/wham/accounts/check"); err != nil {
		t.Errorf("what is lent is not reached: %v, %s", err, out)
	}
	for _, address := range []string{
		"http://127.0.0.1:8099/", "http://localhost:8099/", "https://" + b.desk.Near + "/", "http://" + b.desk.Addr + ":8099/",
	} {
		if out, err := fetch(b.user, address); err == nil {
			t.Errorf("%s was reached: %s", address, out)
		}
	}
	stranger := peer.NewUser(t, peer.Account{})
	stranger.On(b.room)
	if out, err := fetch(stranger, "https://chatgpt.com/"); err == nil {
		t.Errorf("another user of the host was served: %s", out)
	}
	quit(term)
}

// Through Towline's own SSH door it is the same, and what a key may do decides: a
// network takes an operator, a login an admin.
func TestLendThroughTheDoor(t *testing.T) {
	t.Parallel()
	d := newOwnDoor(t, nativeEngine+"requires_openai_auth = true\n")
	d.issuer.ServeModel()
	d.loginHere(t)
	as := func(role string) {
		t.Helper()
		d.user.Write(".config/towline/authorized_keys", "environment=\"TOWLINE_ROLE="+role+"\" "+d.laptop.Key.Line+"\n", 0o600)
	}
	as("approver")
	told(t, d.laptop.Towline("dev", "--lend-network", "--json"), 5, "needs the role operator")
	as("operator")
	told(t, d.laptop.Towline("dev", "--lend-network", "--json"), 0, `"lent":"network lent"`)
	told(t, d.laptop.Towline("dev", "--lend-credentials", "--json"), 5, "admin")
	as("admin")
	term := d.laptop.OpenTowline(120, 30, "dev", "--project", d.user.Home, "--lend-credentials", "--lend-network")
	term.Wait("? help", "network lent, login lent")
	hello(term)
	quit(term)
	if text := d.user.Read(".codex/auth.json"); text != "" {
		t.Errorf("the host has stored %q", text)
	}
}
