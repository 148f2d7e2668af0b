package launcher

import (
	"context"
	"fmt"
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

// Used remembers that project was worked in.
func (s *Session) Used(project string) error {
	return s.cfg.Memory.Update(s.cfg.Host, func(h *Host) { h.Used(project); h.LastUsed = time.Now() })
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

// Update puts this program's own build there, beside what runs: the daemon that
// runs now goes on with its threads until it ends.
func (s *Session) Update(ctx context.Context, events func(remote.Event)) (bootstrap.Choice, error) {
	p := newProgress(s.cfg.Host, events)
	conn, err := s.connection(ctx)
	if err != nil {
		return bootstrap.Choice{}, err
	}
	f, err := s.look(ctx, p, conn, InstallUpdate)
	if err != nil {
		return bootstrap.Choice{}, err
	}
	s.mu.Lock()
	s.found = f
	s.mu.Unlock()
	s.remember(0)
	return f.Choice, nil
}

// Rollback goes back to the build that was there before the last Update.
func (s *Session) Rollback(ctx context.Context) (bootstrap.Choice, error) {
	p := newProgress(s.cfg.Host, nil)
	conn, err := s.connection(ctx)
	if err != nil {
		return bootstrap.Choice{}, err
	}
	rep, err := s.cfg.parts.probe(ctx, conn, s.cfg.options(p.event))
	if err != nil {
		return bootstrap.Choice{}, p.fail(remote.StageProbe, err)
	}
	ch, err := bootstrap.Rollback(ctx, conn, rep)
	if err != nil {
		return bootstrap.Choice{}, p.fail(remote.StageInstall, fmt.Errorf("go back to the build before: %w", err))
	}
	s.mu.Lock()
	s.found = &found{At: time.Now(), Client: s.cfg.Version, Target: s.identity(), Report: rep, Choice: ch}
	s.mu.Unlock()
	s.remember(0)
	return ch, nil
}
