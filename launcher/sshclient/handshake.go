package sshclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/launcher/remote"
)

const (
	clientVersion = "SSH-2.0-Towline"
	// maxRedials bounds how often a hop is dialed anew because its server hung up
	// while a person was thinking (LoginGraceTime is two minutes with most).
	maxRedials = 5
)

// attempt is one try to get h connected and logged in.
type attempt struct {
	h     *hop
	ctx   context.Context
	w     *wire
	g     *guard
	keys  *hostKeys
	auth  *authenticator
	stage string
	// banners is how many there were.
	banners int
	// verdict is what a callback of ours decided: what the library makes of it is
	// not looked at.
	verdict error
}

// login dials h and logs in, and does so again when its server had no patience
// with the person.
func (h *hop) login(ctx context.Context) error {
	for n := 1; ; n++ {
		a := &attempt{h: h, ctx: ctx, stage: remote.StageDial}
		err := a.run()
		if err == nil {
			return nil
		}
		if n < maxRedials && a.impatient() {
			h.detail(a.stage, "the server hung up while it waited for you; connecting again")
			continue
		}
		h.fail(a.stage, err)
		return err
	}
}

func (a *attempt) run() (err error) {
	h := a.h
	address := net.JoinHostPort(h.target.HostName, itoa(h.port()))
	h.begin(remote.StageDial, dialText(h, address))
	conn, err := h.connect(a.ctx)
	if err != nil {
		return err
	}
	a.w = newWire(conn)
	a.w.greeted, a.w.ended = a.greeted, a.ended
	a.g = newGuard(h.patience(), func() { a.w.abort(errSlow) })
	defer a.g.stop()
	defer abortWith(a.ctx, a.w)()
	defer func() {
		if err != nil {
			_ = a.w.Close()
		}
	}()
	cfg := &ssh.ClientConfig{
		User: h.target.User, ClientVersion: clientVersion,
		BannerCallback: a.banner, HostKeyCallback: a.hostKey, AuthCallback: a.next,
	}
	if err := h.algorithms(cfg); err != nil {
		return err
	}
	if out := h.leftOut(); len(out) > 0 {
		h.detail(remote.StageDial, "set, and not done here: "+strings.Join(out, ", "))
	}
	if a.keys, err = h.newHostKeys(); err != nil {
		a.stage = remote.StageHostKey
		return err
	}
	a.keys.local = h.target.NoHostAuthenticationForLocalhost && h.target.HostKeyAlias == "" && loopback(conn)
	cfg.HostKeyAlgorithms = a.keys.prefer(cfg.HostKeyAlgorithms)
	if len(cfg.HostKeyAlgorithms) == 0 {
		return h.problem(remote.StageHostKey, errors.New("HostKeyAlgorithms allows only certificates, and no authority for this host is in known_hosts"), "", config.ExitConfig,
			"add the authority's `@cert-authority` line to ~/.ssh/known_hosts")
	}
	sc, chans, reqs, err := ssh.NewClientConn(a.w, address, cfg)
	if a.auth != nil {
		defer a.auth.close()
	}
	if err != nil {
		return a.explain(err)
	}
	if a.auth != nil {
		a.auth.keep()
		h.done(remote.StageAuth, "as "+h.target.User+a.auth.with())
	}
	h.detail(remote.StageAuth, printable(string(sc.ServerVersion()), 255))
	h.link = newLink(h, a.w, sc, chans, reqs)
	return nil
}

// dialText says how h is reached.
func dialText(h *hop, address string) string {
	switch {
	case h.via != nil:
		return address + " through " + h.via.label
	case h.target.ProxyCommand != "":
		return address + " through a ProxyCommand"
	}
	return address
}

// leftOut lists options that are on and that nothing here does. None of them is a
// reason not to connect.
func (h *hop) leftOut() []string {
	var out []string
	for _, o := range []struct {
		name string
		on   bool
	}{
		{"Compression", h.target.Compression},
		{"CheckHostIP", h.target.CheckHostIP},
		{"UpdateHostKeys", h.target.UpdateHostKeys},
		{"VerifyHostKeyDNS", h.target.VerifyHostKeyDNS != "" && !strings.EqualFold(h.target.VerifyHostKeyDNS, "no")},
	} {
		if o.on {
			out = append(out, o.name)
		}
	}
	return out
}

// loopback reports whether conn goes to this machine, as far as one can see.
func loopback(conn net.Conn) bool {
	a, ok := conn.RemoteAddr().(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

// greeted is called once, when the server has begun to speak SSH.
func (a *attempt) greeted() {
	a.g.progress()
	a.h.done(remote.StageDial, "connected")
	a.stage = remote.StageHostKey
	a.h.begin(a.stage, "")
}

// ended is called once, when the connection broke. While a person is being asked
// that is no failure: what they enter is used with the next connection.
func (a *attempt) ended() {
	if a.g.waiting() {
		a.h.detail(remote.StageAuth, "the server hung up meanwhile; it is called again with your answer")
	}
}

func (a *attempt) banner(text string) error {
	if a.banners++; a.banners > maxNotices {
		return nil
	}
	if text = printableLines(text, maxBanner); text != "" {
		a.h.run.cfg.Ask.Notice(a.h.label, text)
	}
	return nil
}

// hostKey is the library's HostKeyCallback. It is called again whenever keys are
// exchanged anew, long after this attempt.
func (a *attempt) hostKey(_ string, _ net.Addr, key ssh.PublicKey) error {
	first := a.keys.accepted == nil
	if first {
		a.g.progress()
	}
	how, err := a.keys.check(key, a.h.askHostKey(a.ctx, a.g))
	if err != nil {
		a.verdict = err
		return err
	}
	if first {
		a.g.allow(a.h.loginPatience())
		a.h.done(remote.StageHostKey, how)
		a.stage = remote.StageAuth
		a.h.begin(a.stage, "as "+a.h.target.User)
	}
	return nil
}

// next is the library's AuthCallback. What there is to offer is collected here
// and not earlier: a server without a login asks no agent.
func (a *attempt) next(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	if a.auth == nil {
		resume := a.g.hold() // an agent's slowness is not the server's
		a.auth = a.h.newAuthenticator(a.ctx, a.g, a.w)
		resume()
		a.h.detail(remote.StageAuth, "the server takes "+strings.Join(c.AllowedMethods, ",")+"; "+c.Algorithms.KeyExchange+", "+c.Algorithms.Read.Cipher)
	}
	m, err := a.auth.next(c)
	if err != nil {
		a.verdict = err
	}
	return m, err
}

// impatient reports whether the server hung up while a person was waited for.
func (a *attempt) impatient() bool {
	if a.w == nil || a.w.broken() == nil || a.w.aborted() != nil || a.ctx.Err() != nil {
		return false
	}
	if a.auth != nil {
		return a.auth.lost
	}
	// At the host key nothing is read while the person thinks, so the end comes to
	// light with the next step.
	return a.g.didWait() && (a.verdict == nil || errors.Is(a.verdict, errHungUp))
}

// explain makes the library's error of a handshake the one a person sees.
func (a *attempt) explain(err error) error {
	h := a.h
	var (
		p    *config.Problem
		algo *ssh.AlgorithmNegotiationError
	)
	words, told := disconnected(err)
	slow := errors.Is(a.w.aborted(), errSlow)
	switch {
	case errors.As(a.verdict, &p):
		return p
	case a.ctx.Err() != nil:
		return h.cut(a.stage, a.ctx)
	case !a.w.spoke():
		return h.greetingProblem(a.w, err)
	case slow:
		return h.problem(a.stage, &described{"no answer within " + a.g.limit().String(), err}, "", config.ExitUnavailable,
			"try again; when it stays like this: `ssh -v "+h.label+" true`", "a network that loses large packets looks like this: try a smaller MTU")
	case errors.As(err, &algo):
		stage := remote.StageDial
		if algo.What == "host key" {
			stage = remote.StageHostKey
		}
		a.stage = stage
		return h.problem(stage, fmt.Errorf("no common %s: here %s, there %s", algo.What, brief(algo.SupportedAlgorithms), brief(algo.RequestedAlgorithms)), "", config.ExitConfig,
			"set `transport = \"system\"` for this host: the system's ssh may know one of them",
			"or update sshd there")
	case a.stage == remote.StageAuth:
		return a.authProblem(err, words)
	case told:
		return h.problem(a.stage, errHungUp, words, config.ExitUnavailable, h.verbose())
	case isEnd(err):
		return h.problem(a.stage, &described{errHungUp.Error() + " during the key exchange", err}, h.proxyWords(), config.ExitUnavailable, h.verbose())
	}
	return h.problem(a.stage, errors.New(printable(err.Error(), 400)), h.proxyWords(), config.ExitUnavailable, h.verbose())
}

// proxyWords is what h's ProxyCommand said.
func (h *hop) proxyWords() string {
	if h.proxy == nil {
		return ""
	}
	return h.proxy.said()
}

// tooManyWords is how OpenSSH and those who follow it end a login.
const tooManyWords = "too many authentication failures"

// authProblem explains a login that failed.
func (a *attempt) authProblem(err error, words string) error {
	h, au := a.h, a.auth
	if au == nil { // before the server said what it takes
		return h.problem(remote.StageAuth, &described{errHungUp.Error() + " before the login began", err}, words, config.ExitUnavailable, h.verbose())
	}
	hints := slices.Clone(au.hints)
	text, exit := "permission denied", config.ExitDenied
	switch {
	case strings.Contains(strings.ToLower(words), tooManyWords):
		text = fmt.Sprintf("the server gave up after %s", plural(len(au.offered), "key"))
		hints = append([]string{"name the right key under `Host " + h.label + "` in ~/.ssh/config: `IdentityFile ~/.ssh/KEY` and `IdentitiesOnly yes`"}, hints...)
	case words != "":
		text = errHungUp.Error()
	case errors.Is(a.verdict, errHungUp), !errors.Is(a.verdict, errNoMethod) && isEnd(err):
		text, exit = errHungUp.Error()+" during the login", config.ExitUnavailable
		if len(au.offered) > 3 {
			hints = append(hints, "it may have had too many keys: set `IdentitiesOnly yes` and `IdentityFile` under `Host "+h.label+"` in ~/.ssh/config")
		}
	}
	if len(au.allowed) > 0 {
		text += " (it takes " + printable(strings.Join(au.allowed, ","), 200) + ")"
	}
	if len(au.offered) > 0 {
		text += "; offered " + brief(au.offered)
	}
	if len(au.notes) > 0 {
		text += "; " + strings.Join(au.notes, "; ")
	}
	if len(hints) == 0 || len(au.taken) == 0 && words == "" && errors.Is(a.verdict, errNoMethod) {
		hints = append(hints, au.advice()...)
	}
	return h.problem(remote.StageAuth, &described{text, err}, words, exit, hints...)
}

// advice is what to do when nothing the server takes could be given.
func (a *authenticator) advice() []string {
	h := a.h
	if !slices.ContainsFunc(a.allowed, func(m string) bool { return slices.Contains(usualMethods, m) }) {
		return []string{"set `transport = \"system\"` for this host: ssh knows more ways to log in (" + printable(strings.Join(a.allowed, ","), 100) + ")"}
	}
	if !slices.Contains(a.allowed, methodKey) {
		return []string{"check the user name: this was " + h.account() + "; `ssh " + h.label + "` should work with the same one"}
	}
	if len(a.offered) == 0 {
		return []string{"make a key and put it there: `ssh-keygen -t ed25519`, then `ssh-copy-id " + h.label + "`"}
	}
	return []string{"check the user name (this was " + h.account() + "), or put your key there: `ssh-copy-id " + h.label + "`"}
}

// with says what the login succeeded by.
func (a *authenticator) with() string {
	if a.used == "" {
		return ""
	}
	return " with " + a.used
}

// gaveUp is a person's refusal to answer. The question came because of what was
// tried before, so that is said too: it may be what they came to mend.
func (a *authenticator) gaveUp(what string) *config.Problem {
	h := a.h
	text := "you did not enter the " + what
	if refused := a.refused(); len(refused) > 0 {
		text += "; the server refused " + brief(refused)
	}
	if len(a.notes) > 0 {
		text += "; " + strings.Join(a.notes, "; ")
	}
	return h.problem(remote.StageAuth, &described{text, errGaveUp}, "", config.ExitInterrupted,
		append([]string{"try again: `towline " + h.run.name() + "`"}, a.hints...)...)
}

// asked is an Asker's failure.
func (h *hop) asked(err error, what string) *config.Problem {
	return h.problem(remote.StageAuth, fmt.Errorf("asking for the %s: %w", what, err), "", config.ExitFailure,
		"try again: `towline "+h.run.name()+"`")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return itoa(n) + " " + what + "s"
}
