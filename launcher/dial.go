package launcher

import (
	"context"
	"strings"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
	"towline/launcher/sshclient"
	"towline/launcher/systemssh"
)

// dialing is everything one SSH connection is made of.
type dialing struct {
	cfg     *Config
	target  sshconfig.Target
	secrets *sshclient.Secrets
	keeper  *keeper
	events  func(remote.Event)
}

func (s *Session) dialing(events func(remote.Event)) dialing {
	return dialing{cfg: &s.cfg, target: s.target, secrets: s.secrets, keeper: s.keeper, events: events}
}

// dial makes the SSH connection with what the target needs.
func dial(ctx context.Context, d dialing) (remote.Conn, error) {
	why := transport(ctx, d)
	if why == "" {
		c, err := sshclient.Dial(ctx, sshclient.Config{
			Target: d.target,
			Resolve: func(ctx context.Context, hop string) (sshconfig.Target, error) {
				return sshconfig.ResolveHop(ctx, d.cfg.SSH, hop)
			},
			Ask: d.cfg.Ask, Events: d.events, Secrets: d.secrets, Environ: d.cfg.Environ, Log: d.cfg.Log,
		})
		if err != nil {
			return nil, err // not a typed nil
		}
		return c, nil
	}
	d.events(remote.Event{Stage: remote.StageResolve, Detail: true, Text: "through the system's ssh: " + why})
	return systemssh.Dial(ctx, systemssh.Config{
		Target: d.target, Program: d.cfg.SSH.Program, ConfigFile: d.cfg.SSH.UserFile, Self: d.cfg.Self,
		Ask: d.keeper, Events: d.events, Log: d.cfg.Log, RuntimeDir: d.cfg.RuntimeDir,
		// Looking at the host, starting and each stream are commands of their own, and
		// the ssh of Windows carries one a login. The person is told, and asked once:
		// the keeper knows the rest.
		MoreLogins: true,
	})
}

// transport says why the system's ssh is needed, "" when it is not.
func transport(ctx context.Context, d dialing) string {
	switch d.cfg.Transport {
	case config.TransportSystem:
		return "you asked for it"
	case config.TransportBuiltin:
		return ""
	}
	if len(d.target.NeedsSystem) > 0 {
		return oneLine(strings.Join(d.target.NeedsSystem, ", "))
	}
	if d.target.ControlPath != "" && systemssh.MasterAlive(ctx, d.target) {
		return "a ControlMaster is alive on " + oneLine(d.target.ControlPath)
	}
	return ""
}
