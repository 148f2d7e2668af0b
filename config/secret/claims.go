package secret

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// IDClaims is what an id or access token says about its owner. Nobody checked
// the signature: it is for showing, and for knowing when to refresh. Texts are
// free of control characters and bounded.
type IDClaims struct {
	Email, Subject, Issuer string
	AccountID, UserID      string // chatgpt_account_id, chatgpt_user_id
	Plan                   string // chatgpt_plan_type
	Workspace              string // the default organization's title, or its id
	WorkspaceID            string
	FedRAMP                bool
	Expires, IssuedAt      time.Time // zero when the token does not say
}

// Claims reads the payload of a JSON web token, unverified.
func Claims(jwt string) (IDClaims, error) {
	if len(jwt) > maxStored {
		return IDClaims{}, errClaims
	}
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return IDClaims{}, errClaims
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return IDClaims{}, errClaims
	}
	m, err := parseMembers(raw)
	if err != nil {
		return IDClaims{}, errClaims
	}
	auth, _ := m.object("https://api.openai.com/auth") // absent with other issuers
	profile, _ := m.object("https://api.openai.com/profile")
	shown := func(from members, name string) string {
		s, _ := from.text(name) // of another type: not shown
		return clean(s)
	}
	c := IDClaims{
		Email: shown(m, "email"), Subject: shown(m, "sub"), Issuer: shown(m, "iss"),
		AccountID: shown(auth, "chatgpt_account_id"), UserID: shown(auth, "chatgpt_user_id"),
		Plan: shown(auth, "chatgpt_plan_type"), FedRAMP: string(auth.raw("chatgpt_account_is_fedramp")) == "true",
		Expires: instant(m.raw("exp")), IssuedAt: instant(m.raw("iat")),
	}
	if c.Email == "" {
		c.Email = shown(profile, "email")
	}
	if c.UserID == "" {
		c.UserID = shown(auth, "user_id")
	}
	c.WorkspaceID, c.Workspace = workspace(auth.raw("organizations"))
	return c, nil
}

var errClaims = errors.New("not a token with readable claims")

// workspace is the organization marked as default, else the first.
func workspace(raw json.RawMessage) (id, title string) {
	var orgs []struct {
		ID      string `json:"id"`
		Title   string `json:"title"`
		Default bool   `json:"is_default"`
	}
	if raw == nil || json.Unmarshal(raw, &orgs) != nil || len(orgs) == 0 {
		return "", ""
	}
	pick := orgs[0]
	for _, o := range orgs {
		if o.Default {
			pick = o
			break
		}
	}
	id, title = clean(pick.ID), clean(pick.Title)
	if title == "" {
		title = id
	}
	return id, title
}

// instant is a NumericDate, which may have a fraction (RFC 7519, section 2).
func instant(raw json.RawMessage) time.Time {
	var s float64
	const year9999 = 253402300799
	if raw == nil || json.Unmarshal(raw, &s) != nil || s <= 0 || s > year9999 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}

// clean makes a text from outside fit for a terminal: no control or format
// characters, and not long.
func clean(s string) string {
	if len(s) > 4*maxShown {
		s = s[:4*maxShown]
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if r := []rune(s); len(r) > maxShown {
		return fmt.Sprintf("%s…", string(r[:maxShown]))
	}
	return s
}
