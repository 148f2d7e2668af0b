package bearer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"towline/config"
)

// How often an issuer is asked.
const (
	refreshEvery    = 10 * time.Minute // to see keys that come and go
	rediscoverEvery = time.Hour        // to see its keys move
	refetchEvery    = 10 * time.Second // at most, for keys nobody has heard of
	firstRetry      = 2 * time.Second  // doubled by each failure, up to lastRetry
	lastRetry       = 5 * time.Minute
	defaultMaxStale = 24 * time.Hour
	maxWaiting      = 64 // strangers who wait for one fetch
)

var (
	errUnknownKey = errors.New("its key is not among its issuer's")
	errNoKeysYet  = errors.New("the keys of its issuer cannot be fetched")
)

// remote is a key set at an address, or at one that an issuer names. All fetching
// is done by run; whoever needs a key that is not there asks for a fetch and waits
// for its end. Strangers can make it fetch once in refetchEvery and no more often,
// and have no part in the address.
type remote struct {
	name   string
	issuer string   // found by discovery; empty: at is fixed
	hosts  []string // of jwks_uri, besides the issuer's own
	client *http.Client
	log    *slog.Logger
	now    func() time.Time
	// maxStale is how long keys count that could not be fetched again.
	maxStale time.Duration

	kick chan struct{} // capacity 1: fetch now

	mu       sync.Mutex // guards what follows
	at       *url.URL
	foundAt  time.Time
	keys     ring
	got      time.Time // when the keys were
	tried    time.Time // when a fetch last began
	fetching bool
	waiting  int
	done     chan struct{} // closed when a fetch has ended; then there is a new one
}

func newRemote(j *JWT, client *http.Client, log *slog.Logger, now func() time.Time) (*remote, error) {
	r := &remote{
		name: j.Name, issuer: j.Issuer, hosts: j.JWKSHosts, client: client, log: log.With("jwt", j.Name), now: now,
		maxStale: j.MaxStale, kick: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if r.maxStale <= 0 {
		r.maxStale = defaultMaxStale
	}
	for _, h := range j.JWKSHosts {
		if !hostname(h) {
			return nil, fmt.Errorf("jwks_hosts: %q is no host", config.OneLine(h))
		}
	}
	if j.Issuer != "" {
		u, err := address(j.Issuer)
		if err == nil && (u.RawQuery != "" || u.ForceQuery) {
			err = errors.New("an issuer has no query")
		}
		return r, err
	}
	var err error
	r.at, err = address(j.JWKSURL)
	return r, err
}

// find gives the keys for a token; see ring.find. With ask, a key it does not know
// makes it look again, because issuers change keys.
func (r *remote) find(ctx context.Context, kid, alg string, ask bool) ([]*key, error) {
	r.mu.Lock()
	keys, err := r.lookup(kid, alg)
	if err == nil || !ask || !r.ask() {
		r.mu.Unlock()
		return keys, err
	}
	r.waiting++
	done := r.done
	r.mu.Unlock()

	t := time.NewTimer(2 * fetchTimeout)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting--
	return r.lookup(kid, alg)
}

// lookup is under mu.
func (r *remote) lookup(kid, alg string) ([]*key, error) {
	if !r.fresh() {
		return nil, errNoKeysYet
	}
	if keys := r.keys.find(kid, alg); len(keys) > 0 {
		return keys, nil
	}
	return nil, errUnknownKey
}

// fresh is under mu.
func (r *remote) fresh() bool { return !r.got.IsZero() && r.now().Sub(r.got) <= r.maxStale }

// usable reports whether the keys still count.
func (r *remote) usable() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fresh()
}

// ask sees to it that a fetch is under way, if one may be. It is under mu.
func (r *remote) ask() bool {
	if r.waiting >= maxWaiting {
		return false
	}
	if !r.fetching {
		if since := r.now().Sub(r.tried); !r.tried.IsZero() && since >= 0 && since < refetchEvery {
			return false
		}
		select {
		case r.kick <- struct{}{}:
		default: // asked for already
		}
	}
	return true
}

// run fetches now, then now and again, and when it is asked to, until ctx ends.
func (r *remote) run(ctx context.Context) {
	retry := firstRetry
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.kick:
		case <-t.C:
		}
		wait := refreshEvery
		if err := r.fetch(ctx); ctx.Err() != nil {
			return
		} else if err != nil {
			wait, retry = retry, min(2*retry, lastRetry)
			r.log.Warn("an issuer's keys could not be fetched", "err", config.OneLine(err.Error()), "retry", wait, "usable", r.usable())
		} else {
			retry = firstRetry
		}
		t.Reset(wait - time.Duration(rand.Int64N(int64(wait)/4+1))) //nolint:gosec // spreads load, keeps no secret
	}
}

func (r *remote) fetch(ctx context.Context) error {
	r.mu.Lock()
	select {
	case <-r.kick: // this is the fetch it asks for
	default:
	}
	r.fetching, r.tried = true, r.now()
	at := r.at
	if age := r.tried.Sub(r.foundAt); r.issuer != "" && (age < 0 || age > rediscoverEvery) {
		at = nil
	}
	r.mu.Unlock()

	next, where, err := r.download(ctx, at)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.fetching = false
	close(r.done)
	r.done = make(chan struct{})
	if err != nil {
		if r.issuer != "" {
			r.foundAt = time.Time{} // it may have moved
		}
		return err
	}
	if at == nil {
		r.foundAt = r.tried
	}
	before := len(r.keys)
	r.at, r.got, r.keys = where, r.now(), r.keys.replace(next)
	if before == 0 {
		r.log.Info("the keys of an issuer were fetched", "host", where.Host, "keys", len(next))
	}
	return nil
}

// download asks for the keys at an address, or where the issuer says they are.
func (r *remote) download(ctx context.Context, at *url.URL) (ring, *url.URL, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if at == nil {
		var err error
		if at, err = discover(ctx, r.client, r.issuer, r.hosts); err != nil {
			return nil, nil, err
		}
	}
	raw, err := get(ctx, r.client, at)
	if err != nil {
		return nil, nil, err
	}
	keys, err := jsonKeys(raw, true)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: what it answers %w", at.Host, err)
	}
	return keys, at, nil
}
