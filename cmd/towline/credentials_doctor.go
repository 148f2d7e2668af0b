package main

import (
	"context"
	"errors"
	"strings"

	"towline/config"
	"towline/launcher"
)

// credentials is what `towline doctor` says about logins on this machine. That
// nobody is logged in is nothing broken: many machines are clients only.
func (m *machine) credentials(ctx context.Context, paths config.Paths, cfg config.Config) {
	const name = "credentials"
	r, err := lookAtCredentials(ctx, paths, cfg)
	if err != nil {
		m.found(name, launcher.FindingFailed, "none may be used", err)
		return
	}
	for _, p := range r.Places {
		switch {
		case p.Readable:
			m.found(name, launcher.FindingFailed, "others can read "+p.Path, nil, "run `chmod 600 "+p.Path+"`, and log in again if others may have")
			return
		case p.Forbids != "":
			m.found(name, launcher.FindingFailed, p.Path, errors.New(p.Forbids), "remove it with `towline logout`, then log in as this machine allows: `towline login`")
			return
		case p.Problem != "" && p.Used:
			m.found(name, launcher.FindingFailed, p.Path, errors.New(p.Problem), "see all of them: `towline credentials status`")
			return
		}
	}
	if len(r.Policy.Mandates) > 0 {
		keys := make([]string, len(r.Policy.Mandates))
		for i, l := range r.Policy.Mandates {
			keys[i] = l.Key
		}
		m.found("policy", launcher.FindingOK, "this machine mandates "+strings.Join(keys, ", "), nil)
	}
	switch {
	case r.Login == nil:
		m.found(name, launcher.FindingOK, "nobody is logged in; a host needs a login: `towline login`", nil)
	case r.Login.Expires != nil && !r.Login.Renews && r.Login.Expires.Before(m.d.At):
		m.found(name, launcher.FindingNote, r.Login.who()+", expired, and cannot renew itself", nil, "log in again: `towline login`")
	default:
		m.found(name, launcher.FindingOK, r.Login.who()+", in the store "+r.Store.Kind, nil)
	}
}
