package bearer

import "towline/appserver/protocol"

// Values of --ws-auth. The last is not Codex's.
const (
	ModeCapability = "capability-token"
	ModeSigned     = "signed-bearer-token"
	ModeAccess     = "access-token"
)

// Flags are Codex's flags for a listener's auth, as they were typed. A pointer is
// nil where the flag was not given.
type Flags struct {
	Auth             []string      // --ws-auth: at most one of Codex's modes, and access-token
	TokenFile        string        // --ws-token-file
	TokenSHA256      string        // --ws-token-sha256
	SharedSecretFile string        // --ws-shared-secret-file
	Issuer           string        // --ws-issuer
	Audience         string        // --ws-audience
	MaxClockSkew     *uint64       // --ws-max-clock-skew-seconds
	Role             protocol.Role // --ws-role; none is operator
}

// FromFlags says what Codex's flags mean. Its errors are Codex's, word for word.
// [ModeAccess] is for the caller: it sets [Config.Tokens].
func FromFlags(f Flags) (Config, error) { return Config{}, nil }
