package secret

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"
)

// entry names one secret in the system's keyring.
//
// Codex's entry, as its keyring library (Rust's keyring, 3.6.3) writes it into a
// Secret Service:
//
//	service      "Codex Auth"
//	username     "cli|" and the first 16 hex digits of the SHA-256 of the
//	             canonical path of CODEX_HOME
//	target       "default"
//	application  "rust-keyring"
//	label        "cli|…@Codex Auth:default (keyring v3.6.3)"
//	secret       the compact JSON of auth.json, text/plain
//
// Codex finds it by service, username and target.
type entry struct {
	service, user string
	application   string
	label         string
}

// homeHash is how Codex tells one CODEX_HOME from another.
func homeHash(home string) string {
	canonical, err := filepath.EvalSymlinks(home)
	if err != nil {
		canonical = home // not made yet
	}
	if abs, err := filepath.Abs(canonical); err == nil {
		canonical = abs
	}
	sum := sha256.Sum256([]byte(canonical))
	return hex.EncodeToString(sum[:8])
}

func codexEntry(home string) entry {
	user := "cli|" + homeHash(home)
	return entry{
		service: "Codex Auth", user: user, application: "rust-keyring",
		label: user + "@Codex Auth:default (keyring v3.6.3)",
	}
}

// keyEntry is a key of ours, which opens a file of ours.
func keyEntry(what, home string) entry {
	user := what + "|" + homeHash(home)
	return entry{service: "Towline", user: user, application: "towline", label: "Towline " + what + " key (" + homeHash(home) + ")"}
}

// keyring is the system's. Its operations ask nobody: what would need a person
// is ErrLocked, and the question is withdrawn. Each ends with its context.
type keyring interface {
	get(ctx context.Context, e entry) ([]byte, error) // ErrNone
	set(ctx context.Context, e entry, secret []byte) error
	remove(ctx context.Context, e entry) (bool, error)
	// ready says whether a new entry could be made now.
	ready(ctx context.Context) error
}

// restFactor: a keyring that let one operation time out is left alone for so many
// times the limit. A host would otherwise wait out the limit at every request.
const restFactor = 5

// boxed gives every operation on a keyring its time, and says ErrTimeout when
// that was not enough.
type boxed struct {
	keyring keyring
	limit   time.Duration
	rest    *atomic.Int64 // until when, in Unix nanoseconds
}

func box(k keyring, limit time.Duration) boxed { return boxed{k, limit, new(atomic.Int64)} }

func (b boxed) run(ctx context.Context, do func(context.Context) error) error {
	if left := time.Until(time.Unix(0, b.rest.Load())); left > 0 && left <= restFactor*b.limit {
		return fmt.Errorf("%w (it is asked again in %s)", ErrTimeout, left.Round(time.Second))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.limit, ErrTimeout)
	defer cancel()
	err := do(ctx)
	if err != nil && ctx.Err() != nil && !errors.Is(err, ErrTimeout) {
		if !errors.Is(context.Cause(ctx), ErrTimeout) {
			return context.Cause(ctx)
		}
		err = fmt.Errorf("%w (waited %s)", ErrTimeout, b.limit)
	}
	if errors.Is(err, ErrTimeout) {
		b.rest.Store(time.Now().Add(restFactor * b.limit).UnixNano())
	}
	return err
}

func (b boxed) get(ctx context.Context, e entry) (secret []byte, err error) {
	err = b.run(ctx, func(ctx context.Context) (err error) {
		secret, err = b.keyring.get(ctx, e)
		return err
	})
	return secret, err
}

func (b boxed) set(ctx context.Context, e entry, secret []byte) error {
	return b.run(ctx, func(ctx context.Context) error { return b.keyring.set(ctx, e, secret) })
}

func (b boxed) remove(ctx context.Context, e entry) (had bool, err error) {
	err = b.run(ctx, func(ctx context.Context) (err error) {
		had, err = b.keyring.remove(ctx, e)
		return err
	})
	return had, err
}

func (b boxed) ready(ctx context.Context) error { return b.run(ctx, b.keyring.ready) }

// keyringPlace is Codex's entry in the system's keyring, where both programs can
// use one; elsewhere see [keyringSource].
type keyringPlace struct {
	ring keyring
	e    entry
}

func (keyringPlace) kind() Kind     { return KindKeyring }
func (p keyringPlace) path() string { return p.e.label }

func (p keyringPlace) prepare(ctx context.Context) error {
	return keyringProblem("use the keyring", p.ring.ready(ctx))
}

func (p keyringPlace) load(ctx context.Context) (Auth, error) {
	b, err := p.ring.get(ctx, p.e)
	if errors.Is(err, ErrNone) {
		return Auth{}, ErrNone
	}
	if err != nil {
		return Auth{}, keyringProblem("read the keyring", err)
	}
	a, err := Parse(b)
	if err != nil {
		return Auth{}, keyringProblem("read the keyring's entry "+p.e.label, err)
	}
	if a.Empty() {
		return Auth{}, ErrNone
	}
	return a, nil
}

func (p keyringPlace) save(ctx context.Context, a Auth) error {
	return keyringProblem("write to the keyring", p.ring.set(ctx, p.e, a.Compact()))
}

func (p keyringPlace) remove(ctx context.Context) (bool, error) {
	had, err := p.ring.remove(ctx, p.e)
	return had, keyringProblem("remove the keyring's entry "+p.e.label, err)
}
