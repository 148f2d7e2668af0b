package bootstrap

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"towline/config"
	"towline/launcher/remote"
)

// Action is what a Choice means to do.
type Action string

// The actions.
const (
	Join  Action = "join"    // a daemon runs: connect to it
	Start Action = "start"   // start a daemon, then connect to it
	Stdio Action = "stdio"   // a bare child on stdin and stdout: a cut link ends its turn
	Offer Action = "install" // nothing is there: offer to install Towline
)

// Choice is what will be used and why.
type Choice struct {
	Action    Action    `json:"action"`
	Candidate Candidate `json:"candidate"` // empty for Offer
	Why       string    `json:"why"`       // one line for a person
	Others    []string  `json:"others"`    // what was passed over, each with its reason
	Skew      Skew      `json:"skew"`      // the client's version against the candidate's
	// Env is set for what is started, above its login environment: ssh_config's
	// SetEnv, SSH_AUTH_SOCK of a forwarded agent. Filled by the caller.
	Env map[string]string `json:"-"`
	// ForwardAgent asks for agent forwarding on the channel. Filled by the caller.
	ForwardAgent bool `json:"-"`
	// Forget: a bare Codex keeps its login in memory and leaves the one that is
	// stored there alone. Filled by the caller, for Stdio.
	Forget bool `json:"-"`
	// Plain: do not offer resumption, whoever is there. Filled by the caller.
	Plain bool `json:"-"`
}

// Choose picks what to use, in this order: a Towline daemon that runs, a
// Towline binary, a Codex daemon that runs, a Codex binary, and else the offer
// to install. It is a pure function of its arguments.
func Choose(rep Report, o Options) (Choice, error) {
	o = o.withDefaults()
	if rep.OS == "windows" {
		return Choice{}, &config.Problem{Stage: remote.StageFind, Err: errWindows, Hints: windowsHints, Exit: config.ExitUnavailable}
	}
	if rep.Door {
		return Choice{
			Action: Join, Candidate: Candidate{Kind: Towline, From: "door", Socket: "ssh"},
			Why: "the SSH server is Towline itself", Skew: Skew{Kind: Same, Local: o.Version},
		}, nil
	}
	if rest, ok := strings.CutPrefix(o.Pin, "~/"); ok && rep.Home != "" {
		o.Pin = path.Join(rep.Home, rest)
	}
	all := ranked(rep.Candidates, o)
	var refused []string
	for i, c := range all {
		if why := unfit(c, o); why != "" {
			refused = append(refused, c.name()+": "+why)
			continue
		}
		ch := Choice{Action: Start, Candidate: c, Why: because(c, all, o), Skew: skewOf(c, o)}
		if c.Socket != "" {
			ch.Action = Join
		}
		ch.Others = refused
		for _, other := range all[i+1:] {
			if why := unfit(other, o); why != "" {
				ch.Others = append(ch.Others, other.name()+": "+why)
			} else {
				ch.Others = append(ch.Others, other.name()+": "+second(c, other))
			}
		}
		return ch, nil
	}
	if o.Pin != "" && o.Pin != string(Towline) {
		return Choice{Others: refused}, &config.Problem{
			Stage: remote.StageFind, Exit: config.ExitUnavailable,
			Err: errors.New(strings.Join(append([]string{fmt.Sprintf("%s, which the configuration asks for, is not there", o.Pin)}, refused...), "; ")),
			Hints: []string{
				"see what is there: `towline doctor " + o.host() + "`",
				"change or remove the pin under [hosts." + o.host() + "] in config.toml",
			},
		}
	}
	return Choice{
		Action: Offer, Others: refused, Skew: Skew{Kind: Same, Local: o.Version, Remote: o.Version},
		Why: strings.Join(append([]string{rep.notFound().Error()}, refused...), "; "),
	}, nil
}

// ranked puts the better before the worse; equals stay in the order found.
func ranked(all []Candidate, o Options) []Candidate {
	out := slices.Clone(all)
	rank := func(c Candidate) int {
		n := 0
		if c.Kind == Codex {
			n += 100
		}
		if c.Socket == "" {
			n += 50
		}
		if c.Private {
			n += 10 // the daemon people use themselves comes first
		}
		if c.Kind == Towline {
			if _, ok := o.Window.Meet(c.Window); !ok {
				n += 20
			}
			switch {
			case o.Version != "" && c.Version == o.Version:
			case c.From == "installed":
				n++
			default:
				n += 2
			}
		}
		return n
	}
	slices.SortStableFunc(out, func(a, b Candidate) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		if a.Kind == Towline && b.Kind == Towline {
			if d, ok := compareVersions(b.Version, a.Version); ok {
				return d
			}
		}
		return 0
	})
	return out
}

// unfit says why a candidate is out of the question, or "".
func unfit(c Candidate, o Options) string {
	switch {
	case o.Pin == string(Towline), o.Pin == string(Codex):
		if string(c.Kind) != o.Pin {
			return "the configuration asks for " + o.Pin
		}
	case o.Pin != "":
		if c.Path != o.Pin && c.Real != o.Pin {
			return "the configuration asks for " + o.Pin
		}
	}
	return c.Fault
}

func skewOf(c Candidate, o Options) Skew {
	if c.Kind == Codex {
		return Skew{Kind: Foreign, Local: o.Version, Remote: c.Version}
	}
	return Compare(o.Version, o.Window, c.Version, c.Window, o.host())
}

// name is a candidate for a person.
func (c Candidate) name() string {
	s := strings.TrimSpace(string(c.Kind) + " " + c.Version)
	switch {
	case c.Socket != "" && c.Private:
		s += " daemon of Towline's starting at " + c.Socket
	case c.Socket != "":
		s += " daemon at " + c.Socket
	}
	if c.Path != "" && c.Socket == "" {
		s += " at " + c.Path
	}
	return s
}

// because is why c was chosen.
func because(c Candidate, all []Candidate, o Options) string {
	if o.Pin != "" {
		return c.name() + ": the configuration asks for " + o.Pin
	}
	switch {
	case c.Socket != "":
		return c.name() + " is running"
	case c.From == "installed":
		return c.name() + ": Towline put it there"
	}
	n := 0
	for _, other := range all {
		if other.Kind == c.Kind && other.Socket == "" {
			n++
		}
	}
	from := "found in " + path.Dir(c.Path)
	if c.From == "PATH" {
		from = "found in PATH"
	}
	switch {
	case n < 2:
		return c.name() + ": " + from
	case c.Kind == Towline && o.Version != "" && c.Version == o.Version:
		return fmt.Sprintf("%s: %s, the same version as here, one of %d", c.name(), from, n)
	case c.Kind == Towline:
		return fmt.Sprintf("%s: %s, the newest of %d", c.name(), from, n)
	}
	return fmt.Sprintf("%s: %s, the first of %d", c.name(), from, n)
}

// second is why other came after c.
func second(c, other Candidate) string {
	switch {
	case c.Kind != other.Kind:
		return "Towline comes first"
	case c.Socket != "":
		return "a daemon that runs comes first"
	case c.Kind == Towline:
		return "the other one is of the better version"
	}
	return "the other one comes first in PATH"
}
