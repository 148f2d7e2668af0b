package bootstrap

import (
	"context"
	"io"
)

// Build is a Towline binary to install.
type Build struct {
	Open    func() (io.ReadCloser, error) // the binary; may be called more than once
	Size    int64                         // bytes
	SHA256  string                        // lower-case hex
	Version string
	OS      string // as Go names them
	Arch    string
}

// Install uploads b over r, beside the versions that are there, and switches to
// it. One of several installers at once does the work, the others use its
// result. progress, which may be nil, hears bytes of b sent and in all. Choice
// starts the new binary.
func Install(ctx context.Context, r Remote, rep Report, b Build, progress func(done, total int64)) (Choice, error) {
	panic("being written")
}

// Rollback switches back to the version that was current before the last
// Install, and says which that is.
func Rollback(ctx context.Context, r Remote, rep Report) (Choice, error) { panic("being written") }
