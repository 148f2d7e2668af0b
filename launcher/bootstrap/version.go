package bootstrap

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"towline/appserver/protocol"
)

// MinCodex is the oldest Codex that can be joined: its app-server has proxy and
// --listen unix://.
const MinCodex = "0.166.0"

// SkewKind compares two versions of Towline.
type SkewKind string

// The kinds of skew.
const (
	Same        SkewKind = "same"
	Older       SkewKind = "older"         // the remote is, and we understand each other
	Newer       SkewKind = "newer"         // likewise
	Differs     SkewKind = "differs"       // likewise, and the versions have no order
	OutOfWindow SkewKind = "out of window" // no common protocol version
	Foreign     SkewKind = "foreign"       // Codex: its own protocol, no window
)

// Skew is how this client's version and the remote's go together, with the
// words to show.
type Skew struct {
	Kind   SkewKind `json:"kind"`
	Local  string   `json:"local"`
	Remote string   `json:"remote"`
	// Block: do not send turns; threads stay readable. Offer the update.
	Block bool `json:"block"`
	// Protocol is the version both speak, 0 for none.
	Protocol int `json:"protocol"`
	// Notice is one line for the banner, empty when there is nothing to say.
	Notice string `json:"notice,omitempty"`
	// Hint is what to do about it, imperative.
	Hint string `json:"hint,omitempty"`
}

// Compare says how a remote Towline goes together with this client. host is for
// the words. A remote that does not tell its window is from before there was one.
func Compare(local string, mine protocol.Window, remote string, theirs protocol.Window, host string) Skew {
	s := Skew{Local: local, Remote: remote}
	version, ok := mine.Meet(theirs)
	if !ok {
		s.Kind, s.Block = OutOfWindow, true
		if theirs.Max > mine.Max {
			s.Notice = fmt.Sprintf("Towline %s on %s is too new for this %s: you can read, not send", remote, host, local)
			s.Hint = "update Towline on this machine"
		} else {
			s.Notice = fmt.Sprintf("Towline %s on %s is too old for this %s: you can read, not send", remote, host, local)
			s.Hint = fmt.Sprintf("update it there: `towline connect %s --install`", host)
		}
		return s
	}
	s.Protocol = version
	order, comparable := compareVersions(remote, local)
	switch {
	case remote == local:
		s.Kind = Same
	case !comparable:
		s.Kind = Differs
		s.Notice = fmt.Sprintf("%s runs Towline %s, this is %s", host, remote, local)
	case order < 0:
		s.Kind = Older
		s.Notice = fmt.Sprintf("%s runs Towline %s, older than this %s", host, remote, local)
		s.Hint = fmt.Sprintf("update it when convenient: `towline connect %s --install`", host)
	case order > 0:
		s.Kind = Newer
		s.Notice = fmt.Sprintf("%s runs Towline %s, newer than this %s", host, remote, local)
		s.Hint = "update Towline on this machine when convenient"
	default:
		s.Kind = Same
	}
	return s
}

var versionPattern = regexp.MustCompile(`\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?`)

// compareVersions orders two versions by their three numbers, then by the rule
// that a pre-release comes before the release. Versions that hold no numbers, as
// of a build from a working tree, have no order.
func compareVersions(a, b string) (order int, ok bool) {
	x, y := versionPattern.FindString(a), versionPattern.FindString(b)
	if x == "" || y == "" {
		return 0, false
	}
	x, _, _ = strings.Cut(x, "+")
	y, _, _ = strings.Cut(y, "+")
	xn, xp, _ := strings.Cut(x, "-")
	yn, yp, _ := strings.Cut(y, "-")
	xs, ys := strings.Split(xn, "."), strings.Split(yn, ".")
	for i := range 3 {
		m, err1 := strconv.Atoi(xs[i])
		n, err2 := strconv.Atoi(ys[i])
		if err1 != nil || err2 != nil {
			return 0, false
		}
		if m != n {
			return m - n, true
		}
	}
	switch {
	case xp == yp:
		return 0, true
	case xp == "":
		return 1, true
	case yp == "":
		return -1, true
	}
	return strings.Compare(xp, yp), true
}

// maxVersion bounds a version, which is shown and may name a folder.
const maxVersion = 80

// version reads what a program said of itself: `towline version --json`, or the
// line of --version.
func (c *Candidate) version(said string) {
	c.Fault = ""
	if c.Kind == Towline {
		if i := strings.IndexByte(said, '{'); i >= 0 {
			var v struct {
				Version  string          `json:"version"`
				Protocol protocol.Window `json:"protocol"`
			}
			if json.NewDecoder(strings.NewReader(said[i:])).Decode(&v) == nil && v.Version != "" {
				c.Version, c.Window = cutVersion(printable(v.Version)), v.Protocol
				return
			}
		}
		if _, v, ok := strings.Cut(said, "towline version "); ok {
			c.Version = cutVersion(strings.TrimSpace(v))
			return
		}
		c.Fault = "it does not say its version, so it is not Towline, or it does not run here" + quoted(quote(lines(said), true))
		return
	}
	if m := codexVersion.FindStringSubmatch(said); m != nil {
		c.Version = cutVersion(m[1])
	} else if v := versionPattern.FindString(said); v != "" && strings.Contains(strings.ToLower(said), "codex") {
		c.Version = cutVersion(v)
	} else {
		c.Fault = "it does not say its version, so it is not the Codex CLI, or it does not run here" + quoted(quote(lines(said), true))
		return
	}
	if order, ok := compareVersions(c.Version, MinCodex); ok && order < 0 && !strings.HasPrefix(c.Version, "0.0.0") {
		c.Fault = "too old: Towline needs " + MinCodex + " or newer"
	}
}

var codexVersion = regexp.MustCompile(`\bcodex(?:-cli)? v?(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)`)

func cutVersion(s string) string {
	if len(s) > maxVersion {
		s = s[:maxVersion]
	}
	return strings.ToValidUTF8(s, "")
}
