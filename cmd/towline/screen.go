package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"towline/appserver/tui"
	"towline/launcher"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// ui puts the launcher behind the UI's screen: it gives the one's questions and
// steps to the other, and the connection back.
type ui struct {
	cfg launcher.Config
	o   *connectOptions
}

// connect is a tui.Config's Connect.
func (u *ui) connect(ctx context.Context, c tui.Connecting) (tui.Opened, error) {
	s, err := launcher.Connect(ctx, through(u.cfg, c))
	if err != nil {
		return tui.Opened{}, err
	}
	return u.lend(ctx, s, c)
}

// lend lends to a host what the person said, and describes the session to the UI.
func (u *ui) lend(ctx context.Context, s *launcher.Session, c tui.Connecting) (tui.Opened, error) {
	l, err := u.o.lend.begin(ctx, s, u.cfg.Host, u.cfg.Log, func(text string) { c.Notice("", text) })
	if err != nil {
		return tui.Opened{}, errors.Join(err, s.Close())
	}
	return u.opened(l), nil
}

// through gives what a connection asks and tells to c, and its answers back.
func through(cfg launcher.Config, c tui.Connecting) launcher.Config {
	cfg.Ask = person{c}
	cfg.Events = func(e remote.Event) { c.Step(tui.Step(e)) }
	cfg.Progress = c.Progress
	cfg.Offer = func(ctx context.Context, o launcher.Offer) (bool, error) { return offer(ctx, c, o) }
	return cfg
}

// offer asks whether to put this program on a host. Where nobody is there to
// ask, the answer is no, and the error that follows says how to say yes.
func offer(ctx context.Context, c tui.Connecting, o launcher.Offer) (bool, error) {
	q := tui.InstallOffer{
		Host: o.Host, Why: o.Reason, Source: "this program, towline " + o.Build.Version + " for " + o.Build.OS + "/" + o.Build.Arch,
		Dir: o.Dir, Bytes: o.Build.Size, Replaces: o.Update,
	}
	if o.Update != "" {
		q.Rollback = "towline connect " + o.Host + " --rollback"
	}
	n, err := c.Choose(ctx, q.Question())
	if errors.Is(err, tui.ErrNobody) {
		return false, nil
	}
	return n == 0 && err == nil, err
}

// opened describes a session to the UI.
func (u *ui) opened(l *lent) tui.Opened {
	s := l.session
	info, was := s.Info(), u.cfg.Memory.Load(u.cfg.Host)
	o := tui.Opened{
		Dial: l.dial, Close: l.end, Wake: s.Wake(), Host: u.cfg.Host, Transport: transportName(info),
		CutEndsTurn: info.Opened.CutEndsTurn, Note: info.Opened.Note,
		Project: u.o.project, ProjectAsked: u.o.project != "", Recent: was.Recent, Home: info.Report.Home,
		Chosen: s.Used,
		Skew:   tui.Skew{Notice: info.Choice.Skew.Notice, Blocked: info.Choice.Skew.Block},
	}
	if l.word != "" {
		o.Transport += ", " + l.word
		o.Note = strings.TrimPrefix(o.Note+"; "+l.note, "; ")
	}
	if o.Project == "" {
		o.Project = u.o.host.Project
	}
	if o.Project == "" {
		o.Project = was.Project
	}
	if k := info.Choice.Skew.Kind; k == bootstrap.Older || k == bootstrap.OutOfWindow {
		o.Skew.Update = u.update(info)
	}
	return o
}

func transportName(i launcher.Info) string {
	if i.Opened.CutEndsTurn {
		return string(i.Opened.Kind) + " stdio"
	}
	return string(i.Opened.Kind)
}

// update offers to put this version on the host, beside the one that is there.
func (u *ui) update(info launcher.Info) func(context.Context, tui.Updating) (tui.Opened, error) {
	return func(ctx context.Context, c tui.Updating) (tui.Opened, error) {
		b, err := u.cfg.Build(info.Report.OS, info.Report.Arch)
		if err != nil {
			return tui.Opened{}, err
		}
		yes, err := offer(ctx, c, launcher.Offer{
			Host: u.cfg.Host, Reason: info.Choice.Skew.Notice, Dir: info.Report.InstallDir, Build: b, Update: info.Opened.Version,
		})
		if err != nil {
			return tui.Opened{}, err
		}
		if !yes {
			return tui.Opened{}, tui.ErrAborted
		}
		c.Release() // it would start what is being replaced anew
		cfg := through(u.cfg, c)
		cfg.Install = launcher.InstallAlways
		s, err := launcher.Connect(ctx, cfg)
		if err != nil {
			return tui.Opened{}, err
		}
		return u.lend(ctx, s, c)
	}
}

// person is the one in front of the screen, as the launcher asks them.
type person struct{ c tui.Connecting }

func (p person) HostKey(ctx context.Context, q remote.HostKeyQuestion) (remote.Decision, error) {
	d, err := p.c.HostKey(ctx, tui.HostKeyQuestion(q))
	if errors.Is(err, tui.ErrAborted) {
		return remote.Refuse, nil // esc is a no
	}
	if err != nil {
		return remote.Refuse, asRemote(err)
	}
	switch d {
	case tui.AcceptSave:
		return remote.AcceptSave, nil
	case tui.AcceptOnce:
		return remote.AcceptOnce, nil
	}
	return remote.Refuse, nil
}

func (p person) Secret(ctx context.Context, q remote.SecretQuestion) (string, error) {
	s, err := p.c.Secret(ctx, tui.SecretQuestion{
		Hop: q.Hop, Kind: secretKind(q.Kind), Prompt: q.Prompt, Subject: q.Subject, Echo: q.Echo, Attempt: q.Attempt,
	})
	return s, asRemote(err)
}

func (p person) Notice(hop, text string) { p.c.Notice(hop, text) }

func secretKind(k remote.SecretKind) tui.SecretKind {
	switch k {
	case remote.Password:
		return tui.Password
	case remote.Passphrase:
		return tui.Passphrase
	}
	return tui.Challenge
}

// asRemote makes the UI's "nobody" and "no answer" the launcher's.
func asRemote(err error) error {
	switch {
	case errors.Is(err, tui.ErrNobody):
		return remote.ErrNobody
	case errors.Is(err, tui.ErrAborted):
		return fmt.Errorf("%w (%w)", context.Canceled, err)
	}
	return err
}

// handover is a person who can be met in another place later: on the terminal's
// lines while a connection is made, on the screen once there is one. Two of them
// on one terminal would read each other's keys.
type handover struct {
	mu  sync.Mutex // guards now
	now tui.Connecting
}

func (h *handover) to(c tui.Connecting) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = c
}

func (h *handover) current() tui.Connecting {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *handover) HostKey(ctx context.Context, q tui.HostKeyQuestion) (tui.Decision, error) {
	return h.current().HostKey(ctx, q)
}

func (h *handover) Secret(ctx context.Context, q tui.SecretQuestion) (string, error) {
	return h.current().Secret(ctx, q)
}

func (h *handover) Choose(ctx context.Context, q tui.Question) (int, error) {
	return h.current().Choose(ctx, q)
}

func (h *handover) Notice(hop, text string)    { h.current().Notice(hop, text) }
func (h *handover) Step(s tui.Step)            { h.current().Step(s) }
func (h *handover) Progress(done, total int64) { h.current().Progress(done, total) }

// lines is the person at a terminal without a screen.
func (o *hostOptions) lines(errOut io.Writer) *handover {
	return &handover{now: tui.NewPlainAsker(tui.PlainOptions{Out: errOut, Verbose: o.verbose})}
}

// hush is for when something else has the terminal: nobody is asked or told.
func (h *handover) hush() {
	h.to(tui.NewPlainAsker(tui.PlainOptions{Out: io.Discard, Refuse: true, Quiet: true}))
}
