package bearer

import (
	"encoding/hex"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"towline/appserver/protocol"
	"towline/config"
)

// Values of --ws-auth. The last is not Codex's: it accepts access tokens.
const (
	ModeCapability = "capability-token"
	ModeSigned     = "signed-bearer-token"
	ModeAccess     = "access-token"
)

// defaultSkew is Codex's, and what is right for anybody else's clock.
const defaultSkew = 30 * time.Second

// Flags are a listener's flags as they were typed. A nil pointer is a flag that
// was not given; one that was given with nothing in it is a mistake.
type Flags struct {
	Auth             []string      // --ws-auth: one of Codex's modes, and access-token
	TokenFile        *string       // --ws-token-file
	TokenSHA256      *string       // --ws-token-sha256
	SharedSecretFile *string       // --ws-shared-secret-file
	Issuer           *string       // --ws-issuer
	Audience         *string       // --ws-audience
	MaxClockSkew     *uint64       // --ws-max-clock-skew-seconds
	Role             protocol.Role // --ws-role; none is operator
}

// FromFlags says what the flags mean, with Codex's rules and, for what Codex
// refuses, in its words. [ModeAccess] is for the caller, who sets [Config.Tokens].
// No file is read; see [New].
func FromFlags(f Flags) (Config, error) {
	role := f.Role
	if role == protocol.RoleNone {
		role = protocol.RoleOperator
	}
	capability, signed := slices.Contains(f.Auth, ModeCapability), slices.Contains(f.Auth, ModeSigned)
	for _, m := range f.Auth {
		if m != ModeCapability && m != ModeSigned && m != ModeAccess {
			return Config{}, refuseFlags(config.ExitUsage, "--ws-auth: %q is none of %s, %s, %s", config.OneLine(m), ModeCapability, ModeSigned, ModeAccess)
		}
	}
	switch {
	case capability && signed:
		return Config{}, refuseFlags(config.ExitUsage, "--ws-auth %s and --ws-auth %s do not go together; `[app_server.auth]` of config.toml takes any number of both", ModeCapability, ModeSigned)
	case capability:
		c, err := f.capability()
		c.Role = role
		return Config{Capability: []Capability{c}}, err
	case signed:
		j, err := f.signed()
		j.Role = role
		return Config{JWT: []JWT{j}}, err
	case f.TokenFile != nil || f.TokenSHA256 != nil || f.SharedSecretFile != nil || f.Issuer != nil || f.Audience != nil || f.MaxClockSkew != nil:
		return Config{}, refuseFlags(0, "websocket auth flags require `--ws-auth capability-token` or `--ws-auth signed-bearer-token`")
	}
	return Config{}, nil
}

func (f Flags) capability() (Capability, error) {
	c := Capability{Name: ModeCapability}
	switch {
	case f.SharedSecretFile != nil || f.Issuer != nil || f.Audience != nil || f.MaxClockSkew != nil:
		return c, refuseFlags(0, "`--ws-shared-secret-file`, `--ws-issuer`, `--ws-audience`, and `--ws-max-clock-skew-seconds` require `--ws-auth signed-bearer-token`")
	case f.TokenFile != nil && f.TokenSHA256 != nil:
		return c, refuseFlags(0, "`--ws-token-file` and `--ws-token-sha256` are mutually exclusive")
	case f.TokenFile != nil:
		var err error
		c.File, err = absolute("--ws-token-file", *f.TokenFile)
		return c, err
	case f.TokenSHA256 != nil:
		c.SHA256 = strings.TrimSpace(*f.TokenSHA256)
		if _, ok := digest(c.SHA256); !ok {
			return c, refuseFlags(0, "--ws-token-sha256 must be a 64-character hex SHA-256 digest")
		}
		return c, nil
	}
	return c, refuseFlags(0, "`--ws-token-file` or `--ws-token-sha256` is required when `--ws-auth capability-token` is set")
}

func (f Flags) signed() (JWT, error) {
	j := JWT{Name: ModeSigned, Codex: true, Skew: defaultSkew}
	if f.TokenFile != nil || f.TokenSHA256 != nil {
		return j, refuseFlags(0, "`--ws-token-file` and `--ws-token-sha256` require `--ws-auth capability-token`, not `signed-bearer-token`")
	}
	if f.SharedSecretFile == nil {
		return j, refuseFlags(0, "`--ws-shared-secret-file` is required when `--ws-auth signed-bearer-token` is set")
	}
	var err error
	if j.SecretFile, err = absolute("--ws-shared-secret-file", *f.SharedSecretFile); err != nil {
		return j, err
	}
	j.Issuers, j.Audience = given(f.Issuer), given(f.Audience)
	if f.MaxClockSkew != nil {
		if *f.MaxClockSkew > math.MaxInt64 {
			return j, refuseFlags(0, "websocket auth clock skew must fit in a signed 64-bit integer")
		}
		// A Duration ends after 292 years; what is longer is for ever all the same.
		j.Skew = time.Duration(min(*f.MaxClockSkew, uint64(math.MaxInt64/time.Second))) * time.Second
	}
	return j, nil
}

// given is a flag's text; one without any says nothing, as in Codex.
func given(flag *string) []string {
	if flag == nil || strings.TrimSpace(*flag) == "" {
		return nil
	}
	return []string{strings.TrimSpace(*flag)}
}

func absolute(flag, path string) (string, error) {
	if path == "" {
		return "", refuseFlags(config.ExitUsage, "a value is required for '%s <PATH>' but none was supplied", flag)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", refuseFlags(0, "%s must be an absolute path", flag)
	}
	return abs, nil
}

// digest reads a SHA-256 in hexadecimal.
func digest(s string) (sum [32]byte, ok bool) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(sum) {
		return sum, false
	}
	return [32]byte(raw), true
}

func refuseFlags(exit int, format string, args ...any) error {
	return &config.Problem{
		Err: fmt.Errorf(format, args...), Exit: exit,
		Hints: []string{"run `towline app-server --help` for the flags of a listener; docs/transports.md explains them"},
	}
}
