package secret

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// sealedPlace is a credential in a sealed file of Towline's own: the encrypted
// store, and the keyring store where the keyring takes no more than a key.
type sealedPlace struct {
	as      Kind
	dir     string // Towline's state folder
	name    string
	home    string // which CODEX_HOME, hashed
	sources []keySource
	byName  func() int // how many of sources may be used without being asked for by name

	ready *sealedKey // what prepare found
}

// sealedKey is a header to close files under, and the secret that goes with it.
type sealedKey struct {
	h      header
	secret []byte
}

func (p *sealedPlace) kind() Kind   { return p.as }
func (p *sealedPlace) path() string { return filepath.Join(p.dir, p.name) }

// problem says what is wrong with this place, with what to do about it.
func (p *sealedPlace) problem(doing string, err error) error {
	if p.as == KindKeyring {
		return keyringProblem(doing+" "+p.path(), err)
	}
	switch {
	case errors.Is(err, ErrNoKey):
		return storeProblem(doing+" "+p.path(), err,
			"give the service a systemd credential "+SystemdCredential+", or run this in a terminal to type the passphrase",
			"where the key is lost, run `towline logout` and then `towline login`")
	case errors.Is(err, ErrWrongKey):
		return storeProblem(doing+" "+p.path(), err, "try again with the passphrase or key the file was made with",
			"where it is lost, run `towline logout` and then `towline login`")
	}
	return storeProblem(doing+" "+p.path(), err)
}

func (p *sealedPlace) source(name string) (keySource, error) {
	for _, s := range p.sources {
		if s.name() == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("sealed file %w: its key comes from %q, which is unknown here", ErrDamaged, clean(name))
}

// open reads the file; missing is ErrNone. It also gives what its content could
// be closed with again.
func (p *sealedPlace) open(ctx context.Context) ([]byte, *sealedKey, error) {
	f, err := openFolder(p.dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, ErrNone
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.close()
	b, err := f.read(p.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, ErrNone
	}
	if err != nil {
		return nil, nil, err
	}
	return p.unseal(ctx, b)
}

func (p *sealedPlace) unseal(ctx context.Context, b []byte) ([]byte, *sealedKey, error) {
	h, _, _, err := split(b)
	if err != nil {
		return nil, nil, err
	}
	src, err := p.source(h.Key)
	if err != nil {
		return nil, nil, err
	}
	secret, err := src.secret(ctx, h, false)
	if err != nil {
		return nil, nil, err
	}
	plain, err := unseal(b, secret, forCredential, p.home)
	if asked, ok := src.(*passphraseKey); ok && errors.Is(err, ErrWrongKey) {
		asked.forget()
	}
	if err != nil {
		return nil, nil, err
	}
	return plain, &sealedKey{h, secret}, nil
}

func (p *sealedPlace) load(ctx context.Context) (Auth, error) {
	b, _, err := p.open(ctx)
	if errors.Is(err, ErrNone) {
		return Auth{}, ErrNone
	}
	if err != nil {
		return Auth{}, p.problem("read", err)
	}
	a, err := Parse(b)
	if err != nil {
		return Auth{}, p.problem("read", err)
	}
	if a.Empty() {
		return Auth{}, ErrNone
	}
	return a, nil
}

// prepare finds the key the file will be closed with: that of the file there is,
// so that a passphrase mistyped now cannot lock its owner out later; else the
// first source that has one.
func (p *sealedPlace) prepare(ctx context.Context) error {
	_, k, err := p.open(ctx)
	switch {
	case err == nil:
		p.ready = k
		return nil
	case errors.Is(err, ErrWrongKey), errors.Is(err, ErrUnsafe):
		return p.problem("write", err)
	}
	// None, damaged, or its key is gone for good (a reboot took the kernel's):
	// what it held can no longer be had, so a new one takes its place.
	var reasons []error
	for i, src := range p.sources {
		if i >= p.byName() {
			break
		}
		k, err := p.fresh(ctx, src)
		if err == nil {
			p.ready = k
			return nil
		}
		reasons = append(reasons, err)
	}
	if len(reasons) == 0 {
		reasons = append(reasons, ErrNoKey)
	}
	return p.problem("write", errors.Join(reasons...))
}

func (p *sealedPlace) fresh(ctx context.Context, src keySource) (*sealedKey, error) {
	if s, ok := src.(*passphraseKey); ok && s.ask == nil && s.known == "" {
		return nil, fmt.Errorf("%w: no passphrase", ErrNoKey)
	}
	h := header{Purpose: forCredential, Home: p.home, Key: src.name(), Salt: random(saltSize)}
	src.complete(&h)
	secret, err := newSecret(ctx, p.dir, p.home, src, h)
	if err != nil {
		return nil, err
	}
	return &sealedKey{h, secret}, nil
}

// newSecret lets one process at a time make a key: of two made at once, the
// slower one would replace the key that a file was just closed with.
func newSecret(ctx context.Context, dir, home string, src keySource, h header) ([]byte, error) {
	if _, asks := src.(*passphraseKey); asks {
		return src.secret(ctx, h, true) // makes nothing, and may take a person's time
	}
	f, err := openFolder(dir, true)
	if err != nil {
		return nil, err
	}
	defer f.close()
	ctx, cancel := context.WithTimeout(ctx, commitWait)
	defer cancel()
	l, err := f.lock(ctx, "credentials-"+home+".lock")
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }()
	return src.secret(ctx, h, true)
}

func (p *sealedPlace) save(_ context.Context, a Auth) error {
	if p.ready == nil {
		return p.problem("write", ErrNoKey)
	}
	b, err := seal(p.ready.h, p.ready.secret, a.Compact())
	if err != nil {
		return p.problem("write", err)
	}
	f, err := openFolder(p.dir, true)
	if err != nil {
		return p.problem("write", err)
	}
	defer f.close()
	f.sweep(p.name)
	return p.problem("write", f.write(p.name, b))
}

func (p *sealedPlace) remove(context.Context) (bool, error) {
	f, err := openFolder(p.dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, p.problem("remove", err)
	}
	defer f.close()
	f.sweep(p.name)
	had, err := f.remove(p.name)
	return had, p.problem("remove", err)
}
