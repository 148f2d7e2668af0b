package secret

import (
	"io/fs"
	"os"
)

// nonBlock is for FIFOs, which a folder here cannot hold.
const nonBlock = 0

// syncDir has no counterpart: a rename here is in the file system's journal.
func syncDir(*os.File) error { return nil }

// links is not told by a file's information here.
func links(fs.FileInfo) uint64 { return 1 }
