package sshclient

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// agentPatience is how long an agent may take to list its keys. Signing may wait
// for a person, and has no limit but the connection's.
const agentPatience = 10 * time.Second

// keyAgent is an SSH agent for the length of one login.
type keyAgent struct {
	conn net.Conn
	mu   sync.Mutex // one request at a time: touches of a key queue up for the person
	c    agent.ExtendedAgent
	keys []agentKey
}

// agentKey is a key an agent holds.
type agentKey struct {
	pub     ssh.PublicKey
	comment string
}

// agentPath is the socket of the agent to ask, "" for none.
func agentPath(identityAgent string, getenv func(string) string) string {
	switch {
	case strings.EqualFold(identityAgent, "none"):
		return ""
	case identityAgent == "" || identityAgent == "SSH_AUTH_SOCK":
		if p := getenv("SSH_AUTH_SOCK"); p != "" {
			return p
		}
		return agentDefault
	case strings.HasPrefix(identityAgent, "$"):
		return getenv(strings.Trim(identityAgent, "${}"))
	}
	return identityAgent
}

// openAgent connects to an agent and lists its keys. Keys of kinds the library
// does not know are left out.
func openAgent(ctx context.Context, path string) (*keyAgent, error) {
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	conn, err := dialAgent(ctx, path)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	// Only reading and writing are shown to the library: with a Closer it would
	// keep a goroutine reading.
	a := &keyAgent{conn: conn, c: agent.NewClient(struct{ io.ReadWriter }{conn})}
	list, err := a.c.List()
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("the agent at %s does not answer: %w", path, context.Cause(ctx))
		}
		return nil, err
	}
	for _, k := range list {
		pub, err := ssh.ParsePublicKey(k.Blob)
		if err != nil {
			continue
		}
		a.keys = append(a.keys, agentKey{pub, printable(k.Comment, 200)})
	}
	return a, nil
}

func (a *keyAgent) close() {
	if a != nil {
		_ = a.conn.Close()
	}
}

// sign lets the agent sign with the key of pub. Ending ctx ends the agent's use
// for this login.
func (a *keyAgent) sign(ctx context.Context, pub ssh.PublicKey, data []byte, algo string) (*ssh.Signature, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer context.AfterFunc(ctx, func() { _ = a.conn.Close() })()
	var flags agent.SignatureFlags
	switch algo {
	case ssh.KeyAlgoRSASHA256:
		flags = agent.SignatureFlagRsaSha256
	case ssh.KeyAlgoRSASHA512:
		flags = agent.SignatureFlagRsaSha512
	}
	return a.c.SignWithFlags(pub, data, flags)
}

// add gives the agent a key that was just unlocked, as AddKeysToAgent wants it:
// yes, confirm, or either of them or nothing with a lifetime in seconds. "ask" is
// left out: nobody should be asked twice in a row.
func (a *keyAgent) add(raw any, comment, how string) error {
	k := agent.AddedKey{PrivateKey: raw, Comment: comment}
	for _, w := range strings.Fields(strings.ToLower(how)) {
		switch n, err := strconv.ParseUint(w, 10, 32); {
		case w == "no" || w == "ask" || w == "false":
			return nil
		case w == "confirm":
			k.ConfirmBeforeUse = true
		case w == "yes" || w == "true":
		case err == nil:
			k.LifetimeSecs = uint32(n)
		default:
			return nil
		}
	}
	if how == "" {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.conn.SetDeadline(time.Now().Add(agentPatience)); err == nil {
		defer func() { _ = a.conn.SetDeadline(time.Time{}) }()
	}
	return a.c.Add(k)
}

// signFile signs with a private key that is in memory.
func signFile(s ssh.Signer, data []byte, algo string) (*ssh.Signature, error) {
	if as, ok := s.(ssh.AlgorithmSigner); ok {
		return as.SignWithAlgorithm(rand.Reader, data, algo)
	}
	return s.Sign(rand.Reader, data)
}
