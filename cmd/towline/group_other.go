//go:build !unix

package main

import "syscall"

// ownGroup changes nothing here: there are no process groups to be in.
func ownGroup() *syscall.SysProcAttr { return nil }
