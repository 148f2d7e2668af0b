package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"towline/config"
	"towline/config/osfile"
)

// Kinds of places that are no store of ours, in [Store.Places] only.
const (
	// KindJournal is a refreshed login that is not stored yet.
	KindJournal Kind = "journal"
	// KindLeftover is a temporary file of a writer that was killed.
	KindLeftover Kind = "leftover"
	// KindCodexSecrets is the encrypted file of a Codex with its feature
	// secret_auth_storage; only Codex reads it.
	KindCodexSecrets Kind = "codex-secrets"
)

// Place is one place in which a credential lies.
type Place struct {
	Kind     Kind
	Path     string // a file, or the label of an entry in a keyring
	Auth     Auth   // prints without its secrets; empty when Err is set
	Plain    bool   // it lies there unencrypted
	Readable bool   // others can read it, by its mode
	Used     bool   // this store's Load takes it
	Err      error  // why it cannot be read: locked, damaged, open to others
}

// Places lists every place where a credential of this Codex home lies now,
// whatever the configured kind. A keyring that is locked or silent is listed with
// its error, because something may be in it; one that does not exist is not. It
// asks nobody for a passphrase.
func (s *Store) Places(ctx context.Context) []Place {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := Where{}
	if s.quietly(func() { _, used, _ = s.load(ctx) }); used.Kind == "" {
		used.Path = "\x00" // no place has it
	}
	var out []Place
	for _, p := range []place{s.ring, s.encrypted, s.file, s.memory} {
		var a Auth
		var err error
		s.quietly(func() { a, err = p.load(ctx) })
		if errors.Is(err, ErrNone) || errors.Is(err, ErrNoKeyring) {
			continue
		}
		out = append(out, Place{
			Kind: p.kind(), Path: p.path(), Auth: a, Err: err,
			Plain: p.kind() == KindFile, Readable: openToOthers(p.path()),
			Used: p.kind() == used.Kind && p.path() == used.Path,
		})
	}
	return append(out, s.oddPlaces(ctx)...)
}

func (s *Store) oddPlaces(ctx context.Context) (out []Place) {
	if s.o.Kind != KindEphemeral && s.pending() {
		var now Auth
		var err error
		s.quietly(func() { _, now, err = s.readJournal(ctx) })
		if !errors.Is(err, errNoJournal) {
			out = append(out, Place{Kind: KindJournal, Path: s.journalPath(), Auth: now, Plain: s.plainFile(), Readable: openToOthers(s.journalPath()), Err: err})
		}
	}
	f, err := openFolder(s.o.CodexHome, false)
	if err != nil {
		return out
	}
	defer f.close()
	for _, name := range f.leftovers(authFile) {
		out = append(out, Place{
			Kind: KindLeftover, Path: f.join(name), Plain: true, Readable: openToOthers(f.join(name)),
			Err: errors.New("left behind by a program that was killed while writing auth.json"),
		})
	}
	if _, err := f.root.Lstat(filepath.FromSlash(codexSealed)); !errors.Is(err, fs.ErrNotExist) && err == nil {
		out = append(out, Place{Kind: KindCodexSecrets, Path: f.join(codexSealed), Readable: openToOthers(f.join(codexSealed)), Err: errors.New("only Codex can read it")})
	}
	return out
}

// openToOthers: somebody else may read the file, by its mode. What is no path (an
// entry of a keyring) is not.
func openToOthers(path string) bool {
	if !filepath.IsAbs(path) || !osfile.ModesMean {
		return false
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode().Perm()&0o044 != 0
}

// plainFile: the journal there is was written without a key.
func (s *Store) plainFile() bool {
	f, err := openFolder(s.o.StateDir, false)
	if err != nil {
		return false
	}
	defer f.close()
	b, err := f.read(s.journalName())
	return err == nil && bytes.HasPrefix(b, []byte(journalMagic))
}

// quietly runs do without anybody being asked for a passphrase.
func (s *Store) quietly(do func()) {
	for _, src := range s.encrypted.sources {
		if p, ok := src.(*passphraseKey); ok {
			ask := p.ask
			p.ask = nil
			defer func() { p.ask = ask }()
		}
	}
	do()
}

// ErrConflict: two places hold different credentials, and only their owner can
// say which one is to go.
var ErrConflict = errors.New("two different credentials are stored")

// Migrate moves the credential to another kind of store: it is written there,
// read back and compared, and only then removed from every other place. The
// credential is the one Load gives; when this kind of store has none, the one
// found elsewhere (an auth.json from before the keyring was demanded). Of one
// ChatGPT login in two states the later one is kept; different credentials are
// ErrConflict, and nothing is touched. With nothing anywhere it is ErrNone.
//
// The Store keeps its own kind: open another one with the new kind afterwards.
func (s *Store) Migrate(ctx context.Context, to Kind) error {
	o := s.o
	o.Kind = to
	unlock, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if to == KindEphemeral || s.o.Kind == KindEphemeral {
		return storeProblem("migrate", errors.New("what is only in memory can neither come from a store nor go to one"), "run `towline login`")
	}
	target, err := Open(o)
	if err != nil {
		return err
	}
	target.adopt(s)
	if err := s.recover(ctx); err != nil {
		return err
	}
	a, err := s.settle(ctx)
	if err != nil {
		return err
	}
	where, err := target.save(ctx, a, s.unmoved(a.id()))
	if err != nil {
		return err
	}
	return target.prove(ctx, a, where)
}

// adopt shares what s has learned, so that nobody is asked twice.
func (s *Store) adopt(from *Store) { s.encrypted.sources = from.encrypted.sources }

// settle finds the credential that all places agree on.
func (s *Store) settle(ctx context.Context) (Auth, error) {
	best, where, err := s.load(ctx)
	if err != nil && !errors.Is(err, ErrNone) {
		return Auth{}, err
	}
	for _, p := range []place{s.ring, s.encrypted, s.file} {
		a, err := p.load(ctx)
		switch {
		case errors.Is(err, ErrNone), errors.Is(err, ErrNoKeyring):
		case err != nil:
			return Auth{}, err // it may be the one that counts, and would be removed unseen
		case best.Empty():
			best, where = a, Where{Kind: p.kind(), Path: p.path()}
		case a.id() == best.id():
		case newer(a, best):
			best, where = a, Where{Kind: p.kind(), Path: p.path()}
		case !sameLogin(a, best):
			return Auth{}, &config.Problem{
				Stage: "store", Exit: config.ExitConfig,
				Err:   fmt.Errorf("%s and %s: %w", where.Path, p.path(), ErrConflict),
				Hints: []string{"see both with `towline credentials status`", "run `towline logout` and then `towline login` to keep neither"},
			}
		}
	}
	if best.Empty() {
		return Auth{}, ErrNone
	}
	return best, nil
}

// unmoved lets a migration write only while the credential is still somewhere as
// it was found: a login or logout since then counts.
func (s *Store) unmoved(id string) func(context.Context) error {
	return func(ctx context.Context) error {
		a, err := s.settle(ctx)
		if err != nil && !errors.Is(err, ErrNone) {
			return err
		}
		if a.id() != id {
			return fmt.Errorf("migrate: %w", ErrChanged)
		}
		return nil
	}
}

// prove reads back what was stored and removes every other copy.
func (s *Store) prove(ctx context.Context, a Auth, where Where) error {
	release, err := s.commitLock(ctx, true)
	if err != nil {
		return err
	}
	defer release()
	var old []place
	for _, p := range []place{s.ring, s.encrypted, s.file} {
		if p.kind() != where.Kind {
			old = append(old, p)
			continue
		}
		got, err := p.load(ctx)
		if err != nil {
			return err
		}
		if got.id() != a.id() {
			return storeProblem("migrate", ErrChanged, "run it again")
		}
	}
	var errs []error
	for _, p := range old {
		if _, err := p.remove(ctx); err != nil && !errors.Is(err, ErrNoKeyring) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
