package managed

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"towline/config"
)

// tokenTable is [tokens] of a requirements.toml: what access tokens there may be.
type tokenTable struct {
	// Allow, when false, has no token count and none be made.
	Allow *bool `toml:"allow"`
	// Creators are who may make and rotate them, in words: "role:admin",
	// "user:NAME" or "user:UID" for people at this machine, "key:SHA256:…" for an
	// SSH key. One that fits is enough.
	Creators *[]string `toml:"creators"`
	// MaxLifetime is how long one may count at most, and RotateEvery how long one
	// of its secrets may: "30d", "12h".
	MaxLifetime string `toml:"max_lifetime"`
	RotateEvery string `toml:"rotate_every"`
	// Roles are those one may have.
	Roles *[]string `toml:"allowed_roles"`
	// Networks are addresses and prefixes one may be used from.
	Networks *[]string `toml:"allowed_networks"`
	// Scopes are those one must be within: "all", "exec", "threads", "project" or
	// "project:DIR". One that fits is enough.
	Scopes *[]string `toml:"allowed_scopes"`
}

// tokenRules is a tokenTable that was read. A token must satisfy those of every
// file, so the strictest counts, and what refuses it can be named.
type tokenRules struct {
	from        string
	table       tokenTable // for showing
	maxLifetime time.Duration
	rotateEvery time.Duration
	networks    []netip.Prefix
}

// tokenRoles are the roles, least first.
var tokenRoles = []string{"observer", "approver", "operator", "admin"}

// addTokens reads one file's table.
func (p *Policy) addTokens(path string, t tokenTable) error {
	if t == (tokenTable{}) {
		return nil
	}
	r := tokenRules{from: path, table: t}
	var errs []error
	span := func(key, text string, into *time.Duration) {
		if text == "" {
			return
		}
		d, err := config.ParseSpan(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("tokens.%s: %w", key, err))
		}
		*into = d
	}
	span("max_lifetime", t.MaxLifetime, &r.maxLifetime)
	span("rotate_every", t.RotateEvery, &r.rotateEvery)
	each := func(key string, list *[]string, check func(string) error) {
		for _, v := range deref(list) {
			if err := check(v); err != nil {
				errs = append(errs, fmt.Errorf("tokens.%s: %w", key, err))
			}
		}
	}
	each("allowed_roles", t.Roles, isTokenRole)
	each("creators", t.Creators, func(w string) error {
		kind, name, _ := strings.Cut(w, ":")
		switch {
		case kind == "role":
			return isTokenRole(name)
		case (kind == "user" || kind == "key") && name != "":
			return nil
		}
		return fmt.Errorf("%q is none of role:ROLE, user:NAME, user:UID, key:SHA256:…", config.OneLine(w))
	})
	each("allowed_scopes", t.Scopes, func(w string) error {
		switch dir, isDir := strings.CutPrefix(w, "project:"); {
		case w == "all", w == "exec", w == "threads", w == "project", isDir && filepath.IsAbs(dir):
			return nil
		}
		return fmt.Errorf("%q is none of all, exec, threads, project, project:DIR (an absolute folder)", config.OneLine(w))
	})
	each("allowed_networks", t.Networks, func(w string) error {
		n, err := ParseNetwork(w)
		r.networks = append(r.networks, n)
		return err
	})
	p.tokens = append(p.tokens, r)
	return errors.Join(errs...)
}

func isTokenRole(s string) error {
	if !slices.Contains(tokenRoles, s) {
		return fmt.Errorf("%q is none of %s", config.OneLine(s), strings.Join(tokenRoles, ", "))
	}
	return nil
}

func deref(list *[]string) []string {
	if list == nil {
		return nil
	}
	return *list
}

// ParseNetwork reads a prefix, "10.0.0.0/8", or an address, which is one of its own.
func ParseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	n, err := netip.ParsePrefix(s)
	switch {
	case err != nil || n.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network like 10.0.0.0/8", config.OneLine(s))
	case n != n.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has bits beyond its length: the network is %s", n, n.Masked())
	}
	return n, nil
}

// TokenCreator is who wants to make or rotate a token.
type TokenCreator struct {
	Kind string // "local", "key", …
	ID   string // "uid:1000", "SHA256:…"
	Name string
	Role string
}

// fits says whether a word of creators means c.
func (c TokenCreator) fits(word string) bool {
	kind, name, _ := strings.Cut(word, ":")
	switch kind {
	case "role":
		return slices.Index(tokenRoles, c.Role) >= slices.Index(tokenRoles, name)
	case "user": // a name counts only where the machine itself says whose it is
		return c.Kind == "local" && (c.ID == "uid:"+name || c.Name == name)
	case "key":
		return c.Kind == "key" && c.ID == name
	}
	return false
}

// TokenFacts are what a policy looks at in a token.
type TokenFacts struct {
	Role string
	// Its scope: All, or what it is narrowed to.
	All, Exec, Threads bool
	Projects           []string // absolute and clean
}

// within says whether the scope is at most as wide as words allow.
func (f TokenFacts) within(words []string) bool {
	has := func(w string) bool { return slices.Contains(words, w) }
	switch {
	case has("all"), f.Exec && has("exec"):
		return true
	case f.All || !f.Threads && len(f.Projects) == 0:
		return false
	}
	return (!f.Threads || has("threads")) && !slices.ContainsFunc(f.Projects, func(dir string) bool {
		return !has("project") && !slices.ContainsFunc(words, func(w string) bool {
			root, ok := strings.CutPrefix(w, "project:")
			if !ok {
				return false
			}
			rel, err := filepath.Rel(root, dir)
			return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
		})
	})
}

// refuseToken is a refusal that names the rule and the file.
func (r tokenRules) refuse(key, format string, args ...any) error {
	return &config.Problem{
		Stage: stagePolicy, Err: fmt.Errorf("tokens.%s: %s (set by %s)", key, fmt.Sprintf(format, args...), r.from),
		Hints: []string{"see what is allowed here: `towline token policy`"}, Exit: config.ExitDenied,
	}
}

// eachToken is the first refusal of the files' rules. Errors are *config.Problem,
// here and in what follows.
func (p Policy) eachToken(check func(r tokenRules) error) error {
	if p.broken != nil {
		return p.broken
	}
	for _, r := range p.tokens {
		if err := check(r); err != nil {
			return err
		}
	}
	return nil
}

// CheckTokens says whether there may be access tokens at all.
func (p Policy) CheckTokens() error {
	return p.eachToken(func(r tokenRules) error {
		if r.table.Allow != nil && !*r.table.Allow {
			return r.refuse("allow", "access tokens are not allowed on this machine")
		}
		return nil
	})
}

// CheckTokenCreator says whether c may make and rotate tokens.
func (p Policy) CheckTokenCreator(c TokenCreator) error {
	return p.eachToken(func(r tokenRules) error {
		if list := r.table.Creators; list != nil && !slices.ContainsFunc(*list, c.fits) {
			return r.refuse("creators", "%s (%s) may not make access tokens on this machine, only %s",
				config.OneLine(c.Name), c.Role, cmp.Or(strings.Join(*list, ", "), "nobody"))
		}
		return nil
	})
}

// CheckToken says whether a token may have its role and scope.
func (p Policy) CheckToken(f TokenFacts) error {
	return p.eachToken(func(r tokenRules) error {
		if list := r.table.Roles; list != nil && !slices.Contains(*list, f.Role) {
			return r.refuse("allowed_roles", "an access token may not have the role %q on this machine, only %s",
				f.Role, cmp.Or(strings.Join(*list, ", "), "none"))
		}
		if list := r.table.Scopes; list != nil && !f.within(*list) {
			return r.refuse("allowed_scopes", "the scope of an access token must be within %s on this machine",
				cmp.Or(strings.Join(*list, ", "), "nothing"))
		}
		return nil
	})
}

// CheckTokenNetworks says whether a new token may be bound to these networks. None
// is no mistake: where it comes from is looked at whenever it is used.
func (p Policy) CheckTokenNetworks(networks []netip.Prefix) error {
	return p.eachToken(func(r tokenRules) error {
		for _, n := range networks {
			if r.table.Networks != nil && !slices.ContainsFunc(r.networks, func(in netip.Prefix) bool {
				return in.Bits() <= n.Bits() && in.Contains(n.Addr())
			}) {
				return r.refuse("allowed_networks", "access tokens may not be used from %s, only from %s", n, r.listNetworks())
			}
		}
		return nil
	})
}

// CheckTokenSource says whether a token may be used from src.
func (p Policy) CheckTokenSource(src netip.Addr) error {
	return p.eachToken(func(r tokenRules) error {
		if r.table.Networks != nil && !slices.ContainsFunc(r.networks, func(in netip.Prefix) bool { return in.Contains(src) }) {
			return r.refuse("allowed_networks", "access tokens may not be used from %s, only from %s", src, r.listNetworks())
		}
		return nil
	})
}

func (r tokenRules) listNetworks() string {
	return cmp.Or(strings.Join(deref(r.table.Networks), ", "), "nowhere")
}

// CheckTokenLifetime says whether a token may be made that counts for d; 0 is for
// ever.
func (p Policy) CheckTokenLifetime(d time.Duration) error {
	return p.eachToken(func(r tokenRules) error {
		if most := r.maxLifetime; most > 0 && (d == 0 || d > most) {
			asked := "for ever"
			if d > 0 {
				asked = "for " + config.Span(d)
			}
			return r.refuse("max_lifetime", "an access token may count for %s at most on this machine, not %s", config.Span(most), asked)
		}
		return nil
	})
}

// TokenLifetime is the longest lifetime there may be, 0 when there is no limit.
func (p Policy) TokenLifetime() time.Duration {
	return p.shortest(func(r tokenRules) time.Duration { return r.maxLifetime })
}

// TokenRotation is how long a secret may count, 0 when there is no limit.
func (p Policy) TokenRotation() time.Duration {
	return p.shortest(func(r tokenRules) time.Duration { return r.rotateEvery })
}

func (p Policy) shortest(of func(tokenRules) time.Duration) (least time.Duration) {
	for _, r := range p.tokens {
		if d := of(r); d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

// TokenUntil is until when a token counts that was issued, and a secret of it made,
// at those times: zero when no rule ends it. When it is past, so says the error.
func (p Policy) TokenUntil(issued, secret, now time.Time) (until time.Time, err error) {
	err = p.eachToken(func(r tokenRules) error {
		if r.maxLifetime > 0 {
			if end := issued.Add(r.maxLifetime); !now.Before(end) {
				return r.refuse("max_lifetime", "an access token may count for %s at most on this machine; make a new one", config.Span(r.maxLifetime))
			} else if until.IsZero() || end.Before(until) {
				until = end
			}
		}
		if r.rotateEvery > 0 {
			if end := secret.Add(r.rotateEvery); !now.Before(end) {
				return r.refuse("rotate_every", "the secret of an access token must be rotated every %s on this machine", config.Span(r.rotateEvery))
			} else if until.IsZero() || end.Before(until) {
				until = end
			}
		}
		return nil
	})
	return until, err
}

// tokenLines lists the rules for showing.
func (p Policy) tokenLines() (out []Line) {
	for _, r := range p.tokens {
		add := func(key, value string) { out = append(out, Line{"tokens." + key, value, r.from}) }
		if v := r.table.Allow; v != nil {
			add("allow", strconv.FormatBool(*v))
		}
		for _, l := range []struct {
			key  string
			list *[]string
		}{
			{"creators", r.table.Creators},
			{"allowed_roles", r.table.Roles},
			{"allowed_networks", r.table.Networks},
			{"allowed_scopes", r.table.Scopes},
		} {
			if l.list != nil {
				add(l.key, quotedList(*l.list))
			}
		}
		if r.maxLifetime > 0 {
			add("max_lifetime", strconv.Quote(r.table.MaxLifetime))
		}
		if r.rotateEvery > 0 {
			add("rotate_every", strconv.Quote(r.table.RotateEvery))
		}
	}
	return out
}

// TokenLines lists the rules about access tokens for showing.
func (p Policy) TokenLines() []Line { return append([]Line{}, p.tokenLines()...) }

func quotedList(list []string) string {
	quoted := make([]string, len(list))
	for i, v := range list {
		quoted[i] = strconv.Quote(v)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
