package sshclient

import (
	"context"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"towline/launcher/remote"
)

// How often a connection that comes back by itself may ask a person again: the
// first time after promptPause, then ever more rarely.
const (
	promptPause    = time.Minute
	promptPauseMax = 15 * time.Minute
)

// Secrets is what a person typed for one session, in memory only: unlocked keys,
// passwords that were right, host keys accepted once. It also keeps a link that
// flaps from raining prompts on them. The zero value is not ready; use NewSecrets.
// Safe for concurrent use.
type Secrets struct {
	now func() time.Time

	mu        sync.Mutex
	keys      map[string]ssh.Signer // by the public key's blob
	passwords map[string]string     // by hop and what was asked
	accepted  map[string]string     // known_hosts address -> key blob, accepted once
	prompts   map[string]*promptLimit
}

// promptLimit is when a hop may ask again.
type promptLimit struct {
	asking bool // by the Dial that is under way
	next   time.Time
	pause  time.Duration
}

// NewSecrets returns an empty memory.
func NewSecrets() *Secrets {
	return &Secrets{
		now:       time.Now,
		keys:      make(map[string]ssh.Signer),
		passwords: make(map[string]string),
		accepted:  make(map[string]string),
		prompts:   make(map[string]*promptLimit),
	}
}

// Invite lets the next Dial ask whatever it needs to: a person is there and wants
// this attempt. Without it a Dial that would have to ask again shortly after the
// last one asked fails instead.
func (s *Secrets) Invite() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.prompts)
}

// Forget drops everything.
func (s *Secrets) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.keys)
	clear(s.passwords)
	clear(s.accepted)
	clear(s.prompts)
}

// nobody is the Asker of a connection nobody watches.
type nobody struct{}

func (nobody) HostKey(context.Context, remote.HostKeyQuestion) (remote.Decision, error) {
	return remote.Refuse, remote.ErrNobody
}

func (nobody) Secret(context.Context, remote.SecretQuestion) (string, error) {
	return "", remote.ErrNobody
}

func (nobody) Notice(string, string) {}

// errAskedLately is why a person is left alone.
type errAskedLately struct{ wait time.Duration }

func (e *errAskedLately) Error() string {
	return "you were asked a short while ago; the next question by itself comes in " + e.wait.Round(time.Second).String()
}

func (e *errAskedLately) Unwrap() error { return remote.ErrNobody }

// mayAsk reports whether hop may ask a person now, with the error to give when
// not. Within one Dial questions follow each other freely; asked begins the pause.
func (s *Secrets) mayAsk(hop string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.prompts[hop]
	if l == nil {
		l = &promptLimit{}
		s.prompts[hop] = l
	}
	if l.asking {
		return nil
	}
	if wait := l.next.Sub(s.now()); wait > 0 {
		return &errAskedLately{wait}
	}
	l.asking = true
	return nil
}

// asked ends a hop's part in a Dial: the next one by itself asks after a pause.
func (s *Secrets) asked(hop string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.prompts[hop]
	if l == nil || !l.asking {
		return
	}
	l.asking = false
	l.pause = min(max(2*l.pause, promptPause), promptPauseMax)
	l.next = s.now().Add(l.pause)
}

func (s *Secrets) acceptedOnce(address string, key ssh.PublicKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted[address] == string(key.Marshal())
}

func (s *Secrets) acceptOnce(address string, key ssh.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted[address] = string(key.Marshal())
}

// key is the unlocked private key of pub, nil when it was not unlocked yet.
func (s *Secrets) key(pub ssh.PublicKey) ssh.Signer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[string(pub.Marshal())]
}

func (s *Secrets) keepKey(signer ssh.Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[string(signer.PublicKey().Marshal())] = signer
}

// password is what was right before for this account and prompt.
func (s *Secrets) password(id string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.passwords[id]
	return p, ok
}

func (s *Secrets) keepPassword(id, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passwords[id] = password
}

func (s *Secrets) dropPassword(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.passwords, id)
}
