//go:build unix

package main

import (
	"log/slog"
	"os"
	"syscall"
)

// becomeNewer turns this process into the program that is at its path now, when
// that is another than the one it runs. Its children stay its children.
func becomeNewer(program string, log *slog.Logger) {
	self, err := os.Executable()
	if err != nil {
		return
	}
	mine, err := os.Stat(selfFile(self))
	if err != nil {
		return
	}
	now, err := os.Stat(program)
	if err != nil || os.SameFile(mine, now) {
		return
	}
	if err := lasting(program); err != nil {
		log.Warn("the supervisor stays the old program", "err", err)
		return
	}
	log.Info("the supervisor becomes the new program", "program", program)
	if err := syscall.Exec(program, os.Args, os.Environ()); err != nil {
		log.Warn("the supervisor stays the old program", "err", err)
	}
}

// selfFile is the file this process runs, also when its name is another's now.
func selfFile(self string) string {
	if _, err := os.Stat("/proc/self/exe"); err == nil {
		return "/proc/self/exe"
	}
	return self
}

// hurry has a supervisor do now what it would do later.
func hurry(pid int) error { return syscall.Kill(pid, syscall.SIGHUP) }
