package account

import (
	"context"
	"errors"
	"fmt"

	"towline/config"
	"towline/config/secret"
)

// Stages of a login's failure.
const (
	stagePolicy   = "policy"
	stageLogin    = "login"
	stageCallback = "callback"
	stageExchange = "exchange"
	stageDevice   = "device"
	stageRefresh  = "refresh"
	stageStore    = "store"
	stageKeyring  = "keyring"
	stageLend     = "lend"
)

const (
	hintLogin  = "log in again: `towline login`, or `towline login --device-auth` without a browser here"
	hintDevice = "without a browser here: `towline login --device-auth`"
	hintStatus = "see where credentials are: `towline credentials status`"
)

// problem wraps err for a person, unless it already is. An interrupted command
// says so, and nothing else.
func problem(stage string, err error, hints ...string) error {
	var p *config.Problem
	if errors.As(err, &p) {
		return err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &config.Problem{Stage: stage, Err: fmt.Errorf("%w: %w", ErrCancelled, err), Exit: config.ExitInterrupted}
	case errors.Is(err, ErrUnavailable):
		hints = append([]string{"check the network and the proxy variables, then try again"}, hints...)
	}
	return &config.Problem{Stage: stage, Err: err, Hints: hints}
}

func notLoggedIn() error {
	return &config.Problem{
		Stage: stageLogin, Err: ErrNotLoggedIn, Exit: config.ExitFailure,
		Hints: []string{"log in: `towline login`, or `towline login --device-auth` without a browser here"},
	}
}

// storeProblem says which store failed and what to do about it.
func storeProblem(err error) error {
	var p *config.Problem
	if errors.As(err, &p) {
		return err
	}
	stage, hint := stageStore, hintStatus
	for _, k := range []struct {
		is   error
		hint string
	}{
		{secret.ErrLocked, "unlock the keyring (log in to the desktop, or `gnome-keyring-daemon --unlock`), then try again"},
		{secret.ErrTimeout, "the keyring hangs: restart its service, or set cli_auth_credentials_store to \"auto\" or \"file\""},
		{secret.ErrNoKeyring, "this session has no keyring: set cli_auth_credentials_store to \"auto\" or \"file\""},
	} {
		if errors.Is(err, k.is) {
			stage, hint = stageKeyring, k.hint
		}
	}
	if errors.Is(err, secret.ErrDamaged) || errors.Is(err, secret.ErrWrongKey) {
		hint = "remove what cannot be read and log in again: `towline logout`, then `towline login`"
	}
	return &config.Problem{Stage: stage, Err: err, Hints: []string{hint}, Exit: config.ExitConfig}
}
