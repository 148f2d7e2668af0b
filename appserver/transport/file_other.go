//go:build !unix

package transport

import (
	"context"
	"io/fs"
	"time"
)

// ownerKnown: access control lists decide here, not modes.
const ownerKnown = false

func fileOwner(fs.FileInfo) (uid int, ok bool) { return 0, false }

func lockDir(context.Context, string, time.Duration) (unlock func(), err error) {
	return func() {}, nil
}

// maxFilesOpen: nothing bounds handles here.
func maxFilesOpen() int { return 1 << 20 }
