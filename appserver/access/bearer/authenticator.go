package bearer

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
)

const (
	lookEvery = 500 * time.Millisecond // at files, and at tokens that expire
	tidyEvery = time.Minute
	// tokenPrefix is what every access token begins with.
	tokenPrefix = "twl_"
)

// Authenticator is an [access.Authenticator]. Its methods may be called
// concurrently.
type Authenticator struct {
	cfg          Config
	capabilities []*capability
	sources      []*jwtSource
	proven       cache
	leases       leases
	lockout      lockout
	said         budget // refusals that are logged and recorded
}

var _ access.Authenticator = (*Authenticator)(nil)

// capability is one that can be compared.
type capability struct {
	Capability
	fixed ring     // of SHA256
	file  *watched // of File
}

func (c *capability) ring() ring {
	if c.file != nil {
		return c.file.ring()
	}
	return c.fixed
}

// New reads every file that c names, and refuses what does not work, in Codex's
// words where Codex has some. It does not use the network.
func New(c Config) (*Authenticator, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	a := &Authenticator{
		cfg: c, proven: cache{m: make(map[sum]*proven)}, leases: leases{m: make(map[sum]*lease)},
		lockout: lockout{Lockout: c.Lockout.withDefaults(), sources: make(map[netip.Prefix]*failures)},
		said:    budget{burst: 30, every: 2 * time.Second},
	}
	if len(c.Capability) > maxCredential || len(c.JWT) > maxCredential {
		return nil, problem("", fmt.Errorf("more than %d credentials of a kind", maxCredential))
	}
	names := map[string]bool{}
	for _, one := range c.Capability {
		err := named(names, "capability ", one.Name)
		if err == nil {
			err = a.addCapability(one)
		}
		if err != nil {
			return nil, problem(one.Name, err)
		}
	}
	client := newClient(c.CA)
	for _, one := range c.JWT {
		err := named(names, "jwt ", one.Name)
		var s *jwtSource
		if err == nil {
			s, err = newSource(one, client, c.Log, c.Now)
		}
		if err != nil {
			return nil, problem(one.Name, err)
		}
		a.sources = append(a.sources, s)
	}
	return a, nil
}

// named checks a name, which is the first word of a principal's ID.
func named(names map[string]bool, kind, name string) error {
	switch {
	case !config.ValidAuthName(name):
		return fmt.Errorf("%q is no name: letters, digits, and \"-\", \"_\", \".\", at most 64", config.OneLine(name))
	case names[kind+name]:
		return errors.New("there are two of that name")
	}
	names[kind+name] = true
	return nil
}

// problem leaves Codex's words alone, and names what of the file is meant.
func problem(name string, err error) error {
	p := &config.Problem{Err: err, Hints: []string{"docs/transports.md explains the credentials of a listener"}}
	if name != "" && name != ModeCapability && name != ModeSigned {
		p.Err, p.Exit = fmt.Errorf("app_server.auth: %s: %w", config.OneLine(name), err), config.ExitConfig
	}
	return p
}

func (a *Authenticator) addCapability(one Capability) error {
	if (one.File == "") == (one.SHA256 == "") {
		return errors.New("set one of file and sha256")
	}
	if one.Role == protocol.RoleNone {
		return errors.New("has no role")
	}
	c := &capability{Capability: one}
	if one.SHA256 != "" {
		d, ok := digest(one.SHA256)
		if !ok {
			return errors.New("sha256 must be a 64-character hex SHA-256 digest")
		}
		c.fixed = ring{{kind: kindCapability, print: d, gone: make(chan struct{})}}
	} else {
		c.file = &watched{path: one.File, secret: true, log: a.cfg.Log, parse: func(text string) (ring, error) {
			return ring{newKey(kindCapability, nil, []byte(text))}, nil
		}}
		if err := c.file.open(); err != nil {
			return err
		}
	}
	a.capabilities = append(a.capabilities, c)
	return nil
}

// Run reads changed files again, fetches key sets, and ends principals whose
// secret went away or whose token expired. It returns when ctx ends, and owns every
// goroutine there is. Without it files are what they were and no key set is there.
func (a *Authenticator) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range a.sources {
		if s.remote != nil {
			g.Go(func() error { s.remote.run(ctx); return nil })
		}
	}
	g.Go(func() error {
		look, tidy := time.NewTicker(lookEvery), time.NewTicker(tidyEvery)
		defer look.Stop()
		defer tidy.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-look.C:
				a.look()
			case <-tidy.C:
				a.tidy()
			}
		}
	})
	return g.Wait()
}

// tidy forgets what is of no use any more.
func (a *Authenticator) tidy() {
	a.proven.expire(a.cfg.Now().Unix())
	a.lockout.forget(a.cfg.Now())
}

// look is one look at everything that can come to an end.
func (a *Authenticator) look() {
	for _, c := range a.capabilities {
		if c.file != nil {
			c.file.look()
		}
	}
	for _, s := range a.sources {
		if s.file != nil {
			s.file.look()
		}
	}
	a.leases.sweep(a.cfg.Now().Unix())
}

// Authenticate is [access.Authenticator]. It records refusals itself, as many as are
// worth reading.
func (a *Authenticator) Authenticate(ctx context.Context, at access.Attempt) (access.Principal, error) {
	from, local := source(at.Source)
	text, ref := token(at.Authorization)
	if !local {
		// An access token cannot be guessed: who has one comes in from an address that
		// others behind it had locked out.
		if wait := a.lockout.locked(from, a.cfg.Now()); wait > 0 && (ref != nil || !a.unguessable(text)) {
			return access.Principal{}, a.refused(at, lockedOut(wait))
		}
	}
	if ref != nil {
		return access.Principal{}, a.refused(at, ref)
	}
	p, err := a.verify(ctx, text, at)
	if err == nil {
		return p, nil
	}
	if !errors.As(err, &ref) {
		return access.Principal{}, err
	}
	// Who proves to be somebody and may not come in does not guess.
	if ref.Who.ID == "" && ref.Status == http.StatusUnauthorized {
		if wait := a.lockout.locked(from, a.cfg.Now()); wait > 0 {
			if ref = lockedOut(wait); !local { // what comes meanwhile does not make it longer
				return access.Principal{}, a.refused(at, ref)
			}
		}
		a.failed(at, from, local)
	}
	return access.Principal{}, a.refused(at, ref)
}

// unguessable reports whether text is for the tokens of the host's own, whose
// secrets have 256 random bits.
func (a *Authenticator) unguessable(text string) bool {
	return a.cfg.Tokens != nil && strings.HasPrefix(text, tokenPrefix)
}

func lockedOut(wait time.Duration) *access.Refusal {
	return &access.Refusal{
		Status: http.StatusTooManyRequests, Body: sayLocked, RetryAfter: wait,
		Why: "locked out after too many failed attempts",
	}
}

// failed counts a wrong guess.
func (a *Authenticator) failed(at access.Attempt, from netip.Prefix, local bool) {
	lock, n := a.lockout.failed(from, local, a.cfg.Now())
	if lock == 0 {
		return
	}
	whence := "this machine"
	if !local {
		whence = from.String()
	}
	a.cfg.Log.Warn("a source is locked out", "source", whence, "failures", n, "for", lock, "via", at.Via)
	a.record("auth.lockout", access.Principal{}, slog.String("source", whence), slog.Int("failures", n), slog.String("for", lock.String()), slog.String("via", at.Via))
}

// refused tells the audit file, within bounds; the door has a log. That somebody was
// locked out was told when it began.
func (a *Authenticator) refused(at access.Attempt, ref *access.Refusal) error {
	if ref.Status == http.StatusTooManyRequests {
		return ref
	}
	dropped, ok := a.said.take(a.cfg.Now())
	if !ok {
		return ref
	}
	whence := "this machine"
	if at.Source.IsValid() {
		whence = at.Source.Unmap().String()
	}
	attrs := []slog.Attr{slog.String("source", whence), slog.String("via", at.Via), slog.Int("status", ref.Status), slog.String("why", ref.Error())}
	if dropped > 0 {
		attrs = append(attrs, slog.Int("unsaid", dropped))
	}
	a.record("auth.refused", ref.Who, attrs...)
	return ref
}

func (a *Authenticator) record(event string, p access.Principal, attrs ...slog.Attr) {
	if a.cfg.Audit != nil {
		a.cfg.Audit.Record(event, p, attrs...)
	}
}

// verify finds out what a credential is, and whose.
func (a *Authenticator) verify(ctx context.Context, text string, at access.Attempt) (access.Principal, error) {
	none := sayToken
	if len(a.capabilities) == 0 && len(a.sources) > 0 {
		none = sayJWT // where signed tokens were asked for, that is said of whatever comes
	}
	if len(text) > maxToken {
		return access.Principal{}, refuse(none, fmt.Sprintf("the token has %d bytes", len(text)))
	}
	id := sum(sha256.Sum256([]byte(text)))
	if p, ok := a.isCapability(id); ok {
		return p, nil
	}
	if a.unguessable(text) {
		return a.cfg.Tokens.Verify(ctx, text, at.Source)
	}
	if len(a.sources) > 0 && looksSigned(text) {
		return a.isSigned(ctx, text, id)
	}
	return access.Principal{}, refuse(none, "the token is none that is known here")
}

// isCapability compares with every one of them, however early one fits.
func (a *Authenticator) isCapability(id sum) (p access.Principal, ok bool) {
	for _, c := range a.capabilities {
		for _, k := range c.ring() {
			if subtle.ConstantTimeCompare(k.print[:], id[:]) == 1 && !ok {
				p, ok = access.Principal{
					Kind: access.KindToken, ID: "capability " + c.Name, Name: c.Name,
					Role: c.Role, Scope: c.Scope, Lapsed: k.gone,
				}, true
			}
		}
	}
	return p, ok
}

// isSigned asks every source in turn, unless the token is known to be good.
func (a *Authenticator) isSigned(ctx context.Context, text string, id sum) (access.Principal, error) {
	now := a.cfg.Now().Unix()
	if p := a.proven.get(id); p != nil && p.src.usable() {
		if ref := p.claims.inTime(now, p.src.skew); ref != nil {
			ref.Why, ref.Who = p.src.Name+": "+ref.Why, access.Principal{Kind: p.principal.Kind, ID: p.principal.ID, Name: p.principal.Name}
			return access.Principal{}, ref
		}
		return a.admitted(p, id)
	}
	var worst error
	best := -1
	for _, s := range a.sources {
		p, far, err := s.verify(ctx, text, now)
		if err == nil {
			a.proven.put(id, p)
			return a.admitted(p, id)
		}
		if far > best {
			best, worst = far, err
		}
	}
	return access.Principal{}, worst
}

// admitted gives a proven principal its end.
func (a *Authenticator) admitted(p *proven, id sum) (access.Principal, error) {
	who := p.principal
	// An issuer takes keys away as a matter of routine; the owner of a file means it.
	held := p.key
	if p.src.remote != nil {
		held = nil
	}
	switch {
	case p.src.EndAtExpiry:
		end, err := a.leases.take(id, plus(p.claims.exp, p.src.skew), held)
		if err != nil {
			return access.Principal{}, err
		}
		who.Lapsed = end
	case held != nil:
		who.Lapsed = held.gone
	}
	return who, nil
}
