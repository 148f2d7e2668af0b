package sshconfig

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Listing is what [List] found. Faults do not make the aliases wrong: each costs
// only the line or file it names.
type Listing struct {
	Aliases []Alias // in the order ssh reads them, each name once
	Faults  []Fault
}

// Alias is a concrete host somebody wrote down. Patterns are never aliases.
type Alias struct {
	Name string
	File string // absolute, where the name stands first
	Line int
	// HostName, User and Port are as literally written in the blocks that name
	// the alias, %h filled in; "" and 0 when they say nothing. Only [Resolve]
	// knows what patterns and Match blocks add.
	HostName, User string
	Port           int
	// FromMatch says the name stands in a Match block only.
	FromMatch bool
}

// Fault is something ssh would stumble over, or we had to skip.
type Fault struct {
	File string
	Line int    // 0: the whole file
	Text string // stripped of control characters
}

// Location is "file:line", for people.
func (a Alias) Location() string { return a.File + ":" + strconv.Itoa(a.Line) }

// String is the fault as a compiler would word it.
func (f Fault) String() string {
	if f.Line == 0 {
		return f.File + ": " + f.Text
	}
	return f.File + ":" + strconv.Itoa(f.Line) + ": " + f.Text
}

// maxAliases bounds a listing.
const maxAliases = 10_000

// List names every concrete host of the configuration and its Includes. It
// executes nothing and asks no network.
func List(o Options) Listing {
	b := lister{index: map[string]int{}, named: map[*section][]int{}}
	b.w = newWalker(o.withDefaults(), b.line)
	b.w.run()
	return Listing{Aliases: b.withoutTargets(), Faults: b.w.faults}
}

// withoutTargets leaves out names of Match lines that are only another word for a
// host listed already: Match sees the HostName, and case does not count there.
func (b *lister) withoutTargets() []Alias {
	known := map[string]bool{}
	for _, a := range b.aliases {
		if !a.FromMatch {
			known[strings.ToLower(a.Name)], known[strings.ToLower(a.HostName)] = true, true
		}
	}
	return slices.DeleteFunc(b.aliases, func(a Alias) bool { return a.FromMatch && known[strings.ToLower(a.Name)] })
}

// lister gathers aliases from the lines a walker shows it.
type lister struct {
	w       *walker
	aliases []Alias
	index   map[string]int     // name -> aliases
	named   map[*section][]int // which aliases a Host block names
	ignored []string           // patterns of IgnoreUnknown
}

func (b *lister) line(s *section, l *line) {
	switch l.key {
	case "host":
		taken := slices.DeleteFunc(slices.Clone(s.host), func(p string) bool { return !strings.HasPrefix(p, "!") })
		for _, name := range s.host {
			if isPattern(name) || len(taken) > 0 && !matchAny(name, append(taken, name)) {
				continue
			}
			if strings.Contains(name, ",") {
				b.w.fault(l.file, l.no, "Host %s: names are separated by blanks, not commas", name)
				continue
			}
			if i, ok := b.add(name, s, l, false); ok {
				b.named[s] = append(b.named[s], i)
			}
		}
	case "match":
		for _, c := range s.match {
			if c.not || c.name != "host" && c.name != "originalhost" {
				continue
			}
			for _, name := range strings.Split(c.arg, ",") {
				if name != "" && !isPattern(name) && matchHosts(name, c.arg) {
					b.add(name, s, l, true)
				}
			}
		}
	case "hostname", "user", "port":
		for _, i := range b.named[s] {
			b.aliases[i].set(l)
		}
	case "ignoreunknown":
		for _, a := range l.args {
			b.ignored = append(b.ignored, strings.Split(strings.ToLower(a), ",")...)
		}
	default:
		if knownKeyword(l.key) || matchAny(l.key, b.ignored) {
			return
		}
		text := "ssh may not know the option " + l.key
		if near := nearestKeyword(l.key); near != "" {
			text += ", did you mean " + near + "?"
		}
		b.w.fault(l.file, l.no, "%s", text)
	}
}

// add records a name, unless the blocks around its Include keep it out.
func (b *lister) add(name string, s *section, l *line, match bool) (int, bool) {
	if err := checkHost(name); err != nil {
		b.w.fault(l.file, l.no, "%v: %s", err, name)
		return 0, false
	}
	for p := s.parent; p != nil; p = p.parent {
		if p.excludes(name) {
			return 0, false
		}
	}
	i, seen := b.index[name]
	switch {
	case !seen && len(b.aliases) >= maxAliases:
		b.w.fault(l.file, l.no, "more than %d hosts; the rest is left out", maxAliases)
		return 0, false
	case !seen:
		i = len(b.aliases)
		b.index[name] = i
		b.aliases = append(b.aliases, Alias{Name: name, File: l.file, Line: l.no, FromMatch: match})
	case b.aliases[i].FromMatch && !match:
		a := &b.aliases[i]
		a.File, a.Line, a.FromMatch = l.file, l.no, false
	}
	return i, true
}

// excludes says whether nothing in the section can apply to name. A Match that
// depends on more than the name excludes nobody.
func (s *section) excludes(name string) bool {
	if s.host != nil {
		return !matchAny(name, s.host)
	}
	for _, c := range s.match {
		if c.name == "originalhost" && matchHosts(name, c.arg) == c.not {
			return true
		}
		if c.name == "all" && c.not {
			return true
		}
	}
	return false
}

// set takes a literal value; the first one stays, as in ssh.
func (a *Alias) set(l *line) {
	v := l.args[0]
	switch l.key {
	case "hostname":
		if a.HostName == "" {
			a.HostName = clean(strings.NewReplacer("%%", "%", "%h", a.Name).Replace(v))
		}
	case "user":
		if a.User == "" {
			a.User = clean(v)
		}
	case "port":
		if n, err := parsePort(v); err == nil && a.Port == 0 {
			a.Port = n
		}
	}
}

// parsePort reads a port number, or the name of a service as /etc/services has
// it.
func parsePort(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n > 0 {
		return int(n), nil
	}
	if err == nil || len(s) > 32 {
		return 0, errors.New("not a port")
	}
	return net.LookupPort("tcp", s)
}
