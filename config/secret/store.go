package secret

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"towline/config"
)

// Options says which store, and where.
type Options struct {
	// CodexHome is Codex's folder; "" asks Environ (CODEX_HOME, else
	// ~/.codex). A symbolic link to it is fine.
	CodexHome string
	// Kind is the store; "" is KindFile, as for Codex.
	Kind Kind
	// Environ looks up a variable; nil is os.Getenv.
	Environ func(string) string
	// KeyringTimeout bounds every operation on the system's keyring; 0 is 3 s.
	// One that took longer is not asked again for five times as long.
	KeyringTimeout time.Duration
	// Passphrase opens the encrypted file. It may ask a person, so it is called
	// only when an encrypted file is to be read or made, and its answer is
	// remembered. Other calls on the store wait meanwhile. nil: there is none.
	Passphrase func(context.Context) (string, error)
	// StateDir holds the encrypted file and the journal; "" is Towline's state
	// folder.
	StateDir string
	// Log gets what an operator would want to know; nil is silence.
	Log *slog.Logger
}

const (
	defaultKeyringTimeout = 3 * time.Second
	// commitWait is for the commit lock, which Codex holds for up to 5 s when
	// it waits for the file's lock in turn.
	commitWait = 15 * time.Second
)

// Where says in which store a credential is, and why not in a better one.
type Where struct {
	Kind     Kind
	Path     string // a file, or the label of an entry in a keyring
	Fallback string // why KindAuto did not take the keyring; "" when it did
}

// Store is where this machine's credential lies. It may be used from many
// goroutines, and by several processes on the same folder.
//
// Locks, outermost first: [Store.Lock]'s; mu; Codex's commit lock; the lock of
// auth.json itself.
type Store struct {
	o    Options
	home string // which CODEX_HOME, hashed
	log  *slog.Logger

	holding atomic.Bool   // Lock is held through this Store
	local   chan struct{} // Lock of an ephemeral store

	mu        sync.Mutex // one operation at a time; only Passphrase is called back under it
	file      filePlace
	ring      place
	encrypted *sealedPlace
	memory    *memoryPlace
	keys      journalKeys
}

// Open prepares a store. It reads and writes nothing yet.
func Open(o Options) (*Store, error) {
	usage := func(err error, hint string) error {
		return &config.Problem{Stage: "store", Err: err, Exit: config.ExitConfig, Hints: []string{hint}}
	}
	if o.Kind == "" {
		o.Kind = KindFile
	}
	if !slices.Contains(Kinds(), o.Kind) {
		return nil, usage(fmt.Errorf("%q is no kind of credential store", clean(string(o.Kind))),
			"set cli_auth_credentials_store to file, keyring, auto, ephemeral or encrypted")
	}
	if o.CodexHome == "" {
		o.CodexHome = o.environ("CODEX_HOME")
	}
	if o.CodexHome == "" {
		home := o.environ("HOME")
		if home == "" {
			home = o.environ("USERPROFILE") // Windows
		}
		if !filepath.IsAbs(home) {
			return nil, usage(errors.New("neither CODEX_HOME nor HOME names a folder"), "set CODEX_HOME to Codex's folder")
		}
		o.CodexHome = filepath.Join(home, ".codex")
	}
	abs, err := filepath.Abs(o.CodexHome)
	if err != nil {
		return nil, usage(fmt.Errorf("resolve CODEX_HOME: %w", err), "set CODEX_HOME to Codex's folder")
	}
	o.CodexHome = abs
	if o.StateDir == "" {
		p, err := config.Locate(o.environ)
		if err != nil {
			return nil, err
		}
		o.StateDir = p.State
	}
	if o.KeyringTimeout <= 0 {
		o.KeyringTimeout = defaultKeyringTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return newStore(o), nil
}

func newStore(o Options) *Store {
	s := &Store{
		o: o, home: homeHash(o.CodexHome), log: o.Log, local: make(chan struct{}, 1),
		file: filePlace{o.CodexHome}, memory: &memoryPlace{},
	}
	ring := box(systemKeyring(o.environ), o.KeyringTimeout)
	if sharedKeyring {
		s.ring = keyringPlace{ring, codexEntry(o.CodexHome)}
	} else {
		s.ring = wrappedPlace(ring, o.CodexHome, o.StateDir)
	}
	s.encrypted = &sealedPlace{
		as: KindEncrypted, dir: o.StateDir, name: "credentials-" + s.home + ".sealed", home: s.home,
		sources: []keySource{systemdKey{o.environ}, &passphraseKey{ask: o.Passphrase}, kernelKey{s.home}},
		byName: func() int {
			if o.Kind == KindEncrypted {
				return 3
			}
			return 2 // a login that a reboot takes away is not what "auto" promises
		},
	}
	s.keys = journalKeys{
		ring:    keyringKey{ring, keyEntry("journal", o.CodexHome), new([]byte)},
		runtime: runtimeKey{o.environ, s.home},
	}
	return s
}

// wrappedPlace is the keyring store where the keyring takes no more than a key.
func wrappedPlace(ring keyring, home, state string) *sealedPlace {
	hash := homeHash(home)
	return &sealedPlace{
		as: KindKeyring, dir: state, name: "keyring-" + hash + ".sealed", home: hash,
		sources: []keySource{keyringKey{ring, keyEntry("credentials", home), new([]byte)}},
		byName:  func() int { return 1 },
	}
}

// order lists the places of this kind of store, the preferred one first.
func (s *Store) order() []place {
	switch s.o.Kind {
	case KindKeyring:
		return []place{s.ring}
	case KindEncrypted:
		return []place{s.encrypted}
	case KindEphemeral:
		return []place{s.memory}
	case KindAuto:
		return []place{s.ring, s.encrypted, s.file}
	}
	return []place{s.file}
}

// emptied lists the places that must hold nothing once target holds the
// credential: a copy there would be stale after the next refresh, and one in
// plain text is what the better store was chosen against. Codex removes
// auth.json likewise.
func (s *Store) emptied(target place) []place {
	switch {
	case s.o.Kind == KindEphemeral:
		return nil
	case target.kind() == KindKeyring:
		return []place{s.encrypted, s.file}
	case target.kind() == KindEncrypted:
		return []place{s.file}
	case s.o.Kind == KindAuto: // the file, because nothing better would
		return []place{s.encrypted}
	}
	return nil
}

// Load gives the credential and where it was found. Nothing stored is ErrNone.
// What a refresh received and could not store before it was killed is adopted
// first; see [Store.Journal].
//
// With KindAuto a keyring that is locked or silent is passed over, and its
// reason is in Where.Fallback; when nothing is found elsewhere either, the error
// is the keyring's: there may be a login in it.
func (s *Store) Load(ctx context.Context) (Auth, Where, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.recover(ctx); err != nil {
		return Auth{}, Where{}, err
	}
	return s.load(ctx)
}

func (s *Store) load(ctx context.Context) (Auth, Where, error) {
	var (
		found    Auth
		where    Where
		fallback string
		trouble  error
	)
	for _, p := range s.order() {
		var a Auth
		var err error
		if where.Kind == "" {
			a, err = p.load(ctx)
		} else { // only to see whether it is newer: nobody is asked for that
			s.quietly(func() { a, err = p.load(ctx) })
		}
		switch {
		case errors.Is(err, ErrNone):
			if p.kind() == KindKeyring {
				fallback = "nothing is stored there"
			}
			continue
		case err != nil:
			if ctx.Err() != nil || s.o.Kind != KindAuto {
				return Auth{}, Where{}, err
			}
			if p.kind() == KindKeyring {
				fallback = reason(err)
			}
			if trouble == nil && !errors.Is(err, ErrNoKeyring) { // where there is no keyring, nothing is in it
				trouble = err
			}
			continue
		}
		if where.Kind == "" {
			found, where = a, Where{p.kind(), p.path(), fallback}
		} else if newer(a, found) {
			// A refresh fell back to here while the better store was shut.
			found, where = a, Where{p.kind(), p.path(), "what lies there is older"}
		}
	}
	switch {
	case where.Kind != "":
		return found, where, nil
	case trouble != nil:
		return Auth{}, Where{}, trouble
	}
	return Auth{}, Where{}, ErrNone
}

// newer: both are the same login, and a was refreshed after b.
func newer(a, b Auth) bool {
	return sameLogin(a, b) && a.LastRefresh.After(b.LastRefresh)
}

// sameLogin: two states of one ChatGPT login, as far as one can tell.
func sameLogin(a, b Auth) bool {
	return a.Mode == ModeChatGPT && b.Mode == ModeChatGPT && a.Tokens != nil && b.Tokens != nil &&
		account(a) == account(b)
}

func account(a Auth) string {
	if a.Tokens.AccountID != "" {
		return a.Tokens.AccountID
	}
	c, err := Claims(a.Tokens.IDToken)
	if err != nil {
		return ""
	}
	return c.AccountID + " " + c.Subject
}

// reason is why a store was passed over, for a person.
func reason(err error) string {
	for _, known := range []error{ErrLocked, ErrTimeout, ErrNoKeyring} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return clean(err.Error())
}

// Save stores a, and only then removes what it replaces in other places of the
// same kind (auth.json, when the keyring took it), and the journal.
//
// An error may come with a Where: the credential is stored there, and an older
// copy could not be removed.
func (s *Store) Save(ctx context.Context, a Auth) (Where, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.save(ctx, a, nil)
}

// save stores a if allow, asked under Codex's commit lock, lets it.
func (s *Store) save(ctx context.Context, a Auth, allow func(context.Context) error) (Where, error) {
	if a.Empty() {
		return Where{}, storeProblem("save", errors.New("there is no credential to store"), "run `towline login`")
	}
	if _, err := Parse(a.File()); err != nil { // too large, or members that are no JSON
		return Where{}, storeProblem("save", err, "run `towline login` again")
	}
	fallback := ""
	var last error
	for _, p := range s.order() {
		err := p.prepare(ctx)
		if err == nil {
			var stored bool
			if stored, err = s.commit(ctx, p, a, allow); stored {
				s.dropJournal()
				if fallback != "" {
					s.log.Warn("the credential is not in the keyring", "store", p.kind(), "reason", fallback)
				}
				return Where{p.kind(), p.path(), fallback}, err
			}
		}
		switch {
		case errors.Is(err, ErrChanged), errors.Is(err, ErrBusy), ctx.Err() != nil:
			return Where{}, err
		case p.kind() == KindEncrypted && errors.Is(err, ErrWrongKey):
			return Where{}, err // a slip of the hand is no wish for a plain file
		}
		if p.kind() == KindKeyring {
			fallback = reason(err)
		}
		last = err
	}
	return Where{}, last
}

// commit stores a in p and empties the places it replaces, all under Codex's
// commit lock.
func (s *Store) commit(ctx context.Context, p place, a Auth, allow func(context.Context) error) (stored bool, err error) {
	release, err := s.commitLock(ctx, true)
	if err != nil {
		return false, err
	}
	defer release()
	if allow != nil {
		if err := allow(ctx); err != nil {
			return false, err
		}
	}
	if err := p.save(ctx, a); err != nil {
		return false, err
	}
	old := s.emptied(p)
	if len(old) == 0 {
		return true, nil
	}
	got, err := p.load(ctx) // proven there before it is gone elsewhere
	if err == nil && got.id() != a.id() {
		err = storeProblem("read back what was stored", ErrDamaged)
	}
	if err != nil {
		return false, err
	}
	return true, s.empty(ctx, old)
}

func (s *Store) empty(ctx context.Context, places []place) error {
	var errs []error
	for _, old := range places {
		if _, err := old.remove(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Delete forgets the credential in every place this kind of store uses, and the
// journal. It reports whether there was one. A keyring that cannot be reached
// is an error, because a login may stay in it; where there is none, nothing is.
func (s *Store) Delete(ctx context.Context) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	release, err := s.commitLock(ctx, false)
	if err != nil {
		return false, err
	}
	defer release()
	places := s.order()
	for _, p := range s.order() {
		for _, q := range s.emptied(p) {
			if !slices.Contains(places, q) {
				places = append(places, q)
			}
		}
	}
	had := s.dropJournal()
	var errs []error
	for _, p := range places {
		one, err := p.remove(ctx)
		had = had || one
		if err != nil && !(errors.Is(err, ErrNoKeyring) && s.o.Kind == KindAuto) {
			errs = append(errs, err)
		}
	}
	return had, errors.Join(errs...)
}
