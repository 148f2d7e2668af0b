// Package lend lets a host work with a login that stays on this machine. The
// host's app-server gets access tokens, which are short-lived, over the
// connection, holds them in memory, and loses them when this machine leaves; the
// refresh token never leaves here, so there is one holder of it.
//
// With a Towline host the lender is a connection of its own beside the UI's
// ([Open]): it outlives cut links, and the daemon drops what was lent when it is
// over. A stock Codex does not drop anything by itself, and does not know who may
// answer for a token; there the lender shares the one stream there is with its
// client ([Beside]), to a process that ends with it.
//
// What the host is told is Codex's own: account/login/start with
// chatgptAuthTokens, and the answers to account/chatgptAuthTokens/refresh.
package lend

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"towline/appserver/rpc"
)

// Stage is that of this package's problems.
const Stage = "lend"

// Grace is how long a host whose link is lost may go on with what was lent.
const Grace = 15 * time.Minute

// Times and limits.
const (
	callTimeout = 30 * time.Second
	// loginTimeout is for a host that asks the backend whose the token is.
	loginTimeout = 60 * time.Second
	// goodbyeTime bounds taking back what was lent; the link may be gone.
	goodbyeTime = 5 * time.Second
	// early is how long before a token ends the host gets the next.
	early = 2 * time.Minute
	// Pauses between attempts to lend anew after a connection was lost for good.
	againFirst, againMost = time.Second, time.Minute
)

// Tokens are what is lent. They redact themselves.
type Tokens struct {
	AccessToken string
	AccountID   string
	Plan        string    // may be empty
	Account     string    // for people: an email; may be empty
	Expires     time.Time // zero when unknown
}

// String hides the token.
func (t Tokens) String() string { return "[redacted tokens of " + t.AccountID + "]" }

// GoString hides the token.
func (t Tokens) GoString() string { return t.String() }

// LogValue hides the token.
func (t Tokens) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText hides the token, in JSON as well.
func (t Tokens) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Source is this machine's login.
type Source interface {
	// Token is what may be lent now.
	Token(ctx context.Context) (Tokens, error)
	// Refresh gives tokens in place of rejected, which a server has refused: newer
	// ones if there are any already, else refreshed ones.
	Refresh(ctx context.Context, rejected Tokens) (Tokens, error)
	// Changed is closed when the login changes; ask again for the next time.
	Changed() <-chan struct{}
}

// Config is what a lender needs. Host, Source and, for Open, Dial are required.
type Config struct {
	Host   string // as the person types it
	Source Source
	// Dial opens a stream to the host's app-server: one that outlives cut links.
	Dial    func(ctx context.Context) (rpc.Stream, error)
	Version string
	// Events hears how the loan is, from any goroutine; it must not block. May be nil.
	Events func(State)
	Log    *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Events == nil {
		c.Events = func(State) {}
	}
	return c
}

// State is how a loan is.
type State struct {
	Lent    bool
	Account string // whose login, for people
	// Err is why nothing is lent, or why the last refresh failed.
	Err error
}

// Loan is a login lent to one host, until Close.
type Loan struct {
	cfg  Config
	desk *desk

	// What sees to the loan ends before the conversation does, over which what was
	// lent is taken back.
	stopKeeping, stopTalking context.CancelCauseFunc
	keeping, talking         sync.WaitGroup
	once                     sync.Once

	talk *talk // the newest conversation; written by Open and keep, read when that has ended
}

// Open lends to a host and returns once it works with what was lent. It goes on
// until Close: the host gets new tokens when it needs them, and when a connection
// is lost for good another is made. ctx bounds the opening only. Errors are
// *config.Problem with stage "lend", or Dial's.
func Open(ctx context.Context, cfg Config) (*Loan, error) {
	cfg = cfg.withDefaults()
	l := &Loan{cfg: cfg, desk: newDesk(cfg)}
	// A loan is a lifetime: ctx is only the opening's.
	life := context.WithoutCancel(ctx)
	talking, stopTalking := context.WithCancelCause(life)
	keeping, stopKeeping := context.WithCancelCause(life)
	l.stopTalking, l.stopKeeping = stopTalking, stopKeeping
	if err := l.begin(ctx, talking); err != nil {
		_ = l.Close()
		return nil, err
	}
	l.keeping.Go(func() { l.keep(keeping, talking) })
	return l, nil
}

// State is how the loan is now.
func (l *Loan) State() State { return l.desk.now() }

// begin connects and lends. ctx bounds that, life the conversation.
func (l *Loan) begin(ctx, life context.Context) error {
	// What cannot be lent is known before the host is asked anything.
	tokens, err := l.desk.token(ctx)
	if err != nil {
		return err
	}
	s, err := l.cfg.Dial(ctx)
	if err != nil {
		return err
	}
	t := newTalk(l.desk, s)
	l.talk = t
	l.talking.Go(func() { t.serve(life) })
	if err = t.hello(ctx); err == nil {
		err = t.lend(ctx, tokens)
	}
	if err != nil {
		t.leave()
		<-t.over
	}
	return err
}

// keep sees to it that the host has what it was promised.
func (l *Loan) keep(ctx, life context.Context) {
	for {
		l.talk.keep(ctx)
		if ctx.Err() != nil {
			return
		}
		l.desk.set(State{Account: l.desk.now().Account, Err: problem(l.cfg.Host, errors.New("the connection that lends is lost; it is made anew"))})
		for pause := againFirst; ; pause = min(2*pause, againMost) {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			opening, cancel := context.WithTimeout(ctx, 2*loginTimeout)
			err := l.begin(opening, life)
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return
			}
			l.cfg.Log.Info("lending anew", "err", err)
			l.desk.set(State{Account: l.desk.now().Account, Err: err})
		}
	}
}

// Close takes back what was lent, as far as the host can be told, and ends the
// connection. It is idempotent.
func (l *Loan) Close() error {
	l.once.Do(func() {
		l.stopKeeping(errClosed)
		l.keeping.Wait()
		if l.talk != nil {
			l.talk.leave()
		}
		l.stopTalking(errClosed)
		l.talking.Wait()
	})
	return nil
}

var errClosed = errors.New("the loan is over")
