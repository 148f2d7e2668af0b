package integration

import (
	"strings"
	"testing"

	"towline/integration/peer"
)

// The system's ssh as transport shows the same screens: prompts of a bastion and
// of the target, the work, and a cut link that comes back without asking again.
func TestSystemSSHCarriesTheSame(t *testing.T) {
	t.Parallel()
	l, u := peer.NewLaptop(t), installed(t)
	guard := peer.NewUser(t, peer.Account{Password: true})
	bastion := peer.StartOpenSSH(t, peer.OpenSSH{Passwords: true, AuthenticationMethods: "password"})
	s := peer.StartOpenSSH(t, peer.OpenSSH{NoForwarding: true})
	link := peer.NewLink(t, bastion.Addr)
	l.Alias("bastion", &peer.Server{Addr: link.Addr}, guard, "HostKeyAlias ["+strings.TrimSuffix(bastion.Addr, ":2222")+"]:2222")
	l.Knows(bastion)
	l.Alias("dev", s, u, "ProxyJump bastion")
	u.Authorize(l.Key.Line)

	term := l.OpenTowline(100, 30, "dev", "--transport", "system", "--project", u.Path("src/shop"))
	term.Wait("assword", "bastion")
	term.Type(guard.Password)
	term.Keys("Enter")
	term.Wait(s.HostKey.Fingerprint)
	choose(term, "Is this the right host?", "a accept")
	term.Wait("? help")
	say(term, "count to 15 slowly")
	term.Wait("1 2 3")
	link.Cut()
	term.WaitMatch(`(?i)reconnecting`)
	link.Mend()
	term.WaitMatch(`13\s+14\s+15\s+done`)
	if n := strings.Count(bastion.Log(), "Accepted password"); n != 2 {
		t.Errorf("%d logins at the bastion", n)
	}
	quit(term)
}
