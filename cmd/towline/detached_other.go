//go:build !unix

package main

import (
	"context"
	"errors"
	"syscall"

	"towline/config"
)

func ownSession() *syscall.SysProcAttr { return nil }

var errNoDaemon = errors.New("a daemon in the background is not supported on this system")

func lockStart(context.Context, config.Paths) (unlock func(), err error) { return nil, errNoDaemon }

func terminate(int) error { return errNoDaemon }

func running(int) bool { return false }
