package launcher

import (
	"context"
	"errors"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// Reached is a host that was connected to and looked at, and nothing more: no
// app-server was opened there. It is for what works beside one, such as a login.
//
// It does not come back when its link is lost. Close ends it.
type Reached struct {
	Host   string
	Conn   remote.Conn
	Target sshconfig.Target
	Report bootstrap.Report
	Choice bootstrap.Choice // what a connection would use; what was installed, if it was

	s *Session
}

// Reach walks the stages of a connection as far as what is there, which is put
// there first when nothing is and cfg.Install allows it. Errors are as Connect's.
// ctx bounds the reaching only.
func Reach(ctx context.Context, cfg Config) (*Reached, error) {
	cfg = cfg.withDefaults()
	s := newSession(cfg)
	r, err := s.reach(ctx)
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return r, nil
}

func (s *Session) reach(ctx context.Context) (*Reached, error) {
	p := newProgress(s.cfg.Host, s.cfg.Events)
	if err := s.resolve(ctx, p); err != nil {
		return nil, err
	}
	conn, err := s.cfg.parts.dial(ctx, s.dialing(p.event))
	if err != nil {
		return nil, p.fail(remote.StageDial, s.explainDial(err))
	}
	s.adopt(conn)
	f, err := s.look(ctx, p, conn, s.cfg.Install)
	if err != nil {
		return nil, err
	}
	return &Reached{
		Host: s.cfg.Host, Conn: conn, Target: s.target, Choice: f.Choice, s: s,
		Report: f.Report.With(s.cfg.options(nil)),
	}, nil
}

// Run runs a program there as the person would at a prompt: see bootstrap.Run.
// ssh_config's SetEnv counts.
func (r *Reached) Run(ctx context.Context, pr bootstrap.Program) (remote.Process, error) {
	for name, value := range r.Target.SetEnv {
		if _, ok := pr.Env[name]; !ok {
			pr.Env = set(pr.Env, name, value)
		}
	}
	return bootstrap.Run(ctx, r.Conn, r.Report, pr)
}

// Program is the path there of a program of a kind, the one a connection would
// choose first; "" when there is none that can be run.
func (r *Reached) Program(kind bootstrap.Kind) string {
	if c := r.Choice.Candidate; c.Kind == kind && c.Path != "" && c.Fault == "" {
		return c.Path
	}
	for _, c := range r.Report.Candidates {
		if c.Kind == kind && c.Path != "" && c.Fault == "" {
			return c.Path
		}
	}
	return ""
}

// Close ends the connection and what runs over it. Idempotent.
func (r *Reached) Close() error { return r.s.Close() }

// Lost is the Problem of a connection that ended while something used it.
func (r *Reached) Lost() error {
	select {
	case <-r.Conn.Done():
	default:
		return nil
	}
	err := r.Conn.Err()
	if err == nil {
		err = errors.New("the connection is over")
	}
	return &config.Problem{
		Stage: remote.StageDial, Err: err, Exit: config.ExitUnavailable,
		Hints: []string{"see every step: `towline doctor " + r.Host + "`"},
	}
}
