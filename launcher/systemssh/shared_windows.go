package systemssh

import (
	"context"

	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// MasterAlive is never true: Windows' OpenSSH has no control masters.
func MasterAlive(context.Context, sshconfig.Target) bool { return false }

func existing(context.Context, Config) remote.Conn { return nil }
