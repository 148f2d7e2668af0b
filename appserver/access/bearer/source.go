package bearer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
)

// jwtSource verifies the tokens of one JWT of the configuration.
type jwtSource struct {
	JWT
	skew    int64           // seconds
	issuers []string        // what iss may be
	allowed map[string]bool // algorithms
	file    *watched        // one of the two
	remote  *remote
}

// newSource checks j and reads its file.
func newSource(j JWT, client *http.Client, log *slog.Logger, now func() time.Time) (*jwtSource, error) {
	s := &jwtSource{JWT: j, skew: int64(j.Skew / time.Second), issuers: j.Issuers}
	if err := s.check(); err != nil {
		return nil, err
	}
	var err error
	switch {
	case j.SecretFile != "":
		s.file = &watched{path: j.SecretFile, secret: true, log: log, parse: func(text string) (ring, error) {
			r, err := secretKey(text)
			if err != nil {
				err = fmt.Errorf("signed websocket bearer secret %s %w", j.SecretFile, err)
			}
			return r, err
		}}
		err = s.file.open()
	case j.KeyFile != "":
		s.file = &watched{path: j.KeyFile, log: log, parse: func(text string) (ring, error) {
			r, err := publicKeys([]byte(text))
			if err == nil && !slices.ContainsFunc(r, s.canUse) {
				err = errors.New("holds no key for the algorithms that are allowed")
			}
			if err != nil {
				err = fmt.Errorf("%s %w", j.KeyFile, err)
			}
			return r, err
		}}
		err = s.file.open()
	default:
		if j.Issuer != "" {
			s.issuers = []string{j.Issuer}
		}
		s.remote, err = newRemote(&s.JWT, client, log, now)
	}
	return s, err
}

// check refuses what cannot work or was not meant.
func (s *jwtSource) check() error {
	n := 0
	for _, v := range []string{s.SecretFile, s.KeyFile, s.JWKSURL, s.Issuer} {
		if v != "" {
			n++
		}
	}
	switch {
	case n != 1:
		return errors.New("set one of secret_file, key_file, jwks_url and issuer")
	case s.Codex && s.SecretFile == "":
		return errors.New("only a shared secret is verified as Codex does")
	case s.Issuer != "" && len(s.Issuers) > 0:
		return errors.New("issuers does not go with issuer: only its own tokens count")
	case (s.Issuer != "" || s.JWKSURL != "") && len(s.Audience) == 0:
		return errors.New("needs an audience: without one, tokens that its issuer made for anybody else count here")
	case s.Skew < 0 || !s.Codex && s.Skew > 10*time.Minute:
		return errors.New("skew is not between nothing and ten minutes")
	case len(s.Rules) > maxRules:
		return fmt.Errorf("has more than %d rules", maxRules)
	case len(s.Rules) == 0 && s.Role == protocol.RoleNone:
		return errors.New("has neither a role nor rules")
	}
	if err := checkTemplate(s.NameTemplate); err != nil {
		return err
	}
	for i := range s.Rules {
		r := &s.Rules[i]
		err := r.validate()
		if err == nil && r.Role == protocol.RoleNone {
			err = errors.New("has no role")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.label(i), err)
		}
	}
	s.allowed = make(map[string]bool)
	for _, a := range s.Algorithms {
		known, ok := algorithms[a]
		if !ok || s.SecretFile != "" != (known.kind == kindHMAC) {
			return fmt.Errorf("algorithms: %q is not one for this kind of key", config.OneLine(a))
		}
		s.allowed[a] = true
	}
	if len(s.Algorithms) == 0 {
		for a, known := range algorithms {
			// Of a shared secret only what Codex takes, unless more was asked for.
			s.allowed[a] = s.SecretFile == "" && known.kind != kindHMAC || s.SecretFile != "" && a == "HS256"
		}
	}
	return nil
}

func (s *jwtSource) canUse(k *key) bool {
	for a, ok := range s.allowed {
		if ok && k.fits(a) {
			return true
		}
	}
	return false
}

// usable reports whether keys found earlier still count.
func (s *jwtSource) usable() bool { return s.remote == nil || s.remote.usable() }

// How far a token got, to say the most telling thing about one that several
// sources refuse.
const (
	farNot     = iota // not one of this source's
	farKey            // no such key
	farSig            // the signature is wrong
	farClaimed        // it claims to be from this very issuer
	farProven         // it is genuine
)

// verify says what a token proves; err is a *access.Refusal, or that it cannot be
// told now.
func (s *jwtSource) verify(ctx context.Context, text string, now int64) (p *proven, far int, err error) {
	bad := func(why string) *access.Refusal { return refuse(sayJWT, s.Name+": "+why) }
	t, err := parseJWS(text, s.Codex)
	if err != nil {
		return nil, farNot, bad(err.Error())
	}
	if !s.allowed[t.header.alg] {
		return nil, farNot, bad("it is signed by an algorithm that is not allowed")
	}
	keys, err := s.keys(ctx, &t, now)
	at := func(far int) int { return far }
	if s.remote != nil && len(s.issuers) > 0 {
		at = func(far int) int { return max(far, farClaimed) }
	}
	switch {
	case errors.Is(err, errForeign):
		return nil, farNot, bad(err.Error())
	case errors.Is(err, errNoKeysYet):
		return nil, farClaimed, fmt.Errorf("%s: %w", s.Name, err)
	case err != nil:
		return nil, at(farKey), bad(err.Error())
	case len(keys) > maxTries:
		return nil, at(farKey), bad("it does not say which of many keys it is signed by")
	}
	i := slices.IndexFunc(keys, func(k *key) bool { return k.verifies(t.header.alg, t.signed, t.sig) })
	if i < 0 {
		return nil, at(farSig), bad("its signature is wrong")
	}
	p, ref := s.admit(t.payload, now)
	if ref != nil {
		ref.Why = s.Name + ": " + ref.Why
		return nil, farProven, ref
	}
	p.key = keys[i]
	return p, farProven, nil
}

var errForeign = errors.New("it was made by another issuer")

// keys are those a token may be signed by. An issuer is asked for keys only on
// account of a token that claims to be its own, in time and for here; whether that
// is true is found afterwards.
func (s *jwtSource) keys(ctx context.Context, t *jws, now int64) ([]*key, error) {
	if s.remote == nil {
		keys := s.file.ring().find(t.header.kid, t.header.alg)
		if len(keys) == 0 {
			return nil, errors.New("there is no key for it")
		}
		return keys, nil
	}
	c, err := strictClaims(t.payload)
	if err != nil {
		return nil, err
	}
	if c.isFor(s.issuers, nil) != nil {
		return nil, errForeign
	}
	ask := c.inTime(now, s.skew) == nil && c.isFor(nil, s.Audience) == nil
	return s.remote.find(ctx, t.header.kid, t.header.alg, ask)
}

// admit looks at the claims of a token whose signature is right.
func (s *jwtSource) admit(payload []byte, now int64) (*proven, *access.Refusal) {
	read := strictClaims
	if s.Codex {
		read = codexClaims
	}
	c, err := read(payload)
	if err != nil {
		return nil, refuse(sayJWT, err.Error())
	}
	who, err := s.principal(&c)
	if err != nil {
		return nil, refuse(sayJWT, err.Error())
	}
	ref := c.inTime(now, s.skew)
	if ref == nil {
		ref = c.isFor(s.issuers, s.Audience)
	}
	if ref == nil && len(s.Rules) > 0 {
		rule, why := decide(s.Rules, &c)
		if rule == nil {
			ref = &access.Refusal{Status: http.StatusForbidden, Body: sayNoRule, Why: "no rule holds: " + why}
		} else {
			who.Role, who.Scope = rule.Role, rule.Scope
			if rule.NameTemplate != "" {
				who.Name = expand(rule.NameTemplate, &c)
			}
		}
	}
	if ref != nil {
		ref.Who = access.Principal{Kind: who.Kind, ID: who.ID, Name: who.Name}
		return nil, ref
	}
	c.all, c.aud = nil, nil // what is remembered is what is needed
	return &proven{src: s, claims: c, principal: who}, nil
}

// principal is who the claims name. The ID is the source and the subject, with the
// issuer between them where there may be several.
func (s *jwtSource) principal(c *claims) (access.Principal, error) {
	p := access.Principal{Kind: access.KindJWT, ID: s.Name, Name: s.Name, Role: s.Role, Scope: s.Scope}
	sub := ""
	if c.sub != nil {
		sub = word(*c.sub)
	}
	if s.remote != nil && sub == "" {
		return p, errors.New("it names nobody (it has no sub)")
	}
	if len(s.issuers) != 1 && c.iss != nil && *c.iss != "" {
		p.ID += " " + strings.ReplaceAll(word(*c.iss), " ", "%20")
	}
	if sub != "" {
		p.ID += " " + sub
		p.Name = cut(s.Name+": "+sub, maxName)
	}
	if s.NameTemplate != "" {
		p.Name = expand(s.NameTemplate, c)
	}
	return p, nil
}

// word makes a part of an ID of a claim: the claim itself, or its hash where it is
// long or does not print.
func word(s string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	if len(s) <= maxSubject && !strings.ContainsFunc(s, odd) && !strings.HasPrefix(s, "sha256:") {
		return s
	}
	h := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(h[:])
}
