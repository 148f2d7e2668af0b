package access

import (
	"context"
	"net/netip"
	"time"
)

// Attempt is what a door knows of somebody who wants in with a bearer credential.
type Attempt struct {
	// Authorization holds the values of that header, as sent. It is a secret.
	Authorization []string
	// Source is where the connection comes from; it is invalid on a unix socket.
	Source netip.Addr
	// Via is the door: "unix", "ws" or "wss".
	Via string
}

// Authenticator proves who makes an attempt. It is safe for concurrent use, and
// bounds what strangers can make it do. A *Refusal says what to answer; any
// other error is the host's own failure, and lets nobody in.
type Authenticator interface {
	Authenticate(ctx context.Context, a Attempt) (Principal, error)
}

// Refusal is why somebody is not let in. Body is all that the stranger hears.
type Refusal struct {
	Status int    // of HTTP: 401, 403 or 429
	Body   string // text/plain, as Codex says it
	// RetryAfter, when not zero, is told in a header.
	RetryAfter time.Duration
	// Why is for the log and the audit; it holds no secret.
	Why string
	// Who is the credential's name where one was recognised: a revoked token, one
	// from elsewhere.
	Who Principal
}

func (r *Refusal) Error() string {
	if r.Why != "" {
		return r.Why
	}
	return r.Body
}
