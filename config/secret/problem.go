package secret

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"towline/config"
)

// unsafeFile is a file or folder that is not private to this user.
func unsafeFile(path, why, cure string) error {
	p := &config.Problem{
		Stage: "store", Err: fmt.Errorf("%s %s: %w", clean(path), why, ErrUnsafe), Exit: config.ExitConfig,
		Hints: []string{"put it aside, then run `towline login`"},
	}
	if cure != "" {
		p.Hints = []string{"run `" + cure + "`"}
	}
	return p
}

// storeProblem is what went wrong with a store on a disk. Errors of the file
// system carry paths and reasons, never contents.
func storeProblem(doing string, err error, hints ...string) error {
	var p *config.Problem
	if err == nil || errors.As(err, &p) {
		return err
	}
	if len(hints) == 0 {
		switch {
		case errors.Is(err, ErrBusy):
			hints = []string{"wait for the other program, or see who holds the lock with `fuser -v` on that file"}
		case errors.Is(err, fs.ErrPermission):
			hints = []string{"make the folder writable for you, or set CODEX_HOME to one that is"}
		case errors.Is(err, ErrDamaged):
			hints = []string{"run `towline logout` and then `towline login`"}
		default:
			hints = []string{"run `towline credentials status` to see every place a credential lies in"}
		}
	}
	return &config.Problem{Stage: "store", Err: fmt.Errorf("%s: %w", doing, err), Hints: hints, Exit: config.ExitConfig}
}

// keyringProblem is what went wrong with the system's keyring.
func keyringProblem(doing string, err error) error {
	var p *config.Problem
	if err == nil || errors.As(err, &p) {
		return err
	}
	hints := []string{"set cli_auth_credentials_store = \"auto\" or \"file\" in config.toml, or see `towline credentials status`"}
	switch {
	case errors.Is(err, ErrLocked):
		hints = append([]string{keyringUnlockHint}, hints...)
	case errors.Is(err, ErrTimeout):
		hints = append([]string{"restart the keyring's service, or give it longer with keyring_timeout under [auth]"}, hints...)
	case errors.Is(err, ErrNoKeyring):
		hints = append([]string{keyringAbsentHint}, hints...)
	}
	return &config.Problem{Stage: "keyring", Err: fmt.Errorf("%s: %w", doing, err), Hints: hints, Exit: config.ExitUnavailable}
}

// environ is os.Getenv unless the caller brought another.
func (o Options) environ(name string) string {
	if o.Environ != nil {
		return o.Environ(name)
	}
	return os.Getenv(name)
}
