//go:build unix && !linux

package managed

// unmappedRoot: there are no user namespaces here.
func unmappedRoot(int) bool { return false }

// readOnly is for what containers do on Linux.
func readOnly(string) bool { return false }
