package transport

import (
	"context"
	"log/slog"
	"time"

	"towline/appserver/access"
	"towline/appserver/rpc"
)

// Limits on what strangers at the door can make us hold.
const (
	// defaultMaxConns is what a fleet opens; a process that may have fewer
	// descriptors gets half of those, because an engine needs one for each client.
	defaultMaxConns = 10240
	// reservedFiles are kept for everything that is no client.
	reservedFiles     = 256
	defaultMaxPending = 256
	// Per source and per principal, for what other machines reach: one of many
	// cannot take all places. A source is an IPv4 address or an IPv6 /64.
	defaultPerSource        = 512
	defaultPendingPerSource = 64
	defaultPerPrincipal     = 512
	// headerTimeout is for the whole request, TLS included; a local client sends it
	// at once, a remote one may be far away.
	headerTimeout       = 5 * time.Second
	remoteHeaderTimeout = 15 * time.Second
	maxHeaderBytes      = 16 << 10
	// codexFrameBytes is the largest frame Codex takes, announced by its unix
	// listener in frameHeader.
	codexFrameBytes = 16 << 20
	frameHeader     = "x-codex-websocket-max-unfragmented-message-bytes"
)

// Options tune a Listener. The zero value is a safe default.
type Options struct {
	Log *slog.Logger // nil discards
	// RuntimeDir is where a unix socket really lives when its path is too long
	// for the kernel; a symlink stands at the path asked for. When it is empty or
	// too long itself, a private temporary folder serves.
	RuntimeDir string
	Limits     Limits
	// Crowd counts sources and principals together for all listeners that share it;
	// nil is one of the listener's own.
	Crowd *Crowd
	// Sessions, when not nil, lets clients have a stream that outlives their
	// connections (rpc.ResumeProtocol). It must run for longer than the listener.
	Sessions *rpc.Sessions
	// Egress, when not nil, is asked about clients that lend the host their network:
	// on the unix socket and through ServeBytes.
	Egress EgressFunc

	// Auth, when not nil, is asked about whoever sends an Authorization header:
	// such a client is who the header says and nobody else. Without Auth the header
	// is not looked at.
	Auth access.Authenticator
	// RequireAuth lets nobody in through ws and wss whom Auth does not know, this
	// user's own processes included. Other addresses than loopback need it.
	RequireAuth bool
	// Certificates are for wss.
	Certificates *Certificates
	// DangerousPlaintext allows ws on other addresses than loopback: whoever is on
	// the way reads tokens and all that is said, and can change it.
	DangerousPlaintext bool
	// Hosts are further names that clients may dial the listener by, besides its
	// address, this machine's name and those in its certificate.
	Hosts []string
	// Meter, when not nil, is told what happens.
	Meter Meter
}

// Limits bound what one listener holds. Zero members have defaults.
type Limits struct {
	// MaxConns bounds connections in all, MaxPending those that have not finished
	// their handshake.
	MaxConns, MaxPending int
	// PerSource and PendingPerSource do the same for one source of a listener that
	// other machines reach.
	PerSource, PendingPerSource int
	// PerPrincipal bounds the connections of one token or subject.
	PerPrincipal int
	// Handshake is how long a client may take to say what it wants.
	Handshake time.Duration
}

func (l Limits) withDefaults(remote bool) Limits {
	def := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	def(&l.MaxConns, min(defaultMaxConns, max(64, (maxFilesOpen()-reservedFiles)/2)))
	def(&l.MaxPending, defaultMaxPending)
	def(&l.PerSource, defaultPerSource)
	def(&l.PendingPerSource, defaultPendingPerSource)
	def(&l.PerPrincipal, defaultPerPrincipal)
	if l.Handshake <= 0 {
		l.Handshake = headerTimeout
		if remote {
			l.Handshake = remoteHeaderTimeout
		}
	}
	return l
}

// Meter counts. Its methods may be called concurrently and do not wait.
type Meter interface {
	// Connection is called once for each attempt: outcome is one of the Outcome
	// constants.
	Connection(via, outcome string)
	// AuthFailure is called for each credential that did not count.
	AuthFailure(reason string)
}

// What becomes of an attempt to connect.
const (
	OutcomeAccepted     = "accepted"
	OutcomeCrowded      = "crowded"       // there is no place left
	OutcomeTLS          = "tls"           // its TLS handshake failed
	OutcomeSilent       = "silent"        // it ended without a request
	OutcomePage         = "origin"        // a web page
	OutcomeHost         = "host"          // a name this listener does not have
	OutcomeMalformed    = "malformed"     // no WebSocket handshake
	OutcomeStranger     = "stranger"      // a process of somebody else, or a confined one
	OutcomeUnauthorized = "unauthorized"  // 401
	OutcomeForbidden    = "forbidden"     // 403
	OutcomeLockedOut    = "locked_out"    // 429
	OutcomeBroken       = "auth_failed"   // the host could not find out
	OutcomeProbe        = "health_check"  // /readyz and /healthz
	OutcomeLent         = "network_lent"  // not a client, but its network
	OutcomePrincipal    = "per_principal" // one token has too many
)

type noMeter struct{}

func (noMeter) Connection(string, string) {}
func (noMeter) AuthFailure(string)        {}

func (o Options) withDefaults(remote bool) Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Crowd == nil {
		o.Crowd = NewCrowd()
	}
	if o.Meter == nil {
		o.Meter = noMeter{}
	}
	o.Limits = o.Limits.withDefaults(remote)
	return o
}

// AcceptFunc serves one client and returns when it is over; the stream is closed
// afterwards. For a resumable stream it is called once, with the remote of the
// first connection, and outlives that. via is "unix", "ws" or "wss". remote is for
// people and logs.
type AcceptFunc func(ctx context.Context, s rpc.Stream, p access.Principal, via, remote string)
