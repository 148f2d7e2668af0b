package systemssh

import "io/fs"

// mine is not asked where there are no control masters.
func mine(fs.FileInfo) bool { return true }
