package secret

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
)

// How Codex locks, measured with strace on 0.169.0 and 0.166.0 while
// `codex app-server` refreshed a login whose access token had expired, in the
// file and in the keyring store alike:
//
//   - It reads the store before it asks the issuer, and takes what it finds there
//     instead of asking when that is another token than the one it remembers.
//   - No lock is held while the issuer is asked. Two Codexes, or a Codex and a
//     Towline, may therefore spend the same refresh token at once; nothing a
//     third program does can prevent it.
//   - After the answer it opens auth.lock (made 0666 less the umask) and takes
//     flock(LOCK_EX), waiting without an end. Under it, it reads the store again,
//     and if the refresh token there is no longer the one it spent, 0.169.0 drops
//     what it received; 0.166.0 writes it all the same. Login and logout take this
//     lock too.
//   - Since 0.169.0, inside that one, auth.json.lock (made 0600) with
//     flock(LOCK_EX|LOCK_NB), asked for every 10 ms for 5 s; then it gives up with
//     "credential commit lock timed out", and the tokens it received are lost.
//     auth.json is then written as ".auth-" and six letters, fsync, rename.
//     0.166.0 has no such lock, and empties and rewrites auth.json in place.
//
// So there are two locks here. The commit lock is Codex's auth.lock: everything
// of ours that writes to a store holds it, for as short as Codex does, with
// auth.json.lock inside it around the file alone. Codex waits for us, and we for
// Codex. The refresh lock, [Store.Lock], is Towline's own file beside them,
// held across the request to the issuer: so of all Towlines on a host one
// refreshes. Taking auth.lock for that long would keep no Codex from asking, and
// would keep one that asked from storing what it got.

// Lock is the lock of a whole refresh: while it is held, no other Towline on this
// host refreshes this login. It waits for another holder as long as ctx lets
// it, then gives ErrBusy. unlock may be called more than once. It also readies
// the journal's key, so that nothing need be asked for once tokens are in hand.
//
// A Codex may refresh at the same time all the same (see the facts above). Load
// after Lock, store with [Store.Replace], and when the issuer says the refresh
// token was used, Load again: Codex stores within milliseconds of its answer.
func (s *Store) Lock(ctx context.Context) (unlock func(), err error) {
	if s.o.Kind == KindEphemeral { // nobody else can see it, and nothing is to be written
		select {
		case s.local <- struct{}{}:
			return sync.OnceFunc(func() { <-s.local }), nil
		case <-ctx.Done():
			return nil, storeProblem("wait for the refresh", ErrBusy)
		}
	}
	f, err := openFolder(s.o.CodexHome, true)
	if err != nil {
		return nil, storeProblem("lock "+s.o.CodexHome, err)
	}
	l, err := f.lock(ctx, refreshLock)
	f.close()
	if err != nil {
		return nil, storeProblem("wait for the refresh", err)
	}
	s.holding.Store(true)
	unlock = sync.OnceFunc(func() {
		s.holding.Store(false) // before the next one can have it
		_ = l.Close()
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readyJournal(ctx)
	return unlock, nil
}

// commitLock takes Codex's commit lock. With create unset and no CODEX_HOME there
// is nothing to guard.
func (s *Store) commitLock(ctx context.Context, create bool) (release func(), err error) {
	if s.o.Kind == KindEphemeral {
		return func() {}, nil
	}
	f, err := openFolder(s.o.CodexHome, create)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return func() {}, nil
	}
	if err != nil {
		return nil, storeProblem("lock "+s.o.CodexHome, err)
	}
	defer f.close()
	wait, cancel := context.WithTimeout(ctx, commitWait)
	defer cancel()
	l, err := f.lock(wait, commitLock)
	if err != nil {
		return nil, storeProblem("wait for Codex or another Towline to store its login", err)
	}
	return func() { _ = l.Close() }, nil
}

// ErrChanged: the store holds another credential than the one that was
// refreshed: somebody logged in, out, or refreshed meanwhile.
var ErrChanged = errors.New("the login was changed by another program meanwhile")

// Replace journals and stores what a refresh of was received, unless the store
// no longer holds was: then what is stored counts, now is dropped, and the error
// is ErrChanged. Codex does the same since 0.169. Call it under [Store.Lock].
func (s *Store) Replace(ctx context.Context, was, now Auth) (Where, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.journal(ctx, was, now); err != nil {
		s.log.Warn("a refreshed login is stored without a journal", "error", err)
	}
	where, err := s.save(ctx, now, s.unchanged(was.id(), now.id()))
	if errors.Is(err, ErrChanged) {
		s.dropJournal()
		err = storeProblem("refresh", err, "nothing is lost: the other program's login is used")
	}
	return where, err
}

// unchanged lets a save happen while the store holds one of these. A store that
// cannot be read is no reason against it: nothing in it could be used, and the
// tokens in hand are the only ones.
func (s *Store) unchanged(was, now string) func(context.Context) error {
	return func(ctx context.Context) error {
		var cur Auth
		var err error
		s.quietly(func() { cur, _, err = s.load(ctx) }) // Codex waits meanwhile
		if err != nil && !errors.Is(err, ErrNone) {
			return ctx.Err()
		}
		if id := cur.id(); id != was && id != now {
			return fmt.Errorf("store a refreshed login: %w", ErrChanged)
		}
		return nil
	}
}
