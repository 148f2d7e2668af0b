//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package tui

import "golang.org/x/sys/unix"

// How a terminal's mode is read and set here.
const (
	getTermios = unix.TIOCGETA
	setTermios = unix.TIOCSETA
)
