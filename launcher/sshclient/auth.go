package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// The methods we can do, by their names on the wire, in ssh's order.
const (
	methodKey      = "publickey"
	methodPrompt   = "keyboard-interactive"
	methodPassword = "password"
)

var usualMethods = []string{methodKey, methodPrompt, methodPassword}

// authenticator is the login at one hop: which method comes next, what is offered,
// and what a person is asked. The library calls it from the goroutine of the
// handshake, one call at a time.
type authenticator struct {
	h     *hop
	ctx   context.Context
	g     *guard
	w     *wire
	agent *keyAgent

	methods    []string     // in the order wanted, enabled ones only
	candidates []*candidate // keys still to offer
	faults     []*keyFile   // identity files of no use

	offered  []string       // labels of the keys the server was shown
	taken    []string       // those of them it wants a signature with
	notes    []string       // what went wrong on our side, for the error
	hints    []string       // what to do about that
	tries    map[string]int // questions answered, by method
	rounds   int            // challenges, with questions or without
	allowed  []string       // what the server said it takes
	partial  int            // methods that were right but not enough
	used     string         // the last thing tried, for "authenticated with …"
	pending  func()         // keeps what was typed, once it was right
	silenced bool           // nobody could be asked
	lost     bool           // the server hung up while a person was being asked
	fatal    error          // ends the login whatever else could be tried
}

// newAuthenticator collects what there is to offer. The agent it opened is for
// close.
func (h *hop) newAuthenticator(ctx context.Context, g *guard, w *wire) *authenticator {
	t := h.target
	a := &authenticator{h: h, ctx: ctx, g: g, w: w, tries: make(map[string]int), methods: wantedMethods(t)}
	if !slices.Contains(a.methods, methodKey) {
		return a
	}
	if path := agentPath(t.IdentityAgent, h.run.cfg.Environ); path != "" {
		var err error
		if a.agent, err = openAgent(ctx, path); err != nil {
			a.note("the agent could not be asked: "+reason(err), "start one: `eval $(ssh-agent)`, then `ssh-add`")
			h.detail(remote.StageAuth, "agent "+path+": "+err.Error())
		} else {
			h.detail(remote.StageAuth, fmt.Sprintf("agent %s holds %d keys", path, len(a.agent.keys)))
		}
	}
	var files []*keyFile
	for _, path := range t.IdentityFiles {
		f := readKeyFile(path)
		switch {
		case f != nil:
			if f.signer == nil && f.pub != nil {
				f.signer = h.run.cfg.Secrets.key(f.pub)
			}
			files = append(files, f)
		case !t.IdentityFilesDefault:
			a.note("there is no "+short(path), "check IdentityFile of `Host "+h.label+"` in ~/.ssh/config")
		}
	}
	a.candidates, a.faults = gather(files, t.CertificateFiles, a.agent, t.IdentitiesOnly)
	for _, f := range a.faults {
		a.note(short(f.path)+" "+f.fault, f.hint)
	}
	for _, c := range a.candidates {
		if cert, ok := c.pub.(*ssh.Certificate); ok {
			if why := outOfTime(cert, time.Now()); why != "" {
				a.note("the "+c.label+" "+why, "have the certificate renewed by whoever signs it, and check this machine's clock")
			}
		}
	}
	return a
}

func (a *authenticator) close() { a.agent.close() }

func (a *authenticator) note(text, hint string) {
	a.notes = append(a.notes, text)
	a.hint(hint)
}

func (a *authenticator) hint(hint string) {
	if hint != "" && !slices.Contains(a.hints, hint) {
		a.hints = append(a.hints, hint)
	}
}

// wantedMethods is what the configuration lets us try, in its order.
func wantedMethods(t sshconfig.Target) []string {
	order := usualMethods
	if t.PreferredAuthentications != nil {
		order = t.PreferredAuthentications
	}
	on := map[string]bool{methodKey: t.PubkeyAuthentication, methodPrompt: t.KbdInteractiveAuthentication, methodPassword: t.PasswordAuthentication}
	var out []string
	for _, m := range order {
		if on[m] && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

// next is the library's AuthCallback.
func (a *authenticator) next(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	a.g.progress()
	a.allowed = c.AllowedMethods
	if n := len(c.PartialSuccessMethods); n > a.partial {
		a.h.detail(remote.StageAuth, a.used+" was right, and the server wants more: "+strings.Join(c.AllowedMethods, ","))
		a.partial = n
		a.keep()
	}
	a.pending = nil
	switch {
	case a.fatal != nil:
		return nil, a.fatal
	case a.ctx.Err() != nil:
		return nil, a.h.cut(remote.StageAuth, a.ctx)
	case a.w.broken() != nil:
		// The library would go on trying methods on a dead connection, and ask a
		// person for passwords nobody will ever read.
		return nil, fmt.Errorf("%w: %w", errHungUp, a.w.broken())
	}
	for _, m := range a.methods {
		if !slices.Contains(c.AllowedMethods, m) {
			continue
		}
		if method := a.method(m); method != nil {
			return method, nil
		}
		if a.fatal != nil {
			return nil, a.fatal
		}
	}
	return nil, errNoMethod
}

var errNoMethod = errors.New("permission denied")

// keep remembers what was typed, now that it was right.
func (a *authenticator) keep() {
	if a.pending != nil {
		a.pending()
		a.pending = nil
	}
}

func (a *authenticator) method(m string) ssh.AuthMethod {
	switch m {
	case methodKey:
		return a.nextKey()
	case methodPrompt:
		if a.mayPrompt(m) {
			a.tries[m]++
			return ssh.KeyboardInteractive(a.challenge)
		}
	case methodPassword:
		// After keyboard-interactive asked for a password in vain the same server
		// would ask for the same one again.
		if a.mayPrompt(m) && a.tries[methodPrompt+" answered"] == 0 {
			a.tries[m]++
			return ssh.PasswordCallback(a.password)
		}
	}
	return nil
}

// prompts is how often a person may try.
func (a *authenticator) prompts() int {
	if n := a.h.target.NumberOfPasswordPrompts; n > 0 {
		return n
	}
	return 3
}

// mayPrompt reports whether method may ask once more.
func (a *authenticator) mayPrompt(m string) bool {
	if a.silenced {
		return false
	}
	if a.h.target.BatchMode {
		a.silence("BatchMode forbids to ask for a password")
		return false
	}
	return a.tries[m] < a.prompts()
}

func (a *authenticator) silence(why string) {
	if !a.silenced {
		a.silenced = true
		a.note(why, "")
	}
}

// nextKey is the next key to offer, as a method of its own: that way each is told
// apart, and the library never sees more than it should.
func (a *authenticator) nextKey() ssh.AuthMethod {
	for len(a.candidates) > 0 {
		c := a.candidates[0]
		a.candidates = a.candidates[1:]
		if c.pub == nil {
			// An old encrypted format that hides even the public half.
			if err := a.unlock(c); err != nil {
				if a.fatal != nil {
					return nil
				}
				a.h.detail(remote.StageAuth, c.label+": "+err.Error())
				continue
			}
		}
		algos := acceptable(c.pub.Type(), a.h.target.PubkeyAcceptedAlgorithms)
		if len(algos) == 0 {
			a.note(c.label+" is a "+c.pub.Type()+" key, which PubkeyAcceptedAlgorithms leaves out", "")
			continue
		}
		a.offered = append(a.offered, c.label)
		a.used = c.label + " " + ssh.FingerprintSHA256(baseKey(c.pub))
		a.h.detail(remote.StageAuth, "offering "+a.used)
		return ssh.PublicKeys(&signer{a: a, c: c, algos: algos})
	}
	return nil
}

// refused is the keys the server was shown and did not want.
func (a *authenticator) refused() []string {
	return slices.DeleteFunc(slices.Clone(a.offered), func(label string) bool { return slices.Contains(a.taken, label) })
}

// signer is a candidate as the library wants it. Its private half is needed, and a
// passphrase asked for, only once the server said that it would take the key.
type signer struct {
	a     *authenticator
	c     *candidate
	algos []string
}

func (s *signer) PublicKey() ssh.PublicKey { return s.c.pub }
func (s *signer) Algorithms() []string     { return s.algos }

func (s *signer) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(rand, data, s.algos[0])
}

func (s *signer) SignWithAlgorithm(_ io.Reader, data []byte, algo string) (*ssh.Signature, error) {
	sig, err := s.sign(data, algo)
	if err != nil {
		s.a.h.detail(remote.StageAuth, s.c.label+": "+err.Error())
	}
	return sig, err
}

func (s *signer) sign(data []byte, algo string) (*ssh.Signature, error) {
	a := s.a
	a.taken = append(a.taken, s.c.label)
	if !s.c.agent {
		if err := a.unlock(s.c); err != nil {
			return nil, err
		}
		return signFile(s.c.file.signer, data, algo)
	}
	defer a.waitForAgent(s.c)()
	sig, err := a.agent.sign(a.ctx, s.c.base, data, algo)
	a.lost = a.w.broken() != nil
	if err != nil && a.ctx.Err() == nil {
		a.note("the server takes "+s.c.label+", but the agent did not sign with it: "+printable(err.Error(), 200),
			"see whether the agent is locked or the key needs a touch: `ssh-add -l`; keys added with `ssh-add -h` need `transport = \"system\"`")
	}
	return sig, err
}

// agentPause is how long an agent may take to sign before it is said that it is
// waited for.
const agentPause = 2 * time.Second

// waitForAgent stops the time while an agent signs, until the function it returns
// is called: the agent may ask its person to confirm, or to touch a key. People are
// told of the latter at once, and of anything else when it takes long.
func (a *authenticator) waitForAgent(c *candidate) (resume func()) {
	proceed := a.g.pause()
	text, after := "waiting for the agent to sign with "+c.label, agentPause
	if strings.HasPrefix(c.pub.Type(), "sk-") {
		a.h.run.cfg.Ask.Notice(a.h.label, "touch your security key "+c.label)
		text, after = "waiting for you to touch the security key", 0
	}
	told := make(chan struct{})
	timer := time.AfterFunc(after, func() {
		defer close(told)
		a.h.waiting(remote.StageAuth, text, true)
	})
	return func() {
		if !timer.Stop() {
			<-told
			a.h.waiting(remote.StageAuth, "", false)
		}
		proceed()
	}
}
