package bootstrap

import "context"

// Probe asks the remote what it is and what it has. It writes nothing there.
// The Report holds what was learned even when err is not nil.
func Probe(ctx context.Context, r Remote, o Options) (Report, error) { panic("being written") }
