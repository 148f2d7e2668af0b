package tui

import (
	"errors"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/config"
)

func init() {
	for name, scene := range map[string]func(b *bench){
		"connecting": (*bench).connecting,
		"connecting-details": func(b *bench) {
			b.connecting()
			b.press("d")
		},
		"hostkey": func(b *bench) {
			b.connecting()
			b.question(hostKeyQuery(HostKeyQuestion{
				Hop: "dev-server", Address: "10.0.1.42:22", Type: "ssh-ed25519",
				Fingerprint: "SHA256:2kW0p7lXqJm3m1oPq8w5qC0m0Qz3n9d6b4y2x1v0u9s", File: "~/.ssh/known_hosts",
			}))
		},
		"password": func(b *bench) {
			b.connecting()
			b.Update(stepMsg(Step{Stage: "authenticate", Hop: "dev-server"}))
			b.Update(noticeMsg{"dev-server", "Authorised use only. Everything on this machine is recorded and may be read by those who run it."})
			b.question(secretQuery(SecretQuestion{Hop: "bastion", Kind: Password, Subject: "ana@bastion", Attempt: 2}))
			b.press("hunter2")
		},
		"offer": func(b *bench) {
			b.connecting()
			b.question(choiceQuery(InstallOffer{
				Host: "dev-server", Why: "neither towline nor codex was found in the login shell's PATH", Source: "this program, towline 0.4.2 for linux/arm64",
				Dir: "/home/ana/.local/share/towline/versions/0.4.2", Bytes: 25 << 20, Replaces: "0.3.9", Rollback: "towline connect dev-server --rollback",
			}.Question()))
		},
		"upload": func(b *bench) {
			b.connecting()
			for _, s := range []Step{{Stage: "shell", Text: "zsh", Done: true, Took: 1400 * time.Millisecond}, {Stage: "install", Text: "uploading towline 0.4.2"}} {
				b.Update(stepMsg(s))
			}
			b.link.person.Progress(15<<20, 25<<20)
			b.clock = b.clock.Add(3200 * time.Millisecond)
		},
		"failed": func(b *bench) {
			b.connecting()
			b.Update(stepMsg(Step{Stage: "shell", Text: "zsh", Done: true, Took: 1400 * time.Millisecond}))
			b.Update(stepMsg(Step{Stage: "find"}))
			b.Update(connectedMsg{run: b.boot.run, err: &config.Problem{
				Stage: "find",
				Err:   errors.New("`codex` was not found in the login shell's PATH\nlooked in /usr/local/bin, ~/.local/bin, ~/.nvm/versions/node/v22.3.0/bin"),
				Hints: []string{"upload this build (24 MB, no sudo): `towline connect dev-server --install`", "everything that was tried: `towline doctor dev-server`"},
			}})
		},
		"folders": func(b *bench) {
			b.open1(opened("t-1", ""))
			b.project = project{home: "/home/ana", recent: []string{"/home/ana/src/shop", "/srv/infra"}}
			b.chooseFolder("/home/ana/src/gone", "~/src/gone: there is no such folder", nil)
			f := b.screen.(*folders)
			f.busy, f.dir, f.in = false, "/home/ana/src", []string{".git", "blog", "shop", "tools"}
			b.Update(tea.KeyPressMsg{Code: tea.KeyDown})
		},
		"skew": func(b *bench) {
			b.boot = &boot{opened: &Opened{Transport: "towline", Skew: Skew{Notice: "dev-server speaks protocol 5, this is 3", Blocked: true, Update: newLaunch(nil).update}}}
			b.conversation()
		},
		"stdio": func(b *bench) {
			b.boot = &boot{opened: &Opened{Transport: "codex stdio", CutEndsTurn: true, Skew: Skew{Notice: "dev-server runs codex 0.166.0, made for 0.169.0"}}}
			b.conversation()
		},
		"cut": func(b *bench) {
			b.conversation()
			b.Update(linkMsg{1, LinkState{Since: b.clock, Attempt: 3, NextTry: b.clock.Add(18 * time.Second)}})
			b.clock = b.clock.Add(14 * time.Second)
		},
	} {
		scenes[name] = scene
	}
}

// connecting is a connection through a bastion whose login shell takes a while.
func (b *bench) connecting() {
	c := &connector{ctx: b.link.ctx, send: func(m tea.Msg) { b.Update(m) }}
	b.link.person = c
	b.conn = conn{}
	b.boot = &boot{cancel: func(error) {}}
	b.beginConnect(nil)
	for _, s := range []Step{
		{Stage: "resolve", Text: "deploy@10.0.1.42:22 via bastion", Done: true, Took: 3 * time.Millisecond},
		{Stage: "dial", Hop: "bastion", Done: true, Took: 20 * time.Millisecond},
		{Stage: "host key", Hop: "bastion", Text: "host key known", Done: true},
		{Stage: "authenticate", Hop: "bastion", Text: "key SHA256:Zb0nG4wAqX9 of the agent was offered and accepted by the server at the first attempt", Detail: true},
		{Stage: "authenticate", Hop: "bastion", Text: "agent key accepted", Done: true, Took: 190 * time.Millisecond},
		{Stage: "dial", Done: true, Took: 30 * time.Millisecond},
		{Stage: "host key", Text: "host key known", Done: true},
		{Stage: "authenticate", Text: "~/.ssh/id_ed25519", Done: true, Took: 160 * time.Millisecond},
		{Stage: "shell", Text: "zsh"},
	} {
		b.Update(stepMsg(s))
	}
	b.clock = b.clock.Add(1400 * time.Millisecond)
}

// question shows q and lets it be read.
func (b *bench) question(q *query) {
	b.Update(askMsg{q})
	b.draw()
	b.clock = b.clock.Add(readingGrace)
}
