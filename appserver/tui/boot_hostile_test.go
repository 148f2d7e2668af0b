package tui

import (
	"errors"
	"testing"

	"towline/appserver/tui/theme"
	"towline/config"
)

func TestTextOfAConnectionCannotReachTheTerminal(t *testing.T) {
	b := newBench(t, 100, 40, theme.Dark(), ownSession())
	b.connecting()
	b.press("d") // details
	for _, s := range []Step{
		{Stage: "authenticate", Hop: "hop" + evil, Text: "text" + evil},
		{Stage: "authenticate", Hop: "hop" + evil, Text: evil, Detail: true},
		{Stage: "new" + evil, Text: evil},
		{Stage: "find", Err: errors.New("gone" + evil + "\nmore" + evil)},
	} {
		b.Update(stepMsg(s))
	}
	b.Update(noticeMsg{"bastion" + evil, "banner\n" + evil + "\n\n"})
	b.Update(noticeMsg{"", evil})
	harmless(t, "steps", b.model)
	for _, q := range []*query{
		hostKeyQuery(HostKeyQuestion{Hop: evil, Address: evil, Type: evil, Fingerprint: evil, File: evil}),
		secretQuery(SecretQuestion{Hop: evil, Kind: Challenge, Prompt: evil + "\n" + evil, Subject: evil, Echo: true, Attempt: 2}),
		secretQuery(SecretQuestion{Hop: evil, Kind: Passphrase, Subject: evil}),
		choiceQuery(Question{Hop: evil, Title: evil, Text: evil, Facts: []Fact{{evil, evil}}, Choices: []Choice{{"y", evil}}}),
		choiceQuery(InstallOffer{Host: evil, Why: evil, Source: evil, Dir: evil, Replaces: evil, Rollback: evil}.Question()),
	} {
		b.question(q)
		q.insert(evil)
		harmless(t, "question "+q.title, b.model)
		b.Update(unaskMsg{q})
	}
	b.Update(connectedMsg{run: b.boot.run, err: &config.Problem{Stage: "find" + evil, Err: errors.New(evil + "\n" + evil), Hints: []string{"run `a" + evil + "`: b" + evil, evil}}})
	harmless(t, "failure", b.model)
	b.boot.phase, b.conn.state, b.conn.met, b.conn.was = bootIdle, connUp, true, true
	b.boot.opened = &Opened{Transport: evil, CutEndsTurn: true, Note: evil, Skew: Skew{Notice: evil, Update: newLaunch(nil).update}}
	b.conversation()
	harmless(t, "banner", b.model)
	b.boot.opened.Skew.Blocked = true
	b.press("x")
	b.submit()
	b.showStatus()
	harmless(t, "blocked", b.model)
	b.project = project{home: "/home" + evil, recent: []string{"/a" + evil}}
	b.chooseFolder("/b"+evil, evil, nil)
	b.screen.(*folders).in = []string{"c" + evil}
	b.screen.(*folders).dir = "/b" + evil
	b.screen.(*folders).msg = b.project.short("/b"+evil) + ": x"
	harmless(t, "folders", b.model)
}
