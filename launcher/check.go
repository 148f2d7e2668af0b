package launcher

import (
	"context"
	"errors"
	"time"

	"towline/config"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// Checked is what a look at a host from afar found.
type Checked struct {
	Host    string
	Target  string // user@host:port
	Took    time.Duration
	Kind    string // "towline", "codex", or "" for nothing usable
	Version string
	Running bool // a daemon answers there
	Why     string
	Err     error // a *config.Problem with the stage that was not passed; nil when reachable
}

// Check connects to a host as far as to see what is there, and asks nobody
// anything: a host that would ask fails at that stage. It starts and installs
// nothing. ctx bounds it.
func Check(ctx context.Context, cfg Config) Checked {
	cfg.Ask, cfg.Events, cfg.Install = nil, nil, InstallNever
	cfg = cfg.withDefaults()
	out := Checked{Host: cfg.Host}
	began := time.Now()
	s := newSession(cfg)
	out.Err = s.checked(ctx, &out)
	_ = s.Close()
	out.Took = time.Since(began)
	return out
}

func (s *Session) checked(ctx context.Context, out *Checked) error {
	p := newProgress(s.cfg.Host, nil)
	if err := s.resolve(ctx, p); err != nil {
		return err
	}
	s.target.BatchMode = true
	out.Target = describe(s.target)
	conn, err := s.cfg.parts.dial(ctx, s.dialing(p.event))
	if err != nil {
		return p.fail(remote.StageDial, late(ctx, s.explainDial(err)))
	}
	s.adopt(conn)
	o := s.cfg.options(p.event)
	rep, err := s.cfg.parts.probe(ctx, conn, o)
	if err != nil {
		return p.fail(remote.StageProbe, late(ctx, err))
	}
	ch, err := s.cfg.parts.choose(rep, o)
	if err != nil {
		return p.fail(remote.StageFind, err)
	}
	out.Why = oneLine(ch.Why)
	if ch.Action == bootstrap.Offer {
		return nil
	}
	out.Kind, out.Version = string(ch.Candidate.Kind), oneLine(ch.Candidate.Version)
	out.Running = ch.Action == bootstrap.Join
	return nil
}

// late says of an error that came because time was up that it did.
func late(ctx context.Context, err error) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	var p *config.Problem
	if errors.As(err, &p) && known(p.Stage) {
		return &config.Problem{Stage: p.Stage, Err: errors.New("no answer in time"), Hints: config.Hints(p), Exit: config.ExitUnavailable}
	}
	return errors.New("no answer in time") // whoever has it knows the stage
}
