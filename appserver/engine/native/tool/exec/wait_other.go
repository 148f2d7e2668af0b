//go:build unix && !linux

package exec

// waitUnreaped cannot be done here: the caller waits the ordinary way.
func waitUnreaped(int) bool { return false }

func killTree(pid int) { killGroup(pid) }
