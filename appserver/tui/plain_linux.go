package tui

import "golang.org/x/sys/unix"

// How a terminal's mode is read and set here.
const (
	getTermios = unix.TCGETS
	setTermios = unix.TCSETS
)
