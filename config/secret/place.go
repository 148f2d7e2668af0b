package secret

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// Files in Codex's folder, by Codex's names but the last.
const (
	authFile    = "auth.json"
	commitLock  = "auth.lock"         // around storing, in every kind of store
	fileLock    = "auth.json.lock"    // around the file alone
	refreshLock = "auth.towline.lock" // around a whole refresh; Codex has none
	codexSealed = "secrets/codex_auth.age"
)

// place is one store a credential can lie in.
type place interface {
	kind() Kind
	path() string
	// load gives ErrNone when nothing lies there.
	load(ctx context.Context) (Auth, error)
	// prepare does what may take long or ask a person, so that save will not.
	// Its error says that save would fail.
	prepare(ctx context.Context) error
	// save and remove are called under Codex's commit lock.
	save(ctx context.Context, a Auth) error
	remove(ctx context.Context) (bool, error)
}

// filePlace is auth.json.
type filePlace struct {
	home string // as given, not canonical: messages should say what people typed
}

func (filePlace) kind() Kind                    { return KindFile }
func (p filePlace) path() string                { return (&folder{path: p.home}).join(authFile) }
func (filePlace) prepare(context.Context) error { return nil }

// load reads auth.json. Codex before 0.169 empties the file and then writes it,
// under its commit lock; so what cannot be parsed is read once more under that
// lock before it counts as damaged.
func (p filePlace) load(ctx context.Context) (Auth, error) {
	a, err := p.read()
	if !errors.Is(err, ErrDamaged) {
		return a, err
	}
	f, err2 := openFolder(p.home, false)
	if err2 != nil {
		return a, err
	}
	defer f.close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if l, err := f.lock(ctx, commitLock); err == nil {
		defer func() { _ = l.Close() }()
	} // held by ourselves, or the folder is read-only: look again all the same
	return p.read()
}

func (p filePlace) read() (Auth, error) {
	f, err := openFolder(p.home, false)
	if errors.Is(err, fs.ErrNotExist) {
		return Auth{}, ErrNone
	}
	if err != nil {
		return Auth{}, storeProblem("read "+p.path(), err)
	}
	defer f.close()
	b, err := f.read(authFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Auth{}, ErrNone
	}
	if err != nil {
		return Auth{}, storeProblem("read "+p.path(), err)
	}
	a, err := Parse(b)
	if err != nil {
		return Auth{}, storeProblem("read "+p.path(), err)
	}
	if a.Empty() {
		return Auth{}, ErrNone
	}
	return a, nil
}

// withLock runs do under the lock of the file itself. Codex gives up on that
// one after 5 s, with the tokens it just received lost: so it is held for a
// write and nothing else.
func (p filePlace) withLock(ctx context.Context, create bool, do func(*folder) error) error {
	f, err := openFolder(p.home, create)
	if err != nil {
		return err
	}
	defer f.close()
	ctx, cancel := context.WithTimeout(ctx, pollLimit)
	defer cancel()
	l, err := f.lock(ctx, fileLock)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	f.sweep(authFile)
	return do(f)
}

func (p filePlace) save(ctx context.Context, a Auth) error {
	err := p.withLock(ctx, true, func(f *folder) error { return f.write(authFile, a.File()) })
	return storeProblem("write "+p.path(), err)
}

func (p filePlace) remove(ctx context.Context) (had bool, err error) {
	if f, err := openFolder(p.home, false); err == nil { // nothing there: leave no lock file either
		_, err = f.root.Lstat(authFile)
		none := errors.Is(err, fs.ErrNotExist) && len(f.leftovers(authFile)) == 0
		f.close()
		if none {
			return false, nil
		}
	}
	err = p.withLock(ctx, false, func(f *folder) (err error) {
		had, err = f.remove(authFile)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return had, storeProblem("remove "+p.path(), err)
}

// memoryPlace is this process. Its store's mutex guards it.
type memoryPlace struct{ auth *Auth }

func (*memoryPlace) kind() Kind                    { return KindEphemeral }
func (*memoryPlace) path() string                  { return "" }
func (*memoryPlace) prepare(context.Context) error { return nil }

func (p *memoryPlace) load(context.Context) (Auth, error) {
	if p.auth == nil {
		return Auth{}, ErrNone
	}
	return *p.auth, nil
}

func (p *memoryPlace) save(_ context.Context, a Auth) error {
	p.auth = &a
	return nil
}

func (p *memoryPlace) remove(context.Context) (bool, error) {
	had := p.auth != nil
	p.auth = nil
	return had, nil
}
