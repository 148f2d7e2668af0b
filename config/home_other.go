//go:build !unix

package config

import "os"

// tryLock cannot tell here; no daemon runs on such a system.
func tryLock(*os.File) (held bool, err error) { return false, nil }

func someoneHolds(*os.File) bool { return false }
