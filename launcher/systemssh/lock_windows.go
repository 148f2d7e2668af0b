package systemssh

import "os"

// lock does nothing: there are no control masters to leave behind.
func lock(string) (*os.File, error) { return nil, nil }
