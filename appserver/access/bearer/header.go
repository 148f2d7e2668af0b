package bearer

import (
	"strings"

	"towline/appserver/access"
)

// What a stranger hears, as Codex says it.
const (
	sayMissing  = "missing websocket bearer token"
	sayHeader   = "invalid authorization header"
	sayToken    = "invalid websocket bearer token"
	sayJWT      = "invalid websocket jwt"
	sayExpired  = "expired websocket jwt"
	sayNotYet   = "websocket jwt is not valid yet"
	sayIssuer   = "websocket jwt issuer mismatch"
	sayAudience = "websocket jwt audience mismatch"
	// What Codex has no words for.
	sayNoRule = "no rule of this host admits this websocket jwt"
	sayLocked = "too many failed attempts"
)

// refuse is a 401.
func refuse(body, why string) *access.Refusal {
	return &access.Refusal{Status: 401, Body: body, Why: why}
}

// token takes the credential out of an Authorization header: "Bearer", in any
// case, a space, and what is left without the white space around it. Of several
// headers Codex reads the first; here they are refused, because what stands
// between may have looked at another one.
func token(values []string) (string, *access.Refusal) {
	switch len(values) {
	case 0:
		return "", refuse(sayMissing, "no Authorization header")
	case 1:
	default:
		return "", refuse(sayHeader, "several Authorization headers")
	}
	v := values[0]
	for i := range len(v) {
		if c := v[i]; c != '\t' && (c < ' ' || c > '~') {
			return "", refuse(sayHeader, "the Authorization header is not plain ASCII")
		}
	}
	scheme, rest, ok := strings.Cut(v, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return "", refuse(sayHeader, "the Authorization header is of another scheme")
	}
	if rest = strings.Trim(rest, " \t"); rest == "" {
		return "", refuse(sayHeader, "the Authorization header holds no token")
	}
	return rest, nil
}
