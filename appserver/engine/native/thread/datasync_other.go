//go:build !linux

package thread

import "os"

// datasync makes what was written survive a power cut.
func datasync(f *os.File) error { return f.Sync() }
