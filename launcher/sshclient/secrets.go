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
	next  time.Time
	pause time.Duration
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
