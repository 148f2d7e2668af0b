package secret

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Auth is one credential: what Codex's auth.json holds, and its keyring entry,
// which is the same JSON on one line. The members, in Codex's order:
//
//	auth_mode              "apikey", "chatgpt", "agentIdentity"; absent with a
//	                        personal access token
//	OPENAI_API_KEY         the key, or null
//	tokens                 {id_token, access_token, refresh_token, account_id,
//	                        oauth_provenance {issuer, client_id}, login_owner_id}
//	last_refresh           RFC 3339
//	agent_identity         a signed token, or an object
//	personal_access_token  "at-…"
//
// Every other member, at every level, is kept and written back. It prints as
// its mode and fingerprint however it is printed; [Auth.File] and
// [Auth.Compact] are the ways to its secrets. Values are copied freely; the
// Tokens they point to are not to be changed in place. A file may name a mode
// and lack what belongs to it: Tokens may be nil with ModeChatGPT.
type Auth struct {
	Mode                Mode
	APIKey              string
	Tokens              *Tokens
	LastRefresh         time.Time
	PersonalAccessToken string
	AgentIdentity       json.RawMessage

	rest members // as parsed, the known members included
}

// Tokens are those of a ChatGPT login. Who refreshes them must ask Issuer, as
// ClientID; older files name neither.
type Tokens struct {
	IDToken, AccessToken, RefreshToken, AccountID string
	Issuer, ClientID                              string // oauth_provenance
	LoginOwnerID                                  string

	rest, provenance members
}

// Parse reads auth.json or a keyring entry. Its errors say what is wrong and
// never quote what they found.
func Parse(b []byte) (Auth, error) {
	if len(b) > maxStored {
		return Auth{}, fmt.Errorf("credential of %d bytes: %w", len(b), ErrUnsafe)
	}
	m, err := parseMembers(b)
	if err != nil {
		return Auth{}, fmt.Errorf("credential: %w: %w", err, ErrDamaged)
	}
	a, err := fromMembers(m)
	if err != nil {
		return Auth{}, fmt.Errorf("credential: %w: %w", err, ErrDamaged)
	}
	return a, nil
}

func fromMembers(m members) (a Auth, err error) {
	a.rest = m
	mode, err := m.text("auth_mode")
	if err != nil {
		return Auth{}, err
	}
	if a.APIKey, err = m.text("OPENAI_API_KEY"); err != nil {
		return Auth{}, err
	}
	if a.PersonalAccessToken, err = m.text("personal_access_token"); err != nil {
		return Auth{}, err
	}
	a.AgentIdentity = m.raw("agent_identity")
	at, err := m.text("last_refresh")
	if err != nil {
		return Auth{}, err
	}
	if at != "" {
		if a.LastRefresh, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return Auth{}, fmt.Errorf("last_refresh: %w", errShape)
		}
	}
	if m.raw("tokens") != nil {
		if a.Tokens, err = parseTokens(m); err != nil {
			return Auth{}, err
		}
	}
	a.Mode = a.resolve(Mode(mode))
	return a, nil
}

func parseTokens(m members) (*Tokens, error) {
	o, err := m.object("tokens")
	if err != nil {
		return nil, err
	}
	p, err := o.object("oauth_provenance")
	if err != nil {
		return nil, err
	}
	t := &Tokens{rest: o, provenance: p}
	for _, f := range []struct {
		from members
		name string
		to   *string
	}{
		{o, "id_token", &t.IDToken},
		{o, "access_token", &t.AccessToken},
		{o, "refresh_token", &t.RefreshToken},
		{o, "account_id", &t.AccountID},
		{o, "login_owner_id", &t.LoginOwnerID},
		{p, "issuer", &t.Issuer},
		{p, "client_id", &t.ClientID},
	} {
		if *f.to, err = f.from.text(f.name); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// resolve is the mode that counts when a file may hold several things: the one
// it names, else the first there is in the order measured with Codex 0.169.0
// (which takes an identity only from a file that names that mode).
func (a Auth) resolve(named Mode) Mode {
	switch {
	case named != ModeNone:
		return named
	case a.PersonalAccessToken != "":
		return ModePAT
	case a.APIKey != "":
		return ModeAPIKey
	case a.Tokens != nil:
		return ModeChatGPT
	case a.AgentIdentity != nil:
		return ModeAgent
	}
	return ModeNone
}

// File is auth.json: Codex's order, two blanks of indent, no newline at the end.
func (a Auth) File() []byte {
	var b bytes.Buffer
	if err := json.Indent(&b, a.Compact(), "", "  "); err != nil {
		panic("secret: " + err.Error()) // Compact made it
	}
	return b.Bytes()
}

// Compact is the same on one line, as it lies in a keyring.
func (a Auth) Compact() []byte {
	m := a.rest
	set := func(name, value string, null bool) {
		switch {
		case value != "":
			m = keep(m, name, value)
		case null:
			m = m.with(name, json.RawMessage("null"))
		default:
			m = m.without(name)
		}
	}
	if len(m) == 0 { // ours from the start: put the members in Codex's order
		m = members{{name: "auth_mode"}, {name: "OPENAI_API_KEY"}}
	}
	mode := string(a.Mode)
	if old, _ := m.text("auth_mode"); a.Mode == ModePAT && old != mode {
		mode = "" // Codex writes none for this one, and reads one if it finds it
	}
	set("auth_mode", mode, false)
	set("OPENAI_API_KEY", a.APIKey, true)
	if a.Tokens != nil {
		m = m.with("tokens", a.Tokens.members().bytes())
	} else {
		m = m.without("tokens")
	}
	if at, _ := m.text("last_refresh"); a.LastRefresh.IsZero() {
		m = m.without("last_refresh")
	} else if was, err := time.Parse(time.RFC3339Nano, at); err != nil || !was.Equal(a.LastRefresh) {
		m = m.with("last_refresh", quote(a.LastRefresh.UTC().Format(time.RFC3339Nano)))
	}
	if a.AgentIdentity != nil {
		m = m.with("agent_identity", a.AgentIdentity)
	} else {
		m = m.without("agent_identity")
	}
	set("personal_access_token", a.PersonalAccessToken, false)
	return m.bytes()
}

// keep sets a text member; one that says the same already stays as it was
// written.
func keep(m members, name, value string) members {
	if old, err := m.text(name); err == nil && old == value {
		return m
	}
	return m.with(name, quote(value))
}

func (t Tokens) members() members {
	m := t.rest
	for _, f := range []struct{ name, value string }{
		{"id_token", t.IDToken},
		{"access_token", t.AccessToken},
		{"refresh_token", t.RefreshToken},
	} { // Codex wants all three, empty or not
		if f.value == "" || m.raw(f.name) == nil {
			m = m.with(f.name, quote(f.value))
		}
		m = keep(m, f.name, f.value)
	}
	if t.AccountID != "" {
		m = keep(m, "account_id", t.AccountID)
	} else {
		m = m.with("account_id", json.RawMessage("null"))
	}
	p := t.provenance
	if t.Issuer != "" {
		p = keep(p, "issuer", t.Issuer)
	}
	if t.ClientID != "" {
		p = keep(p, "client_id", t.ClientID)
	}
	if len(p) > 0 {
		m = m.with("oauth_provenance", p.bytes())
	}
	if t.LoginOwnerID != "" {
		m = keep(m, "login_owner_id", t.LoginOwnerID)
	}
	return m
}

// Empty reports whether there is nothing in it that proves anything.
func (a Auth) Empty() bool {
	return a.APIKey == "" && a.Tokens == nil && a.PersonalAccessToken == "" && a.AgentIdentity == nil && a.Mode == ModeNone
}

// Fingerprint tells one credential from another without being one: 16 hex
// digits that are the same wherever the same credential lies. A refresh gives a
// login a new one.
func (a Auth) Fingerprint() string {
	if a.Empty() {
		return ""
	}
	return a.digest("towline credential fingerprint 1")[:16]
}

// id tells credentials apart inside this package: a whole hash, and a word for
// none.
func (a Auth) id() string {
	if a.Empty() {
		return "none"
	}
	return a.digest("towline credential id 1")
}

// digest hashes everything that proves something, each part with its length.
func (a Auth) digest(use string) string {
	h := sha256.New()
	part := func(s string) { fmt.Fprintf(h, "%d:%s,", len(s), s) }
	part(use)
	part(string(a.Mode))
	part(a.APIKey)
	if t := a.Tokens; t != nil {
		part(t.IDToken)
		part(t.AccessToken)
		part(t.RefreshToken)
		part(t.AccountID)
	}
	part(a.PersonalAccessToken)
	var id bytes.Buffer
	if json.Compact(&id, a.AgentIdentity) == nil {
		part(id.String())
	}
	return hex.EncodeToString(h.Sum(nil))
}

// String names the mode and the fingerprint, never a secret.
func (a Auth) String() string {
	if a.Empty() {
		return "no credential"
	}
	return fmt.Sprintf("%s credential %s", clean(string(a.Mode)), a.Fingerprint())
}

// Format prints [Auth.String] for every verb: %d or %#v would show the fields.
func (a Auth) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, a.String()) }

// LogValue is [Auth.String].
func (a Auth) LogValue() slog.Value { return slog.StringValue(a.String()) }

// MarshalJSON is [Auth.String], quoted: a credential is written with
// [Auth.File], never by accident.
func (a Auth) MarshalJSON() ([]byte, error) { return quote(a.String()), nil }

// String gives [Redacted].
func (Tokens) String() string { return Redacted }

// Format prints [Redacted] for every verb.
func (Tokens) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// LogValue gives [Redacted].
func (Tokens) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalJSON gives [Redacted].
func (Tokens) MarshalJSON() ([]byte, error) { return quote(Redacted), nil }
