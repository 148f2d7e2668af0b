package launcher

import (
	"context"
	"time"

	"towline/config/sshconfig"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// Info is what a Session is connected to.
type Info struct {
	Host   string
	Target sshconfig.Target
	Server string // the SSH server's version
	Report bootstrap.Report
	Choice bootstrap.Choice
	Opened bootstrap.Opened
	// AgentPath is the stable path of the forwarded agent there, "" for none.
	AgentPath string
}

// Info is what the session is connected to now.
func (s *Session) Info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := Info{Host: s.cfg.Host, Target: s.target, Report: s.report, Opened: s.opened}
	if s.conn != nil {
		i.Server = oneLine(s.conn.Server())
	}
	if s.found != nil {
		i.Choice = s.found.Choice
	}
	if s.agent != nil {
		i.AgentPath = s.agent.Path()
	}
	return i
}

// Conn is the SSH connection, made anew if need be, for what travels beside the
// app-server.
func (s *Session) Conn(ctx context.Context) (remote.Conn, error) { return s.connection(ctx) }

// summary is the last line of a connection that worked.
func (s *Session) summary() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := string(s.opened.Kind)
	if s.opened.Version != "" {
		text += " " + s.opened.Version
	}
	return oneLine(text)
}

// remember keeps what was found for the next time. That it cannot be kept is no
// reason to fail.
func (s *Session) remember(took time.Duration) {
	s.mu.Lock()
	f, opened, rep := s.found, s.opened, s.report
	s.mu.Unlock()
	err := s.cfg.Memory.Update(s.cfg.Host, func(h *Host) {
		h.LastUsed, h.Found = time.Now(), f
		h.Kind, h.Version, h.OS, h.Arch = string(opened.Kind), opened.Version, rep.OS, rep.Arch
		if took > 0 {
			h.Took = took
		}
	})
	if err != nil {
		s.cfg.Log.Warn("the host is not remembered", "err", err)
	}
}

// Used remembers that project was worked in. It does not block.
func (s *Session) Used(project string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.wg.Go(func() {
		err := s.cfg.Memory.Update(s.cfg.Host, func(h *Host) { h.Used(project); h.LastUsed = time.Now() })
		if err != nil {
			s.cfg.Log.Warn("the project is not remembered", "err", err)
		}
	})
}

// refresh looks at the host again for the next connection, once nobody waits.
func (s *Session) refresh(conn remote.Conn) {
	t := time.NewTimer(3 * time.Second)
	defer t.Stop()
	select {
	case <-t.C:
	case <-conn.Done():
		return
	case <-s.ctx.Done():
		return
	}
	f, err := s.look(s.ctx, newProgress(s.cfg.Host, func(remote.Event) {}), conn, InstallNever)
	if err != nil {
		s.cfg.Log.Info("looking again", "err", err)
		return
	}
	s.mu.Lock()
	if s.found != nil {
		f.Agent = s.found.Agent
	}
	s.mu.Unlock()
	if err := s.cfg.Memory.Update(s.cfg.Host, func(h *Host) { h.Found = f }); err != nil {
		s.cfg.Log.Warn("the host is not remembered", "err", err)
	}
}

// Rollback connects to a host and goes back to the build that was there before
// the last update. It says which that is; the choice's Skew.Notice tells when the
// daemon that runs is at work and has to end first. Errors are as Connect's.
func Rollback(ctx context.Context, cfg Config) (bootstrap.Choice, error) {
	cfg = cfg.withDefaults()
	s := newSession(cfg)
	defer func() { _ = s.Close() }()
	p := newProgress(cfg.Host, cfg.Events)
	none := bootstrap.Choice{}
	if err := s.resolve(ctx, p); err != nil {
		return none, err
	}
	conn, err := cfg.parts.dial(ctx, s.dialing(p.event))
	if err != nil {
		return none, p.fail(remote.StageDial, s.explainDial(err))
	}
	s.adopt(conn)
	rep, err := cfg.parts.probe(ctx, conn, cfg.options(p.event))
	if err != nil {
		return none, p.fail(remote.StageProbe, err)
	}
	ch, err := cfg.parts.rollback(ctx, conn, rep)
	if err != nil {
		return none, p.fail(remote.StageInstall, err)
	}
	p.done(remote.StageInstall, oneLine("back to towline "+ch.Candidate.Version))
	notice := ""
	if was, err := cfg.parts.choose(rep, cfg.options(p.event)); err == nil {
		serves, err := s.takeOver(ctx, p, conn, rep, was, ch)
		if err != nil {
			return none, err
		}
		notice = serves.Skew.Notice
	}
	s.found = &found{At: time.Now(), Client: cfg.Version, Target: s.identity(), Report: rep, Choice: ch}
	err = cfg.Memory.Update(cfg.Host, func(h *Host) { h.Found = s.found })
	if err != nil {
		cfg.Log.Warn("the host is not remembered", "err", err)
	}
	if notice != "" {
		ch.Skew.Notice = notice
	}
	return ch, nil
}
