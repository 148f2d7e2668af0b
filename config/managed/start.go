package managed

import (
	"errors"
	"fmt"
	"strings"

	"towline/config"
	"towline/config/secret"
)

// Action is what to do, before a host serves, about credentials that lie where
// none may.
type Action int

// Actions of [Policy.AtStart].
const (
	// Keep: everything lies where it may.
	Keep Action = iota
	// Migrate: move it into the mandated store. Where that fails, refuse to start.
	Migrate
)

// AtStart says what to do about what is stored when a host starts. Errors are
// *config.Problem and mean that it must not start.
//
// A mandate is about where a secret lies, so it is the stricter store that counts:
// a credential in a keyring satisfies a mandate of auto, one in a plain file
// satisfies neither keyring nor encrypted. With ephemeral nothing may lie anywhere,
// and nothing can be moved: that is refused, and a person decides.
func (p Policy) AtStart(places []secret.Place) (Action, error) {
	if p.broken != nil {
		return Keep, p.broken
	}
	if !p.Store.Set {
		return Keep, nil
	}
	wrong := p.Misplaced(places)
	switch {
	case len(wrong) == 0:
		return Keep, nil
	case p.Store.Value == config.StoreEphemeral:
		return Keep, &config.Problem{
			Stage: stagePolicy,
			Err:   fmt.Errorf("no credential may be stored on this machine, and there is one: %s (set by %s)", strings.Join(wrong, ", "), p.Store.From),
			Hints: []string{
				"remove it with `towline logout`, then start again",
				"lend a credential instead: `towline HOST --lend-credentials`, from the machine that has one",
			},
			Exit: config.ExitDenied,
		}
	}
	return Migrate, nil
}

// Misplaced names the places in which no credential may lie.
func (p Policy) Misplaced(places []secret.Place) []string {
	var wrong []string
	for _, at := range places {
		if p.CheckPlace(at) != nil {
			wrong = append(wrong, config.OneLine(at.Path))
		}
	}
	return wrong
}

// mayLieIn says whether the mandated store allows a credential in kind.
func (p Policy) mayLieIn(kind string) bool {
	switch p.Store.Value {
	case config.StoreKeyring:
		return kind == config.StoreKeyring
	case config.StoreEncrypted:
		return kind == config.StoreEncrypted || kind == config.StoreKeyring
	case config.StoreEphemeral:
		return kind == config.StoreEphemeral
	}
	return true // a file, or auto, which ends in one
}

// MigrateFailed is the refusal when what AtStart wanted moved could not be.
func (p Policy) MigrateFailed(err error) error {
	hints := []string{"see where they are: `towline credentials status`"}
	for _, h := range config.Hints(err) {
		if !strings.Contains(h, "cli_auth_credentials_store") { // nobody here can choose another store
			hints = append(hints, h)
		}
	}
	return &config.Problem{
		Stage: stagePolicy,
		Err:   fmt.Errorf("credentials must be in the store %q (set by %s), and moving them there failed: %w", p.Store.Value, p.Store.From, unadvised{err}),
		Hints: append(hints, "mend that, or remove them with `towline logout`, and start again"), Exit: config.ExitDenied,
	}
}

// unadvised is an error whose hints are not shown.
type unadvised struct{ err error }

func (e unadvised) Error() string { return e.err.Error() }

// Is finds what the error is; there is no Unwrap, which would find its hints.
func (e unadvised) Is(target error) bool { return errors.Is(e.err, target) }
