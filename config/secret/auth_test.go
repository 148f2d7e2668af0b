package secret

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// written is what Codex 0.169.0 left in its folder, tokens shortened.
var written = map[Mode]string{
	ModeAPIKey: `{
  "auth_mode": "apikey",
  "OPENAI_API_KEY": "sk-test-key-123"
}`,
	ModeChatGPT: `{
  "auth_mode": "chatgpt",
  "OPENAI_API_KEY": null,
  "tokens": {
    "id_token": "h.e30.s",
    "access_token": "h.e30.t",
    "refresh_token": "rt-1",
    "account_id": "acc-1",
    "oauth_provenance": {
      "issuer": "https://auth.openai.com",
      "client_id": "app_1"
    },
    "login_owner_id": "owner"
  },
  "last_refresh": "2026-11-22T14:37:06.741420144Z"
}`,
	ModePAT: `{
  "OPENAI_API_KEY": null,
  "personal_access_token": "at-1"
}`,
	ModeAgent: `{
  "auth_mode": "agentIdentity",
  "OPENAI_API_KEY": null,
  "agent_identity": "h.e30.s"
}`,
}

func TestEachModeComesBackByteForByte(t *testing.T) {
	for mode, text := range written {
		a, err := Parse([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		if a.Mode != mode {
			t.Errorf("mode of %s is %q", mode, a.Mode)
		}
		if diff := cmp.Diff(text, string(a.File())); diff != "" {
			t.Errorf("%s: %s", mode, diff)
		}
		compact, err := Parse(a.Compact())
		if err != nil || strings.ContainsAny(string(a.Compact()), "\n") {
			t.Fatalf("%s: compact form: %v", mode, err)
		}
		if diff := cmp.Diff(text, string(compact.File())); diff != "" {
			t.Errorf("%s, through the compact form: %s", mode, diff)
		}
	}
}

func TestWhatWeMakeIsWhatCodexWrites(t *testing.T) {
	at, err := time.Parse(time.RFC3339Nano, "2026-11-22T14:37:06.741420144Z")
	if err != nil {
		t.Fatal(err)
	}
	for mode, a := range map[Mode]Auth{
		ModeAPIKey: {Mode: ModeAPIKey, APIKey: "sk-test-key-123"},
		ModeChatGPT: {Mode: ModeChatGPT, LastRefresh: at, Tokens: &Tokens{
			IDToken: "h.e30.s", AccessToken: "h.e30.t", RefreshToken: "rt-1", AccountID: "acc-1",
			Issuer: "https://auth.openai.com", ClientID: "app_1", LoginOwnerID: "owner",
		}},
		ModePAT:   {Mode: ModePAT, PersonalAccessToken: "at-1"},
		ModeAgent: {Mode: ModeAgent, AgentIdentity: json.RawMessage(`"h.e30.s"`)},
	} {
		if diff := cmp.Diff(written[mode], string(a.File())); diff != "" {
			t.Errorf("%s: %s", mode, diff)
		}
	}
}

func TestMembersOfANewerCodexSurviveAChange(t *testing.T) {
	const before = `{"weird":{"a":[1,2.50,"<é>"]},"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":{"id_token":"i","future":1e3,"access_token":"a",` +
		`"refresh_token":"r","account_id":"x","oauth_provenance":{"issuer":"I","client_id":"C","tenant":"T"}},"last_refresh":"2026-01-01T00:00:00+02:00"}`
	a, err := Parse([]byte(before))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(a.Compact()); got != before {
		t.Errorf("unchanged, it is written as\n%s\nwas\n%s", got, before)
	}
	tokens := *a.Tokens
	tokens.RefreshToken = "r2"
	b := a
	b.Tokens = &tokens
	if got, want := string(b.Compact()), strings.Replace(before, `"r"`, `"r2"`, 1); got != want {
		t.Errorf("with another refresh token it is\n%s\nwant\n%s", got, want)
	}
	if got := string(a.Compact()); got != before {
		t.Errorf("the one it was copied from changed as well: %s", got)
	}
}

func TestTheModeIsTheOneCodexWouldUse(t *testing.T) {
	const tokens = `"tokens":{"id_token":"i","access_token":"a","refresh_token":"r"}`
	for text, want := range map[string]Mode{
		`{"OPENAI_API_KEY":"k",` + tokens + `}`:                                                     ModeAPIKey,
		`{"OPENAI_API_KEY":"k","personal_access_token":"at-1"}`:                                     ModePAT,
		`{"auth_mode":"apikey","OPENAI_API_KEY":"k","personal_access_token":"at-1",` + tokens + `}`: ModeAPIKey,
		`{"auth_mode":"chatgpt","OPENAI_API_KEY":"k",` + tokens + `}`:                               ModeChatGPT,
		`{"auth_mode":"personalAccessToken","personal_access_token":"at-1"}`:                        ModePAT,
		`{"auth_mode":"agentIdentity","agent_identity":"x"}`:                                        ModeAgent,
		`{` + tokens + `}`:                           ModeChatGPT,
		`{"auth_mode":"later","OPENAI_API_KEY":"k"}`: "later",
		`{}`:                      ModeNone,
		`{"OPENAI_API_KEY":null}`: ModeNone,
	} {
		a, err := Parse([]byte(text))
		if err != nil || a.Mode != want {
			t.Errorf("%s: %q, %v; want %q", text, a.Mode, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":          ``,
		"cut short":        `{"auth_mode":"apikey","OPENAI_API_KEY":"sk-canary`,
		"more after it":    `{"OPENAI_API_KEY":"sk-canary"} {"a":1}`,
		"a name twice":     `{"OPENAI_API_KEY":"sk-canary","OPENAI_API_KEY":"sk-canary2"}`,
		"twice further in": `{"tokens":{"refresh_token":"sk-canary","refresh_token":"b"}}`,
		"another type":     `{"OPENAI_API_KEY":["sk-canary"]}`,
		"tokens a string":  `{"tokens":"sk-canary"}`,
		"a time it is not": `{"last_refresh":"sk-canary"}`,
		"an array":         `["sk-canary"]`,
		"too large":        `{"a":"` + strings.Repeat("sk-canary", maxStored/8) + `"}`,
	} {
		a, err := Parse([]byte(text))
		if err == nil || !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v, %v", name, a, err)
		} else if strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error repeats what it found: %v", name, err)
		}
	}
}

func TestACredentialPrintsWithoutItsSecrets(t *testing.T) {
	a := chatgpt("rt-canary", time.Now())
	a.Tokens.AccessToken, a.Tokens.IDToken = "at-canary", "id-canary"
	a.APIKey, a.PersonalAccessToken, a.AgentIdentity = "sk-canary", "pat-canary", json.RawMessage(`"agent-canary"`)
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "auth", a, "tokens", a.Tokens, "place", Place{Auth: a}, "s", String("s-canary"))
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "auth", a, "tokens", a.Tokens, "place", Place{Auth: a}, "s", String("s-canary"))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
		fmt.Fprintf(&log, verb+verb+verb+verb+verb, a, &a, a.Tokens, *a.Tokens, String("s-canary"))
		fmt.Fprintf(&log, verb+verb, struct{ A Auth }{a}, []Auth{a})
	}
	for _, v := range []any{a, &a, a.Tokens, Place{Auth: a}, String("s-canary")} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		log.Write(b)
	}
	if strings.Contains(log.String(), "canary") || strings.Contains(log.String(), fmt.Sprintf("%x", "canary")) {
		t.Errorf("a secret is printed: %s", log.String())
	}
}

func TestFingerprintTellsCredentialsApart(t *testing.T) {
	now := time.Now()
	a := chatgpt("r1", now)
	reread, err := Parse(a.File())
	if err != nil {
		t.Fatal(err)
	}
	if a.Fingerprint() != reread.Fingerprint() || len(a.Fingerprint()) != 16 {
		t.Errorf("the same credential: %s and %s", a.Fingerprint(), reread.Fingerprint())
	}
	seen := map[string]bool{}
	for _, b := range []Auth{
		a, chatgpt("r2", now),
		{Mode: ModeAPIKey, APIKey: "k"},
		{Mode: ModeAPIKey, APIKey: "k2"},
		{Mode: ModePAT, PersonalAccessToken: "k"},
		{Mode: ModeAgent, AgentIdentity: json.RawMessage(`"k"`)},
	} {
		if seen[b.Fingerprint()] {
			t.Errorf("%v has the fingerprint of another", b)
		}
		seen[b.Fingerprint()] = true
	}
	if (Auth{}).Fingerprint() != "" {
		t.Error("nothing has a fingerprint")
	}
}

func TestClaims(t *testing.T) {
	at := time.Unix(1900000000, 0).UTC()
	got, err := Claims(jwt(at))
	want := IDClaims{
		Email: "ann@example.com", Subject: "user-1", Issuer: "https://auth.openai.com", AccountID: "acc-1", UserID: "user-1",
		Plan: "pro", Workspace: "Main", WorkspaceID: "org-2", Expires: at, IssuedAt: time.Unix(1700000000, 0).UTC(),
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	for name, token := range map[string]string{
		"empty": "", "two parts": "a.b", "no base64": "a.%%.c", "no JSON": "a.aGVsbG8.c", "an array": "a.W10.c",
	} {
		if _, err := Claims(token); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	hostile := "a." + "eyJlbWFpbCI6IlxuXHUwMDFiWzJKYVx1MjAyZWIifQ" + ".c" // {"email":"\n\u001b[2Ja\u202eb"}
	if c, err := Claims(hostile); err != nil || c.Email != "[2Jab" {
		t.Errorf("control characters: %q %v", c.Email, err)
	}
}
