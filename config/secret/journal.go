package secret

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"towline/config/osfile"
)

// The journal is one file in Towline's state folder, with what a refresh received
// and the store does not have yet. A refresh token is spent by using it, so
// between the answer and the store there is one copy of the login in the world.
//
// Its content is one object, {"was": the id of the credential that was
// refreshed, "now": the new credential}. It is sealed (see sealed.go) unless the
// store itself is a plain file:
//
//   - under a keyring, with a key kept in the keyring, fetched when the lock is
//     taken: so a machine that loses its power keeps the login too. When the
//     keyring does not give one, with a key in $XDG_RUNTIME_DIR if that is
//     memory: a killed process can be recovered from, and no disk ever has both
//     the file and its key. With neither, there is no journal and an error.
//   - with the encrypted store, with that store's key.
//
// In plain: "towline-journal 1\n", the SHA-256 of the rest in hex, "\n", the
// object.
const (
	journalMagic = "towline-journal 1\n"
	// adoptWait is how long Load waits for a live refresher before it goes on
	// with what is stored.
	adoptWait = 5 * time.Second
)

// journalKeys are where the journal's key may come from, and the one found.
type journalKeys struct {
	ring    keyringKey
	runtime runtimeKey
	ready   *sealedKey // nil: none yet, or none is needed
}

type journalEntry struct {
	Was string          `json:"was"`
	Now json.RawMessage `json:"now"`
}

func (s *Store) journalName() string { return "refresh-" + s.home + ".journal" }
func (s *Store) journalPath() string { return filepath.Join(s.o.StateDir, s.journalName()) }

// Journal makes what an issuer answered durable before it is stored: was is what
// the store holds (the zero Auth when nothing), now the new credential. After a
// kill between here and [Store.Save], the next Load adopts now if the store
// still holds was. Call it under [Store.Lock]; [Store.Replace] calls it.
func (s *Store) Journal(ctx context.Context, was, now Auth) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal(ctx, was, now)
}

func (s *Store) journal(ctx context.Context, was, now Auth) error {
	if s.o.Kind == KindEphemeral {
		return nil // what dies with this process is meant to
	}
	if s.keys.ready == nil {
		s.readyJournal(ctx)
	}
	entry, err := json.Marshal(journalEntry{Was: was.id(), Now: now.Compact()})
	if err != nil {
		return storeProblem("journal", errShape)
	}
	var b []byte
	switch k := s.keys.ready; {
	case k != nil:
		if b, err = seal(k.h, k.secret, entry); err != nil {
			return storeProblem("journal", err)
		}
	case s.plainJournal():
		sum := sha256.Sum256(entry)
		b = append([]byte(journalMagic+hex.EncodeToString(sum[:])+"\n"), entry...)
	default:
		return storeProblem("journal", ErrNoKey, "unlock the keyring, or set XDG_RUNTIME_DIR to a private folder in memory")
	}
	f, err := openFolder(s.o.StateDir, true)
	if err != nil {
		return storeProblem("journal", err)
	}
	defer f.close()
	f.sweep(s.journalName())
	return storeProblem("journal", f.writeAhead(s.journalName(), b))
}

// plainJournal: the credential may lie on the disk as it is.
func (s *Store) plainJournal() bool { return s.o.Kind == KindFile || s.o.Kind == KindAuto }

// readyJournal finds the journal's key while there is time. That there is none
// shows when it is needed.
func (s *Store) readyJournal(ctx context.Context) {
	s.keys.ready = nil
	ring := []keySource{s.keys.ring, s.keys.runtime}
	switch s.o.Kind {
	case KindKeyring:
	case KindAuto:
		ring = ring[:1] // a file in plain is allowed here: no need for a second best key
	case KindEncrypted:
		ring = nil
	default:
		return
	}
	for _, src := range ring {
		h := header{Purpose: forJournal, Home: s.home, Key: src.name(), Salt: random(saltSize)}
		if secret, err := newSecret(ctx, s.o.StateDir, s.home, src, h); err == nil {
			s.keys.ready = &sealedKey{h, secret}
			return
		}
	}
	if s.o.Kind == KindKeyring {
		return
	}
	// Under "auto" nobody is asked: if there is an encrypted file, Load has asked
	// already, and if there is none, the login lies in a plain file itself.
	err := errNoJournal
	prepare := func() { err = s.encrypted.prepare(ctx) }
	if s.o.Kind == KindAuto {
		s.quietly(prepare)
	} else {
		prepare()
	}
	if err == nil {
		k := *s.encrypted.ready
		k.h.Purpose = forJournal
		s.keys.ready = &k
	}
}

// errNoJournal: nothing is waiting.
var errNoJournal = errors.New("no journal")

// readJournal opens what is waiting. ErrDamaged and ErrWrongKey are for good.
func (s *Store) readJournal(ctx context.Context) (was string, now Auth, err error) {
	f, err := openFolder(s.o.StateDir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return "", Auth{}, errNoJournal
	}
	if err != nil {
		return "", Auth{}, err
	}
	defer f.close()
	b, err := f.read(s.journalName())
	if errors.Is(err, fs.ErrNotExist) {
		return "", Auth{}, errNoJournal
	}
	if err != nil {
		return "", Auth{}, err
	}
	raw, err := s.openJournal(ctx, b)
	if err != nil {
		return "", Auth{}, err
	}
	return parseEntry(raw)
}

func (s *Store) openJournal(ctx context.Context, b []byte) ([]byte, error) {
	if rest, ok := bytes.CutPrefix(b, []byte(journalMagic)); ok {
		return openPlainJournal(rest)
	}
	h, _, _, err := split(b)
	if err != nil {
		return nil, err
	}
	var src keySource
	switch h.Key {
	case s.keys.ring.name():
		src = s.keys.ring
	case s.keys.runtime.name():
		src = s.keys.runtime
	default:
		if src, err = s.encrypted.source(h.Key); err != nil {
			return nil, err
		}
	}
	secret, err := src.secret(ctx, h, false)
	if err != nil {
		return nil, err
	}
	return unseal(b, secret, forJournal, s.home)
}

func openPlainJournal(rest []byte) ([]byte, error) {
	sum, entry, ok := bytes.Cut(rest, []byte("\n"))
	if got := sha256.Sum256(entry); !ok || hex.EncodeToString(got[:]) != string(sum) {
		return nil, fmt.Errorf("journal %w", ErrDamaged)
	}
	return entry, nil
}

func parseEntry(raw []byte) (was string, now Auth, err error) {
	var e journalEntry
	if json.Unmarshal(raw, &e) != nil || e.Was == "" {
		return "", Auth{}, fmt.Errorf("journal %w", ErrDamaged)
	}
	if now, err = Parse(e.Now); err == nil && now.Empty() {
		err = fmt.Errorf("journal %w", ErrDamaged)
	}
	return e.Was, now, err
}

// dropJournal forgets what was waiting.
func (s *Store) dropJournal() (had bool) {
	if s.o.Kind == KindEphemeral {
		return false
	}
	f, err := openFolder(s.o.StateDir, false)
	if err != nil {
		return false
	}
	defer f.close()
	f.sweep(s.journalName())
	if had, err = f.remove(s.journalName()); err != nil {
		// It is taken for what it is next time: the store holds its login.
		s.log.Warn("the journal of a refresh stays behind", "path", s.journalPath(), "error", err)
	}
	return had
}

// recover adopts what a killed refresh left. Only a cancelled context is an
// error: whatever else is wrong with the journal, the store is still there.
func (s *Store) recover(ctx context.Context) error {
	if s.o.Kind == KindEphemeral || !s.pending() {
		return nil
	}
	release, ok := s.quiet(ctx)
	if !ok {
		return ctx.Err() // a live refresher has it in hand
	}
	defer release()
	was, now, err := s.readJournal(ctx)
	switch {
	case errors.Is(err, errNoJournal):
		return nil // stored in the meantime
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrWrongKey):
		s.log.Warn("the journal of a refresh is of no use and was removed", "path", s.journalPath(), "error", err)
		s.dropJournal()
		return nil
	case err != nil:
		s.log.Warn("the journal of a refresh cannot be read now", "path", s.journalPath(), "error", err)
		return ctx.Err()
	}
	cur, _, err := s.load(ctx)
	if err != nil && !errors.Is(err, ErrNone) {
		return ctx.Err() // nothing to compare with: another time
	}
	switch cur.id() {
	case now.id():
		s.dropJournal()
	case was:
		where, err := s.save(ctx, now, s.unchanged(was, now.id()))
		if err != nil {
			s.log.Warn("a refreshed login could not be stored yet", "error", err)
			return ctx.Err()
		}
		s.log.Info("a refresh that was cut short is stored now", "store", where.Kind)
	default:
		s.log.Info("a refresh that was cut short is out of date and was dropped")
		s.dropJournal()
	}
	return nil
}

// pending says cheaply whether there may be a journal.
func (s *Store) pending() bool {
	f, err := openFolder(s.o.StateDir, false)
	if err != nil {
		return false
	}
	defer f.close()
	_, err = f.root.Lstat(s.journalName())
	return err == nil
}

// quiet makes sure that nobody else is between receiving and storing: by holding
// the refresh lock, or because this Store holds it already.
func (s *Store) quiet(ctx context.Context) (release func(), ok bool) {
	ctx, cancel := context.WithTimeout(ctx, adoptWait)
	defer cancel()
	f, err := openFolder(s.o.CodexHome, true)
	if err != nil {
		return nil, false
	}
	defer f.close()
	for ctx.Err() == nil {
		if s.holding.Load() {
			return func() {}, true
		}
		try, cancel := context.WithTimeout(ctx, 5*lockPoll)
		l, err := f.lock(try, refreshLock)
		cancel()
		switch {
		case err == nil:
			return func() { _ = l.Close() }, true
		case !errors.Is(err, ErrBusy) && !errors.Is(err, osfile.ErrLocked):
			return nil, false
		}
	}
	return nil, false
}
