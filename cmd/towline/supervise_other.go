//go:build !unix

package main

import "log/slog"

func becomeNewer(string, *slog.Logger) {}

func hurry(int) error { return errNoDaemon }
