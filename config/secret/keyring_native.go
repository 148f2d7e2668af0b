//go:build darwin || windows

package secret

import (
	"context"
	"encoding/base64"
	"errors"

	gokeyring "github.com/zalando/go-keyring"
)

// sharedKeyring: an entry here is at most 2560 bytes (Windows) or a command
// line of 4096 (macOS), which no ChatGPT login fits in, and Codex's own entries
// are written through other calls. So the keyring keeps a key, and the
// credential is in a file that only this key opens.
const sharedKeyring = false

const (
	keyringUnlockHint = "unlock the login keychain, then try again"
	keyringAbsentHint = "log in to the desktop once, so that there is a keychain"
)

// nativeKeyring is macOS' keychain or Windows' credential manager.
//
// The library's calls take no context, and macOS may answer one by asking a
// person. One call at a time is let out; when it does not return in time, the
// caller goes on, and until it returns every further one fails at once, so
// at most one is ever left behind.
type nativeKeyring struct{ busy chan struct{} }

func systemKeyring(func(string) string) keyring {
	return nativeKeyring{make(chan struct{}, 1)}
}

func (n nativeKeyring) do(ctx context.Context, f func() error) error {
	select {
	case n.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-n.busy }()
		done <- f()
	}()
	select {
	case err := <-done:
		switch {
		case err == nil:
			return nil
		case errors.Is(err, gokeyring.ErrNotFound):
			return ErrNone
		case errors.Is(err, gokeyring.ErrUnsupportedPlatform):
			return ErrNoKeyring
		}
		return errors.New("the system's keyring refuses") // its text may hold the command it ran
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n nativeKeyring) get(ctx context.Context, e entry) ([]byte, error) {
	found := make(chan string, 1)
	err := n.do(ctx, func() error {
		s, err := gokeyring.Get(e.service, e.user)
		found <- s
		return err
	})
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(<-found)
	if err != nil {
		return nil, ErrDamaged
	}
	return b, nil
}

func (n nativeKeyring) set(ctx context.Context, e entry, secret []byte) error {
	return n.do(ctx, func() error {
		return gokeyring.Set(e.service, e.user, base64.StdEncoding.EncodeToString(secret))
	})
}

func (n nativeKeyring) remove(ctx context.Context, e entry) (bool, error) {
	err := n.do(ctx, func() error { return gokeyring.Delete(e.service, e.user) })
	if errors.Is(err, ErrNone) {
		return false, nil
	}
	return err == nil, err
}

// ready asks for an entry that need not be there: an answer is enough.
func (n nativeKeyring) ready(ctx context.Context) error {
	if _, err := n.get(ctx, entry{service: "Towline", user: "probe"}); err != nil && !errors.Is(err, ErrNone) {
		return err
	}
	return nil
}
