package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// text is the report for a person.
func (r *credentialReport) text(now time.Time) string {
	var b strings.Builder
	line := func(k, v string) {
		if v = printable(v); v != "" {
			fmt.Fprintf(&b, "  %-10s %s\n", k, v)
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = ""
	}
	fmt.Fprintf(&b, "credentials on %s (%s)\n", printable(r.Host), printable(r.Program))
	switch {
	case r.Login == nil && r.LoggedIn:
		line("login", "logged in")
	case r.Login == nil && r.Policy.Problem != "":
		line("login", "none may be used")
	case r.Login == nil:
		line("login", "none: nobody is logged in")
	default:
		line("login", r.Login.who())
		line("", r.Login.age(now))
		line("", r.Login.origin())
	}
	if r.Store.Kind != "" {
		line("store", r.Store.Kind+", by "+shorten(r.Store.From, home))
	}
	wide := 0
	for _, p := range r.Places {
		wide = max(wide, len([]rune(shorten(p.Path, home))))
	}
	for i, p := range r.Places {
		k := "places"
		if i > 0 {
			k = ""
		}
		mark := "–"
		if p.Used {
			mark = "✔"
		}
		if p.Problem != "" || p.Forbids != "" {
			mark = "✘"
		}
		what := "not used"
		if p.Login != nil {
			what = p.Login.who()
		}
		if !p.Used && p.Login != nil && p.Kind != placeMoving && p.Kind != placeClient {
			what += ", not used"
		}
		if p.Mode != "" {
			what = p.Mode
		}
		line(k, mark+" "+pad(p.Kind, 9)+" "+pad(shorten(p.Path, home), wide)+"  "+what)
		line("", "  "+p.Problem)
		if p.Forbids != "" {
			line("", "  "+p.Forbids)
		}
	}
	for i, h := range r.Held {
		k := "held by"
		if i > 0 {
			k = ""
		}
		line(k, h.Text)
	}
	if r.Lock == lockHeld {
		line("refresh", "somebody refreshes the login just now")
	}
	r.policyText(line)
	for i, v := range r.Env {
		k := "variables"
		if i > 0 {
			k = ""
		}
		line(k, v.Name+" is set in "+v.In+overrideText(v.Name))
	}
	for _, n := range r.Notes {
		line("note", n)
	}
	return b.String()
}

func (r *credentialReport) policyText(line func(k, v string)) {
	switch {
	case r.Policy.Problem != "":
		line("policy", "✘ "+r.Policy.Problem)
	case len(r.Policy.Mandates) == 0 && len(r.Policy.Files) == 0:
		line("policy", "nothing is mandated on this machine")
	case len(r.Policy.Mandates) == 0:
		line("policy", "nothing about credentials in "+strings.Join(r.Policy.Files, ", "))
	}
	wide := 0
	for _, m := range r.Policy.Mandates {
		wide = max(wide, len([]rune(m.Key+" = "+m.Value)))
	}
	for i, m := range r.Policy.Mandates {
		k := "policy"
		if i > 0 {
			k = ""
		}
		line(k, pad(m.Key+" = "+m.Value, wide)+"  "+m.From)
	}
}

// overrideText says what a variable does.
func overrideText(name string) string {
	switch name {
	case "CODEX_ACCESS_TOKEN":
		return ", and stands before what is stored"
	case "OPENAI_API_KEY":
		return "; only model providers that name it use it"
	}
	return "; only `codex exec` uses it"
}

// modeNames are the modes as people know them.
var modeNames = map[string]string{
	"apikey": "an API key", "chatgpt": "ChatGPT", "personalAccessToken": "a personal access token",
	"agentIdentity": "an agent identity", modeLent: "ChatGPT, lent", modeTowlineToken: "a token of another Towline",
}

// who is the account in a line.
func (l *loginReport) who() string {
	name := modeNames[l.Mode]
	if name == "" {
		name = l.Mode
	}
	if l.Plan != "" {
		name += " " + l.Plan
	}
	parts := []string{name}
	if l.Email != "" {
		parts = append(parts, l.Email)
	}
	switch {
	case l.Workspace != "" && l.Workspace != l.AccountID && l.AccountID != "":
		parts = append(parts, "workspace "+l.Workspace+" ("+l.AccountID+")")
	case l.AccountID != "":
		parts = append(parts, "workspace "+l.AccountID)
	}
	return strings.Join(parts, ", ")
}

// age is how long it lasts, and since when.
func (l *loginReport) age(now time.Time) string {
	var parts []string
	if l.Expires != nil {
		if left := l.Expires.Sub(now); left > 0 {
			parts = append(parts, "the access token expires in "+span(left))
		} else {
			parts = append(parts, "the access token expired "+span(-left)+" ago")
		}
	}
	if l.LastRefresh != nil {
		parts = append(parts, "refreshed "+span(now.Sub(*l.LastRefresh))+" ago")
	}
	if l.Mode == "chatgpt" {
		if l.Renews {
			parts = append(parts, "renews itself")
		} else {
			parts = append(parts, "cannot renew itself")
		}
	}
	return strings.Join(parts, ", ")
}

func (l *loginReport) origin() string {
	var parts []string
	if l.Fingerprint != "" {
		parts = append(parts, "fingerprint "+l.Fingerprint)
	}
	if l.Issuer != "" {
		parts = append(parts, "from "+l.Issuer)
	}
	return strings.Join(parts, ", ")
}

// span is a time as people say it.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "less than a minute"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
