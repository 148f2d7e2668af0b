//go:build !linux

package codex

import "os/exec"

func endWithParent(*exec.Cmd) {}

// reapGroup needs to look at a dead process without reaping it; where that is
// not to be had, what an app-server leaves behind ends by itself.
func reapGroup(int) {}
