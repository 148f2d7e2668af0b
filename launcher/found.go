package launcher

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"towline/config/sshconfig"
	"towline/launcher/bootstrap"
)

// maxAge is how long what was found on a host is believed without looking again.
// It is only ever a shortcut: what turns out to be wrong is looked for.
const maxAge = 24 * time.Hour

// refreshAfter is how old it may be before a session, once it is up, looks again
// for the next one.
const refreshAfter = 10 * time.Minute

// found is what a host was found to have, kept so that the next connection needs
// one round trip instead of a login shell, a probe and a choice.
type found struct {
	At     time.Time        `json:"at"`
	Client string           `json:"client"` // this program's version then
	Target string           `json:"target"` // whom it was found on, and how we looked
	Report bootstrap.Report `json:"report"`
	Choice bootstrap.Choice `json:"choice"`
	Agent  string           `json:"agent,omitempty"` // the stable path of a forwarded agent there
}

// fits reports whether f can stand in for a probe.
func (f *found) fits(now time.Time, client, target string) bool {
	return f != nil && f.Client == client && f.Target == target &&
		f.Choice.Action != "" && f.Choice.Action != bootstrap.Offer && !f.Choice.Skew.Block &&
		!f.At.After(now.Add(time.Minute)) && now.Sub(f.At) < maxAge
}

// started is f once what it starts runs: the next connection only joins it,
// which needs no login environment there.
func (f *found) started() *found {
	if f.Choice.Action != bootstrap.Start || f.Choice.Candidate.Kind != bootstrap.Towline {
		return f
	}
	joined := *f
	joined.Choice.Action = bootstrap.Join
	return &joined
}

// settled reports whether the next connection would do the same. What was
// started runs by then, and is joined.
func (f *found) settled() bool { return f.started().Choice.Action != bootstrap.Start }

// unstarted is f for when what should run does not.
func (f *found) unstarted() *found {
	start := *f
	start.Choice.Action = bootstrap.Start
	return &start
}

// identity is what must be unchanged for a found to fit: the account, and what
// was asked for there. It is kept on disk, so it tells nothing: a proxy command
// may hold what is nobody's business.
func identity(t sshconfig.Target, o bootstrap.Options) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{t.User, t.HostName, itoa(t.Port), strings.Join(t.ProxyJump, ","), t.ProxyCommand, o.InstallDir, o.Pin}, "\x00")))
	return hex.EncodeToString(sum[:16])
}
