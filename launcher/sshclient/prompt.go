package sshclient

import (
	"context"
	"errors"
	"strings"

	"towline/launcher/remote"
)

const (
	maxPrompt  = 500     // bytes of a server's prompt that are shown
	maxPrompts = 16      // prompts a server may have in one challenge
	maxBanner  = 8 << 10 // bytes of a server's banner that are shown
	maxNotices = 32      // banners and the like that are shown in one login
	maxRounds  = 64      // challenges a server may follow up with in one login
)

// errGaveUp is a person's refusal to type something.
var errGaveUp = errors.New("nothing was entered")

// secret asks a person, with time standing still.
func (a *authenticator) secret(q remote.SecretQuestion, what string) (string, error) {
	h := a.h
	if h.target.BatchMode {
		a.silence("BatchMode forbids to ask for the " + what)
		return "", remote.ErrNobody
	}
	if err := h.run.cfg.Secrets.mayAsk(h.label); err != nil {
		a.silence(err.Error())
		return "", err
	}
	defer a.g.pause()()
	h.waiting(remote.StageAuth, "waiting for you to enter the "+what, true)
	defer h.waiting(remote.StageAuth, "", false)
	q.Hop = h.label
	s, err := h.run.cfg.Ask.Secret(a.ctx, q)
	a.lost = a.w.broken() != nil
	switch {
	case err == nil:
		return s, nil
	case a.ctx.Err() != nil:
		a.fatal = h.cut(remote.StageAuth, a.ctx)
		return "", a.fatal
	case errors.Is(err, remote.ErrNobody):
		text := "nobody is here to enter the " + what
		if err != remote.ErrNobody { //nolint:errorlint // the plain one adds nothing
			text = printable(err.Error(), 300)
		}
		a.silence(text)
		a.hint("answer in a terminal: `towline " + h.run.name() + "`")
		return "", err
	case errors.Is(err, context.Canceled):
		// A person who closes the question means the connection.
		a.fatal = a.gaveUp(what)
		return "", a.fatal
	}
	a.fatal = h.asked(err, what)
	return "", a.fatal
}

// unlock makes a candidate's file ready to sign, asking for its passphrase as
// often as the configuration allows.
func (a *authenticator) unlock(c *candidate) error {
	f := c.file
	if f.signer != nil {
		return nil
	}
	if f.pub != nil {
		if f.signer = a.h.run.cfg.Secrets.key(f.pub); f.signer != nil {
			return nil
		}
	}
	for n := 1; n <= a.prompts(); n++ {
		p, err := a.secret(remote.SecretQuestion{
			Kind: remote.Passphrase, Prompt: "passphrase for " + short(f.path), Subject: f.path, Attempt: n,
		}, "passphrase of "+short(f.path))
		if err != nil {
			if errors.Is(err, remote.ErrNobody) {
				a.note(short(f.path)+" is locked by a passphrase", "run `ssh-add "+quote(f.path)+"` first")
			}
			return err
		}
		if p == "" {
			a.note("no passphrase was entered for "+short(f.path), "")
			return errGaveUp
		}
		if err := f.unlock(p); err == nil {
			break
		} else if !errors.Is(err, errWrongPassphrase) {
			a.note(short(f.path)+" "+err.Error(), f.hint)
			return err
		}
	}
	if f.signer == nil {
		a.note("the passphrase of "+short(f.path)+" was wrong", "try it: `ssh-keygen -y -f "+quote(f.path)+"`")
		return errWrongPassphrase
	}
	c.base = f.pub
	if c.pub == nil {
		c.pub = f.pub
	}
	a.h.run.cfg.Secrets.keepKey(f.signer)
	if a.agent != nil {
		if err := a.agent.add(f.raw, f.path, a.h.target.AddKeysToAgent); err != nil {
			a.h.detail(remote.StageAuth, "the agent did not take the key: "+err.Error())
		}
	}
	return nil
}

// account is whose login this is, for prompts.
func (h *hop) account() string { return h.target.User + "@" + h.target.HostName }

// password answers the method of that name.
func (a *authenticator) password() (string, error) {
	return a.remembered("password", a.tries[methodPassword], remote.SecretQuestion{
		Kind: remote.Password, Prompt: "password for " + a.h.account(), Subject: a.h.account(),
	}, "password")
}

// remembered answers from memory the first time, and from a person after that.
// What a person typed is kept once it was right, or when the server hung up while
// they were typing: it was never judged then.
func (a *authenticator) remembered(what string, attempt int, q remote.SecretQuestion, name string) (string, error) {
	s := a.h.run.cfg.Secrets
	// An address means another machine behind another jump host.
	id := a.h.label + "\x00" + login(a.h.target) + "\x00" + what
	if p, ok := s.password(id); ok {
		if attempt == 1 {
			a.used = "the " + name + " from before"
			return p, nil
		}
		s.dropPassword(id)
	}
	q.Attempt = attempt
	p, err := a.secret(q, name)
	if err != nil {
		return "", err
	}
	a.used = "a " + name
	a.pending = func() { s.keepPassword(id, p) }
	if a.w.broken() != nil {
		a.keep()
	}
	return p, nil
}

// challenge answers keyboard-interactive.
func (a *authenticator) challenge(name, instruction string, prompts []string, echos []bool) ([]string, error) {
	if a.rounds++; a.rounds > maxRounds {
		a.note("the server asks without end", "")
		return nil, errors.New("the server asks without end")
	}
	a.g.progress()
	if text := printableLines(name+"\n"+instruction, maxBanner); text != "" && a.rounds <= maxNotices {
		a.h.run.cfg.Ask.Notice(a.h.label, text)
	}
	if len(prompts) > maxPrompts {
		return nil, errors.New("the server asks too many questions at once")
	}
	answers := make([]string, len(prompts))
	for i, p := range prompts {
		p = printable(p, maxPrompt)
		a.tries[methodPrompt+" answered"]++
		q := remote.SecretQuestion{Kind: remote.Challenge, Prompt: p, Subject: a.h.account(), Echo: echos[i], Attempt: a.tries[methodPrompt]}
		var err error
		if len(prompts) == 1 && !echos[i] && isPassword(p) {
			answers[i], err = a.remembered(p, a.tries[methodPrompt], q, "password")
		} else {
			a.used = "answers to the server's questions"
			answers[i], err = a.secret(q, "answer to the server's question")
		}
		if err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// isPassword reports whether a prompt asks for what is right a second time, and
// not for a code or a new password.
func isPassword(prompt string) bool {
	p := strings.ToLower(prompt)
	for _, w := range []string{"one-time", "one time", "otp", "code", "token", "new", "retype", "again", "change"} {
		if strings.Contains(p, w) {
			return false
		}
	}
	return strings.Contains(p, "password") || strings.Contains(p, "passphrase")
}
