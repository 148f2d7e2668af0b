package launcher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"towline/config"
	"towline/launcher/remote"
)

// askAgain is how often, at most, a person is asked for something because a
// link came back, unless they asked for the attempt themselves: a link that
// flaps must not become a rain of prompts.
const askAgain = time.Minute

// keeper is an Asker that remembers, in memory and for the life of a Session,
// what was answered, so that a reconnect asks nobody. What turned out wrong is
// forgotten, and asked for again. One-time codes are never kept.
type keeper struct {
	ask remote.Asker
	now func() time.Time

	mu      sync.Mutex // guards what follows
	secrets map[secretKey]string
	once    map[string]string // host keys accepted for this session: address -> fingerprint
	again   bool              // this is a reconnect nobody asked for
	asked   time.Time         // when a person last was, in one
}

type secretKey struct {
	hop     string
	kind    remote.SecretKind
	subject string
	prompt  string // of a Challenge
}

func newKeeper(ask remote.Asker) *keeper {
	if ask == nil {
		ask = nobody{}
	}
	return &keeper{ask: ask, now: time.Now, secrets: make(map[secretKey]string), once: make(map[string]string)}
}

// attempt says what the next connection is: a reconnect by itself, or one a
// person waits for.
func (k *keeper) attempt(byItself bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.again = byItself
	if !byItself {
		k.asked = time.Time{}
	}
}

// forget drops everything, at the end of the session or when the login failed.
func (k *keeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.secrets)
}

// mayAsk reports whether a person may be disturbed now.
func (k *keeper) mayAsk() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.again {
		return true
	}
	if !k.asked.IsZero() && k.now().Sub(k.asked) < askAgain {
		return false
	}
	k.asked = k.now()
	return true
}

var errAskedJustNow = fmt.Errorf("%w: it was asked a moment ago; press r to be asked again", remote.ErrNobody)

// HostKey implements remote.Asker.
func (k *keeper) HostKey(ctx context.Context, q remote.HostKeyQuestion) (remote.Decision, error) {
	k.mu.Lock()
	accepted, met := k.once[q.Address]
	k.mu.Unlock()
	if met {
		if accepted == q.Fingerprint {
			return remote.AcceptOnce, nil
		}
		return remote.Refuse, &config.Problem{
			Stage: remote.StageHostKey,
			Err:   fmt.Errorf("%s shows another key than the one you accepted for this connection: %s, not %s", q.Hop, q.Fingerprint, accepted),
			Hints: []string{"leave, find out why, and connect again: somebody may be in between"}, Exit: config.ExitDenied,
		}
	}
	if !k.mayAsk() {
		return remote.Refuse, errAskedJustNow
	}
	d, err := k.ask.HostKey(ctx, q)
	if err == nil && d == remote.AcceptOnce {
		k.mu.Lock()
		k.once[q.Address] = q.Fingerprint
		k.mu.Unlock()
	}
	return d, err
}

// Secret implements remote.Asker.
func (k *keeper) Secret(ctx context.Context, q remote.SecretQuestion) (string, error) {
	key := secretKey{hop: q.Hop, kind: q.Kind, subject: q.Subject}
	if q.Kind == remote.Challenge {
		key.prompt = q.Prompt
	}
	k.mu.Lock()
	had, ok := k.secrets[key]
	if ok && q.Attempt > 1 {
		delete(k.secrets, key) // it was refused
		ok = false
	}
	k.mu.Unlock()
	if ok {
		return had, nil
	}
	if !k.mayAsk() {
		return "", errAskedJustNow
	}
	s, err := k.ask.Secret(ctx, q)
	if err == nil && keepable(q) {
		k.mu.Lock()
		k.secrets[key] = s
		k.mu.Unlock()
	}
	return s, err
}

// Notice implements remote.Asker.
func (k *keeper) Notice(hop, text string) { k.ask.Notice(hop, text) }

// keepable reports whether an answer can be right a second time. Of what a
// server asks in its own words, only what it calls a password is: codes are for
// once, and a wrong one counts against the account.
func keepable(q remote.SecretQuestion) bool {
	if q.Kind != remote.Challenge {
		return true
	}
	p := strings.ToLower(q.Prompt)
	for _, w := range []string{"one-time", "one time", "otp", "code", "token", "new password", "retype"} {
		if strings.Contains(p, w) {
			return false
		}
	}
	return strings.Contains(p, "password") || strings.Contains(p, "passphrase")
}

// nobody is the Asker of a connection that nobody watches.
type nobody struct{}

func (nobody) HostKey(context.Context, remote.HostKeyQuestion) (remote.Decision, error) {
	return remote.Refuse, remote.ErrNobody
}

func (nobody) Secret(context.Context, remote.SecretQuestion) (string, error) {
	return "", remote.ErrNobody
}

func (nobody) Notice(string, string) {}

// asked reports whether err came from a question nobody answered.
func unanswered(err error) bool { return errors.Is(err, remote.ErrNobody) }
