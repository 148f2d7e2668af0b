package secret

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/argon2"
)

// keySource is where the secret of a sealed file comes from. secret gives the
// one that opens (create false) or may close (create true) a file with this
// header; ErrNoKey means that there is none here.
type keySource interface {
	name() string
	secret(ctx context.Context, h header, create bool) ([]byte, error)
	// complete fills in what a new file's header needs of this source.
	complete(h *header)
}

const keySize = 32

// argonCost is what Argon2id (RFC 9106) may cost. New files get the second
// recommended setting of its section 4; what a file asks for is bounded, because
// a file is input like any other.
type argonCost struct {
	Time      uint32 `json:"time"`
	MemoryKiB uint32 `json:"memory_kib"`
	Threads   uint8  `json:"threads"`
}

var newArgonCost = argonCost{Time: 3, MemoryKiB: 64 << 10, Threads: 4}

func (c argonCost) bounded() error {
	if c.Time < 1 || c.Time > 10 || c.MemoryKiB < 8<<10 || c.MemoryKiB > 256<<10 || c.Threads < 1 || c.Threads > 16 {
		return errors.New("unreasonable costs in the header")
	}
	return nil
}

// passphraseKey asks once and remembers.
type passphraseKey struct {
	ask   func(context.Context) (string, error) // nil: nobody to ask
	known string
	keys  map[string][]byte // by salt and costs: Argon2id takes a tenth of a second
}

func (*passphraseKey) name() string { return "passphrase" }

func (p *passphraseKey) complete(h *header) {
	cost := newArgonCost
	h.Argon = &cost
}

func (p *passphraseKey) secret(ctx context.Context, h header, _ bool) ([]byte, error) {
	if h.Argon == nil {
		return nil, fmt.Errorf("sealed file %w: no costs in the header", ErrDamaged)
	}
	if p.known == "" {
		if p.ask == nil {
			return nil, fmt.Errorf("%w: it needs its passphrase, and there is nobody to ask", ErrNoKey)
		}
		got, err := p.ask(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w: no passphrase was given", ErrNoKey) // its own text could repeat what was typed
		}
		if got == "" {
			return nil, fmt.Errorf("%w: the passphrase is empty", ErrNoKey)
		}
		p.known = got
	}
	id := fmt.Sprintf("%x %v", h.Salt, *h.Argon)
	if k, ok := p.keys[id]; ok {
		return k, nil
	}
	k := argon2.IDKey([]byte(p.known), h.Salt, h.Argon.Time, h.Argon.MemoryKiB, h.Argon.Threads, keySize)
	if p.keys == nil || len(p.keys) > 8 {
		p.keys = map[string][]byte{}
	}
	p.keys[id] = k
	return k, nil
}

// forget drops a passphrase that did not fit, so that it is asked for again.
func (p *passphraseKey) forget() { p.known, p.keys = "", nil }

// SystemdCredential is the name of the credential that opens the encrypted file
// in a service: LoadCredentialEncrypted=towline.credentials-key:… in its unit.
const SystemdCredential = "towline.credentials-key"

// systemdKey is a file in the folder systemd makes for a service
// ($CREDENTIALS_DIRECTORY): on no disk, and gone with the service. Its owner and
// mode are systemd's affair; access lists, not modes, guard it.
type systemdKey struct{ getenv func(string) string }

func (systemdKey) name() string     { return "systemd" }
func (systemdKey) complete(*header) {}

func (k systemdKey) secret(context.Context, header, bool) ([]byte, error) {
	dir := k.getenv("CREDENTIALS_DIRECTORY")
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("%w: it is the systemd credential %s of a service", ErrNoKey, SystemdCredential)
	}
	f, err := os.OpenFile(filepath.Join(dir, SystemdCredential), os.O_RDONLY|nonBlock, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the service has no systemd credential %s", ErrNoKey, SystemdCredential)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	defer func() { _ = f.Close() }()
	const most = 4096
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	if len(b) < keySize || len(b) > most {
		return nil, fmt.Errorf("%w: the systemd credential %s has %d bytes, not 32 to %d random ones", ErrNoKey, SystemdCredential, len(b), most)
	}
	return b, nil
}

// keyringKey keeps a random key in the system's keyring. It is what the keyring
// store is where the keyring is too small for a credential, and the journal's
// key under a keyring.
type keyringKey struct {
	ring  keyring
	e     entry
	known *[]byte // once read: a journal is written when there is no time to lose
}

func (keyringKey) name() string     { return "keyring" }
func (keyringKey) complete(*header) {}

func (k keyringKey) secret(ctx context.Context, _ header, create bool) ([]byte, error) {
	if *k.known != nil {
		return *k.known, nil
	}
	b, err := k.ring.get(ctx, k.e)
	switch {
	case err == nil:
	case errors.Is(err, ErrNone) && create:
		b = []byte(hex.EncodeToString(random(keySize)))
		if err := k.ring.set(ctx, k.e, b); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
		}
		// Two processes may make one at the same time: what is there counts.
		if b, err = k.ring.get(ctx, k.e); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
		}
	case errors.Is(err, ErrNone):
		return nil, fmt.Errorf("%w: the keyring has no entry %s", ErrNoKey, k.e.label)
	default:
		return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	key := make([]byte, keySize)
	if n, err := hex.Decode(key, b[:min(len(b), 2*keySize)]); err != nil || n != keySize {
		return nil, fmt.Errorf("%w: the keyring's entry %s is no key", ErrNoKey, k.e.label)
	}
	*k.known = key
	return key, nil
}

// runtimeKey is a random key in $XDG_RUNTIME_DIR, where that is memory and not
// a disk: it outlives a killed process, and nothing else.
type runtimeKey struct {
	getenv func(string) string
	home   string // which CODEX_HOME, hashed
}

func (runtimeKey) name() string     { return "runtime" }
func (runtimeKey) complete(*header) {}

func (k runtimeKey) secret(_ context.Context, _ header, create bool) ([]byte, error) {
	dir := k.getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(dir) || !inMemory(dir) {
		return nil, fmt.Errorf("%w: no runtime folder in memory", ErrNoKey)
	}
	f, err := openFolder(filepath.Join(dir, "towline"), create)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	defer f.close()
	name := "journal-" + k.home + ".key"
	b, err := f.read(name)
	if errors.Is(err, fs.ErrNotExist) && create {
		if err = f.write(name, []byte(hex.EncodeToString(random(keySize)))); err == nil {
			b, err = f.read(name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	key, err := hex.DecodeString(string(b))
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("%w: %s is no key", ErrNoKey, f.join(name))
	}
	return key, nil
}
