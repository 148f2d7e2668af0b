package secret

import (
	"context"
	"log/slog"
	"sync"
	"time"
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
	KeyringTimeout time.Duration
	// Passphrase opens the encrypted file. It may ask a person, so it is called
	// only when an encrypted file is to be read or made. nil: there is none.
	Passphrase func(context.Context) (string, error)
	// StateDir holds the encrypted file and the journal; "" is Towline's state
	// folder.
	StateDir string
	// Log gets what an operator would want to know; nil is silence.
	Log *slog.Logger
}

// Where says in which store a credential is, and why not in a better one.
type Where struct {
	Kind     Kind
	Path     string // a file, or the label of an entry in a keyring
	Fallback string // why KindAuto did not take the keyring; "" when it did
}

// Store is where this machine's credential lies. It may be used from many
// goroutines, and by several processes on the same folder.
type Store struct {
	o  Options
	mu sync.Mutex // one operation at a time; nothing is called back under it but Passphrase
}

// Open prepares a store. It reads and writes nothing yet.
func Open(o Options) (*Store, error) { return &Store{o: o}, nil }

// Load gives the credential and where it was found. Nothing stored is ErrNone.
// What a refresh received and could not store before it was killed is adopted
// first; see [Store.Journal].
func (s *Store) Load(ctx context.Context) (Auth, Where, error) { return Auth{}, Where{}, ErrNone }

// Save stores a, and only then removes what it replaces in other places of the
// same kind (auth.json, when the keyring took it), and the journal.
func (s *Store) Save(ctx context.Context, a Auth) (Where, error) { return Where{}, ErrNone }

// Delete forgets the credential in every place this kind of store uses, and the
// journal. It reports whether there was one.
func (s *Store) Delete(ctx context.Context) (bool, error) { return false, nil }

// Lock is Codex's refresh lock: while it is held, no Codex and no Towline on this
// host refreshes the login. It waits for another holder as long as ctx lets it,
// then gives ErrBusy. unlock may be called more than once.
func (s *Store) Lock(ctx context.Context) (unlock func(), err error) { return func() {}, nil }

// Journal makes what an issuer answered durable before it is stored: was is the
// credential that was refreshed (the zero Auth for a fresh login), now is the
// new one. After a kill between here and [Store.Save], the next Load adopts now
// if the store still holds was. Call it under [Store.Lock].
func (s *Store) Journal(ctx context.Context, was, now Auth) error { return nil }

// Place is one place in which a credential lies.
type Place struct {
	Kind     Kind
	Path     string // a file, or the label of an entry in a keyring
	Auth     Auth   // prints without its secrets; empty when Err is set
	Readable bool   // others can read it, by its mode
	Err      error  // why it cannot be read: locked, damaged, not private
	Used     bool   // this store's Load would take it
}

// Places lists every place where a credential of this Codex home lies now,
// whatever the configured kind.
func (s *Store) Places(ctx context.Context) []Place { return nil }

// Migrate moves the credential to another kind of store: it is written there,
// read back and compared, and only then removed from every other place.
func (s *Store) Migrate(ctx context.Context, to Kind) error { return nil }
