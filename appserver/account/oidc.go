package account

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"towline/config"
)

// leeway is how wrong a clock may be, this machine's or the issuer's.
const leeway = 60 * time.Second

// algorithms an id token may be signed with. No shared secrets, and never none.
var algorithms = []string{"RS256", "ES256", "EdDSA"}

// checkIDToken validates an id token by OpenID Connect Core section 3.1.3.7. nonce
// is empty for the device grant, which has none.
func (m *Manager) checkIDToken(ctx context.Context, e endpoints, token, nonce string) error {
	claims, err := m.verify(ctx, e.jwks, token,
		jwt.WithIssuer(e.issuer.URL), jwt.WithAudience(e.issuer.ClientID), jwt.WithExpirationRequired(), jwt.WithIssuedAt())
	if err != nil {
		return err
	}
	if _, ok := claims["iat"]; !ok {
		return errors.New("the id token does not say when it was made")
	}
	if sub, err := claims.GetSubject(); err != nil || sub == "" {
		return errors.New("the id token names nobody")
	}
	azp, _ := claims["azp"].(string)
	if aud, _ := claims.GetAudience(); len(aud) > 1 && azp == "" || azp != "" && azp != e.issuer.ClientID {
		return errors.New("the id token was made for another client")
	}
	if got, _ := claims["nonce"].(string); nonce != "" && !sameSecret(got, nonce) {
		return errors.New("the id token belongs to another login (its nonce does not match)")
	}
	return nil
}

// refreshedID gives the id token to keep after a refresh. By OpenID Connect Core
// section 12.2 a new one names the same person; one that names somebody else is an
// error. One that cannot be checked now is dropped for the old: the tokens that came
// with it are the only ones there are.
func (m *Manager) refreshedID(ctx context.Context, e endpoints, before, after string) (string, error) {
	if after == "" {
		return before, nil
	}
	if err := m.checkIDToken(ctx, e, after, ""); err != nil {
		m.cfg.Log.Warn("the id token of a refresh is not used", "err", err)
		return before, nil
	}
	was, is := jwt.MapClaims{}, jwt.MapClaims{}
	p := jwt.NewParser()
	if _, _, err := p.ParseUnverified(before, was); err != nil {
		return after, nil //nolint:nilerr // there was no readable one to compare with
	}
	if _, _, err := p.ParseUnverified(after, is); err != nil {
		return "", err
	}
	if was["sub"] != nil && was["sub"] != is["sub"] {
		return "", errors.New("the refreshed id token names somebody else")
	}
	return after, nil
}

// verify checks a token's signature against the keys at an address, and its times.
func (m *Manager) verify(ctx context.Context, jwks, token string, more ...jwt.ParserOption) (jwt.MapClaims, error) {
	opts := append([]jwt.ParserOption{
		jwt.WithValidMethods(algorithms), jwt.WithLeeway(leeway), jwt.WithTimeFunc(m.cfg.Now), jwt.WithStrictDecoding(),
	}, more...)
	claims := jwt.MapClaims{}
	_, err := jwt.NewParser(opts...).ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		return m.publicKey(ctx, jwks, kid, t.Method.Alg())
	})
	if err == nil {
		return claims, nil
	}
	return nil, m.notValid(claims, err)
}

// notValid says what is wrong with a token, in words that help, without quoting it.
func (m *Manager) notValid(claims jwt.MapClaims, err error) error {
	at := func(get func() (*jwt.NumericDate, error)) string {
		d, err := get()
		if err != nil || d == nil {
			return "at an unknown time"
		}
		return "at " + d.UTC().Format(time.RFC3339)
	}
	now := m.cfg.Now().UTC().Format(time.RFC3339)
	switch {
	case errors.Is(err, ErrUnavailable):
		return err
	case errors.Is(err, jwt.ErrTokenExpired):
		return fmt.Errorf("the token expired %s, and it is %s here: is this machine's clock right?", at(claims.GetExpirationTime), now)
	case errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return fmt.Errorf("the token is made %s, and it is %s here: is this machine's clock right?", at(claims.GetIssuedAt), now)
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return fmt.Errorf("the token is valid from then on: %s, and it is %s here: is this machine's clock right?", at(claims.GetNotBefore), now)
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		iss, _ := claims.GetIssuer()
		return fmt.Errorf("the token was made by another issuer, %q", config.OneLine(iss))
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return errors.New("the token was made for another client")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return errors.New("the token does not say when it expires, or for whom it is")
	case errors.Is(err, errNoKey), errors.Is(err, errKeySet):
		return fmt.Errorf("the token's signature cannot be checked: %w", err)
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return fmt.Errorf("the token's signature is not right, or not made with one of %v", slices.Clone(algorithms))
	}
	return errors.New("the token cannot be read")
}
