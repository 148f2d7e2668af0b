package sshconfig

import (
	"context"
	"errors"

	"towline/config"
)

// Resolve says what the configuration means for one destination, written as for
// ssh: a host or alias, user@host, or ssh://[user@]host[:port]. Names that are in
// no file work as they do with ssh. An error is a *config.Problem of stage
// "resolve".
//
// It runs `ssh -G`, and with it whatever `Match exec` commands the configuration
// holds, for at most five seconds and without a terminal.
func Resolve(ctx context.Context, o Options, name string) (Target, error) {
	return Target{}, &config.Problem{Stage: "resolve", Err: errors.New("not yet")}
}

// ResolveHop is [Resolve] for one entry of Target.ProxyJump, where a port may
// follow a plain host name.
func ResolveHop(ctx context.Context, o Options, hop string) (Target, error) {
	return Resolve(ctx, o, hop)
}
