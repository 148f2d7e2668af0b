package bearer

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/config"
)

// The words are those of codex 0.169.0 and 0.166.0, typed and read.
func TestFlagsAreRefusedInCodexWords(t *testing.T) {
	dir := t.TempDir()
	short, empty, binary := write(t, "short", " x \n"), write(t, "empty", " \n"), write(t, "binary", "\xff\xfe")
	none := filepath.Join(dir, "none")
	skew := func(n uint64) *uint64 { return &n }
	good := write(t, "good", secret)
	for name, tc := range map[string]struct {
		flags Flags
		want  string
	}{
		"capability without a token": {Flags{Auth: []string{ModeCapability}}, "`--ws-token-file` or `--ws-token-sha256` is required when `--ws-auth capability-token` is set"},
		"capability with two":        {Flags{Auth: []string{ModeCapability}, TokenFile: &short, TokenSHA256: flag("x")}, "`--ws-token-file` and `--ws-token-sha256` are mutually exclusive"},
		"a digest too short":         {Flags{Auth: []string{ModeCapability}, TokenSHA256: flag(strings.Repeat("a", 63))}, "--ws-token-sha256 must be a 64-character hex SHA-256 digest"},
		"a digest of nothing":        {Flags{Auth: []string{ModeCapability}, TokenSHA256: flag("")}, "--ws-token-sha256 must be a 64-character hex SHA-256 digest"},
		"a digest with a letter":     {Flags{Auth: []string{ModeCapability}, TokenSHA256: flag(strings.Repeat("g", 64))}, "--ws-token-sha256 must be a 64-character hex SHA-256 digest"},
		"capability, other flags": {
			Flags{Auth: []string{ModeCapability}, TokenFile: &short, Issuer: flag("x")},
			"`--ws-shared-secret-file`, `--ws-issuer`, `--ws-audience`, and `--ws-max-clock-skew-seconds` require `--ws-auth signed-bearer-token`",
		},
		"signed, other flags":  {Flags{Auth: []string{ModeSigned}, SharedSecretFile: &good, TokenFile: &short}, "`--ws-token-file` and `--ws-token-sha256` require `--ws-auth capability-token`, not `signed-bearer-token`"},
		"signed without":       {Flags{Auth: []string{ModeSigned}}, "`--ws-shared-secret-file` is required when `--ws-auth signed-bearer-token` is set"},
		"flags without a mode": {Flags{Audience: flag("")}, "websocket auth flags require `--ws-auth capability-token` or `--ws-auth signed-bearer-token`"},
		"skew without a mode":  {Flags{MaxClockSkew: skew(1)}, "websocket auth flags require `--ws-auth capability-token` or `--ws-auth signed-bearer-token`"},
		"a skew beyond":        {Flags{Auth: []string{ModeSigned}, SharedSecretFile: &good, MaxClockSkew: skew(math.MaxInt64 + 1)}, "websocket auth clock skew must fit in a signed 64-bit integer"},
		"no such file":         {Flags{Auth: []string{ModeCapability}, TokenFile: &none}, "failed to read websocket auth secret " + none + ": no such file or directory"},
		"a folder":             {Flags{Auth: []string{ModeCapability}, TokenFile: &dir}, "failed to read websocket auth secret " + dir + ": is a directory"},
		"nothing in it":        {Flags{Auth: []string{ModeCapability}, TokenFile: &empty}, "websocket auth secret " + empty + " must not be empty"},
		"no text":              {Flags{Auth: []string{ModeCapability}, TokenFile: &binary}, "failed to read websocket auth secret " + binary + ": stream did not contain valid UTF-8"},
		"a short secret":       {Flags{Auth: []string{ModeSigned}, SharedSecretFile: &short}, "signed websocket bearer secret " + short + " must be at least 32 bytes"},
		"nothing of a secret":  {Flags{Auth: []string{ModeSigned}, SharedSecretFile: &empty}, "websocket auth secret " + empty + " must not be empty"},
		"both modes":           {Flags{Auth: []string{ModeSigned, ModeCapability}}, "--ws-auth capability-token and --ws-auth signed-bearer-token do not go together; `[app_server.auth]` of config.toml takes any number of both"},
		"another mode":         {Flags{Auth: []string{"basic"}}, `--ws-auth: "basic" is none of capability-token, signed-bearer-token, access-token`},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := FromFlags(tc.flags)
			if err == nil {
				_, err = New(c)
			}
			var p *config.Problem
			if !errors.As(err, &p) || p.Error() != tc.want || !strings.Contains(strings.Join(config.Hints(err), " "), "`") {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestFlagsMean(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	c, err := FromFlags(Flags{Auth: []string{ModeSigned, ModeAccess}, SharedSecretFile: flag("a/b"), Issuer: flag(" i "), Audience: flag("")})
	if err != nil {
		t.Fatal(err)
	}
	j := c.JWT[0]
	if j.SecretFile != filepath.Join(wd, "a/b") || len(j.Issuers) != 1 || j.Issuers[0] != "i" || j.Audience != nil || j.Skew != 30*time.Second || j.Role != protocol.RoleOperator || j.Scope != nil || !j.Codex {
		t.Errorf("%+v", j)
	}
	huge := uint64(math.MaxInt64)
	if c, err = FromFlags(Flags{Auth: []string{ModeSigned}, SharedSecretFile: flag("a"), MaxClockSkew: &huge, Role: protocol.RoleObserver}); err != nil || c.JWT[0].Skew <= 0 || c.JWT[0].Role != protocol.RoleObserver {
		t.Errorf("%+v, %v", c, err)
	}
	for _, none := range []Flags{{}, {Auth: []string{ModeAccess}}} {
		if c, err := FromFlags(none); err != nil || !c.Empty() {
			t.Errorf("%+v: %+v, %v", none, c, err)
		}
	}
}

// What the document says of a skew of nothing, at the very second.
func TestSkewIsInclusive(t *testing.T) {
	for name, tc := range map[string]struct {
		skew     time.Duration
		exp, nbf int64 // from now
		want     string
	}{
		"at the end":            {0, 0, -1, "ok"},
		"a second after it":     {0, -1, -1, "401 " + sayExpired},
		"the default, at it":    {30 * time.Second, -30, -1, "ok"},
		"the default, after it": {30 * time.Second, -31, -1, "401 " + sayExpired},
		"at the beginning":      {0, 9, 0, "ok"},
		"a second before it":    {0, 9, 1, "401 " + sayNotYet},
		"early, forgiven":       {30 * time.Second, 90, 30, "ok"},
		"early, not forgiven":   {30 * time.Second, 90, 31, "401 " + sayNotYet},
		"for ever":              {math.MaxInt64, -1 << 30, 1 << 30, "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t, Config{JWT: []JWT{codexMode(t, func(j *JWT) { j.Skew = tc.skew })}})
			text := signed(body(map[string]any{"exp": noon.Unix() + tc.exp, "nbf": noon.Unix() + tc.nbf}))
			for range 2 { // verified, and remembered
				if _, err := try(t, a, "Bearer "+text); outcome(err) != tc.want {
					t.Errorf("got %s, want %s", outcome(err), tc.want)
				}
			}
		})
	}
}
