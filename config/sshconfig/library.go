package sshconfig

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kevinburke/ssh_config"

	"towline/config"
)

// Without OpenSSH, a library decides which values come first. It cannot be given
// the files as they are: it refuses most Match lines, applies some it should
// not, takes "?" for an optional character, keeps tabs and quotes in names, and
// reads Includes where nobody can look. So our own reader goes first and hands it
// one flat text: the options of the blocks that surely apply, Includes in their
// place, nothing else.
//
// A Match that depends on what only ssh could find out (exec, canonical, final,
// …) is left out, and said to be. When it could have changed where we end up, as
// whom, or through what, nothing is resolved: a guess there would connect to the
// wrong machine, or show a key to it.

// decisive are the options a doubtful Match must not touch. Those with true may
// be set several times, so that an earlier value does not settle them.
var decisive = map[string]bool{
	"hostname": false, "port": false, "user": false, "proxyjump": false, "proxycommand": false, "proxyusefdpass": false,
	"identityfile": true, "certificatefile": true, "identityagent": false, "identitiesonly": false, "pkcs11provider": false,
	"securitykeyprovider": false, "hostkeyalias": false, "forwardagent": false,
}

// several are the options that gather values instead of keeping the first.
var several = map[string]bool{
	"identityfile": true, "certificatefile": true, "sendenv": true, "localforward": true, "remoteforward": true, "dynamicforward": true,
}

// wordwise are the options of which each argument is a value of its own.
var wordwise = map[string]bool{"userknownhostsfile": true, "globalknownhostsfile": true, "sendenv": true, "setenv": true, "addkeystoagent": true}

// verdict is whether a block applies.
type verdict int

const (
	no verdict = iota
	unsure
	sure
)

// flattener turns the files into one text that holds what surely applies to one
// host.
type flattener struct {
	w        *walker
	d        dest
	text     strings.Builder
	verdicts map[*section]verdict // as each was when its block began
	seen     map[string]bool      // options set so far
	held     [][]string           // values the library would change, by number
	warnings []string
	told     map[*section]bool
	refusal  error
}

// holder stands for a held value in the text: it holds no blank, quote or #.
const holder = "@held:"

// fromLibrary resolves without ssh.
func fromLibrary(o Options, d dest) (Target, error) {
	f := &flattener{d: d, verdicts: map[*section]verdict{}, seen: map[string]bool{}, told: map[*section]bool{}}
	f.w = newWalker(o, f.line)
	f.w.run()
	if f.w.loose != "" {
		return Target{}, &config.Problem{
			Stage: stage, Err: fmt.Errorf("others may have written %s", clean(f.w.loose)), Exit: config.ExitConfig,
			Hints: []string{"run `chmod 600 " + clean(f.w.loose) + "`, and see that the file is yours"},
		}
	}
	if f.refusal != nil {
		return Target{}, &config.Problem{
			Stage: stage, Err: f.refusal, Exit: config.ExitConfig,
			Hints: []string{"install OpenSSH (the ssh command), which can tell", "or name the machine itself instead of an alias, as user@host"},
		}
	}
	options, err := f.decode()
	if err != nil {
		return Target{}, &config.Problem{
			Stage: stage, Err: fmt.Errorf("read the configuration without OpenSSH: %w", err), Exit: config.ExitConfig,
			Hints: []string{"install OpenSSH (the ssh command)"},
		}
	}
	t := Target{Source: SourceLibrary, Warnings: []string{"there is no ssh command here; the configuration was read without it, which knows less"}}
	t.Warnings = append(t.Warnings, f.warnings...)
	for _, fault := range f.w.faults {
		t.Warnings = append(t.Warnings, "ignored: "+fault.String())
	}
	f.settle(o, options, &t)
	if err := t.fill(o, d, options); err != nil {
		return Target{}, err
	}
	if t.GSSAPIAuthentication && setFor(o, d.host, "gssapiauthentication") {
		t.NeedsSystem = appendNew(t.NeedsSystem, "GSSAPIAuthentication")
	}
	return t, nil
}

// line takes what the walker shows.
func (f *flattener) line(s *section, l *line) {
	v := f.verdict(s)
	if l.key == "host" || l.key == "match" || v == no || f.refusal != nil {
		return
	}
	key := l.key
	if now := current[key]; now != "" {
		key = now
	}
	if v == unsure {
		f.doubt(s, l, key)
		return
	}
	// Whichever of the two came first counts.
	if key == "proxycommand" && f.seen["proxyjump"] || key == "proxyjump" && f.seen["proxycommand"] {
		return
	}
	if strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		f.warnings = append(f.warnings, fmt.Sprintf("ignored: %s:%d: %s is no option", clean(l.file), l.no, clean(key)))
		return
	}
	f.seen[key] = true
	value := l.args[0]
	if len(l.args) > 1 || strings.ContainsAny(value, "#\"\r") || value != strings.Trim(value, blanks) || value == "" || strings.HasPrefix(value, holder) {
		f.held = append(f.held, l.args)
		value = holder + strconv.Itoa(len(f.held)-1)
	}
	f.text.WriteString("  " + key + " " + value + "\n")
}

// doubt handles an option of a block that may or may not apply.
func (f *flattener) doubt(s *section, l *line, key string) {
	again, matters := decisive[key]
	proxy := strings.HasPrefix(key, "proxy") && (f.seen["proxyjump"] || f.seen["proxycommand"])
	settled := !again && (f.seen[key] || proxy) || key == "user" && f.d.user != "" || key == "port" && f.d.port != 0
	if matters && !settled {
		f.refusal = fmt.Errorf("%s:%d: %s may or may not apply to %s, and without OpenSSH there is no telling: it depends on the Match at line %d",
			clean(l.file), l.no, or(spelling[key], key), clean(f.d.host), f.matchLine(s))
		return
	}
	for b := s; b != nil; b = b.parent {
		if len(b.match) > 0 && f.verdicts[b] == unsure && !f.told[b] {
			f.told[b] = true
			f.warnings = append(f.warnings, fmt.Sprintf("ignored: %s:%d: the Match block, which only OpenSSH can decide", clean(b.file), b.no))
		}
	}
}

// matchLine is the line of the innermost Match around.
func (f *flattener) matchLine(s *section) int {
	for ; s != nil; s = s.parent {
		if len(s.match) > 0 {
			return s.no
		}
	}
	return 0
}

// verdict decides a block when it begins, as ssh does: with what is set by then.
func (f *flattener) verdict(s *section) verdict {
	if v, ok := f.verdicts[s]; ok {
		return v
	}
	v := sure
	if s.parent != nil {
		v = f.verdict(s.parent)
	}
	if v != no {
		switch {
		case s.host != nil:
			if !matchAny(f.d.host, s.host) {
				v = no
			}
		case s.match != nil:
			v = min(v, f.judge(s.match))
		}
	}
	f.verdicts[s] = v
	return v
}

// judge decides the conditions of a Match: no as soon as one surely fails.
func (f *flattener) judge(conditions []criterion) verdict {
	out := sure
	for _, c := range conditions {
		holds, known := f.holds(c)
		switch {
		case !known:
			out = unsure
		case holds == c.not:
			return no
		}
	}
	return out
}

// holds decides one condition, where that takes no program, no DNS, and no
// second reading of the files.
func (f *flattener) holds(c criterion) (holds, known bool) {
	switch c.name {
	case "all":
		return true, true
	case "originalhost":
		return matchHosts(f.d.host, c.arg), true
	case "localuser":
		return matchList(f.w.o.User, c.arg), true
	case "host":
		name, known := f.sofar("hostname")
		if name == "" {
			name = f.d.host
		}
		name, err := tokens{host: f.d.host}.expand(name, "%h")
		return matchHosts(name, c.arg), known && err == nil
	case "user":
		if f.d.user != "" {
			return matchList(f.d.user, c.arg), true
		}
		name, known := f.sofar("user")
		return matchList(or(name, f.w.o.User), c.arg), known
	}
	return false, false
}

// sofar is a value as the library has it from the text up to here.
func (f *flattener) sofar(key string) (string, bool) {
	if !f.seen[key] {
		return "", true
	}
	options, err := f.decode()
	return first(options[key]), err == nil
}

// decode has the library read the text, and brings held values back.
func (f *flattener) decode() (map[string][]string, error) {
	cfg, err := ssh_config.Decode(strings.NewReader(f.text.String()))
	if err != nil {
		return nil, err
	}
	options := map[string][]string{}
	for key := range f.seen {
		values, err := cfg.GetAll(f.d.host, key)
		if err != nil {
			return nil, err
		}
		if !several[key] && len(values) > 1 {
			values = values[:1] // GetAll gives what would come later, too
		}
		for _, v := range values {
			if n, ok := strings.CutPrefix(v, holder); ok {
				i, err := strconv.Atoi(n)
				if err != nil || i < 0 || i >= len(f.held) {
					return nil, fmt.Errorf("lost the value of %s", key)
				}
				if wordwise[key] {
					options[key] = append(options[key], f.held[i]...)
				} else {
					options[key] = append(options[key], strings.Join(f.held[i], " "))
				}
				continue
			}
			options[key] = append(options[key], v)
		}
	}
	return options, nil
}

// settle brings the library's values into the form `ssh -G` prints, with the
// defaults it would add.
func (f *flattener) settle(o Options, options map[string][]string, t *Target) {
	host := or(first(options["hostname"]), f.d.host)
	if h, err := (tokens{host: f.d.host}).expand(host, "%h"); err == nil {
		host = h
	}
	options["hostname"] = []string{strings.ToLower(host)}
	if first(options["user"]) == "" {
		options["user"] = []string{o.User}
	}
	if p := first(options["port"]); p != "" {
		if n, err := parsePort(p); err == nil {
			options["port"] = []string{strconv.Itoa(n)}
		}
	}
	for _, key := range []string{"connecttimeout", "serveraliveinterval"} {
		if v := first(options[key]); v != "" && v != "none" {
			if n, err := parseTime(v); err == nil {
				options[key] = []string{strconv.Itoa(n)}
			}
		}
	}
	if v := options["addkeystoagent"]; len(v) > 0 {
		last := len(v) - 1
		if n, err := parseTime(v[last]); err == nil {
			v[last] = strconv.Itoa(n)
		}
		options["addkeystoagent"] = []string{strings.Join(v, " ")}
	}
	for _, key := range []string{"ciphers", "kexalgorithms", "macs", "hostkeyalgorithms", "pubkeyacceptedalgorithms"} {
		// "+x", "-x" and "^x" change a list only ssh has.
		if v := first(options[key]); v != "" && strings.ContainsAny(v[:1], "+-^") {
			delete(options, key)
			t.Warnings = append(t.Warnings, "ignored: "+spelling[key]+" "+clean(v)+", which changes a list only OpenSSH has")
		}
	}
	options["sendenv"] = sendEnv(options["sendenv"])
	options["identityfile"] = unique(options["identityfile"])
	options["certificatefile"] = unique(options["certificatefile"])
	if v := first(options["canonicalizehostname"]); v == "yes" || v == "always" {
		t.Warnings = append(t.Warnings, "ignored: CanonicalizeHostname "+v)
	}
	// What ssh has where nothing is said.
	if len(options["identityfile"]) == 0 {
		for _, n := range defaultIdentities[:7] {
			options["identityfile"] = append(options["identityfile"], "~/.ssh/"+n)
		}
	}
	if v := first(options["verifyhostkeydns"]); len(options["updatehostkeys"]) == 0 && (len(options["userknownhostsfile"]) > 0 || v != "" && yesNo(v) != "no") {
		options["updatehostkeys"] = []string{"no"} // on by itself only with the usual files, and where the DNS has no say
	}
	if len(options["userknownhostsfile"]) == 0 {
		options["userknownhostsfile"] = []string{"~/.ssh/known_hosts", "~/.ssh/known_hosts2"}
	}
	if len(options["globalknownhostsfile"]) == 0 {
		dir := f.w.places.systemDir
		options["globalknownhostsfile"] = []string{dir + "/ssh_known_hosts", dir + "/ssh_known_hosts2"}
	}
	if v := first(options["hostkeyalias"]); v != "" {
		options["hostkeyalias"] = []string{strings.ToLower(v)}
	}
}

// sendEnv applies the entries that begin with "-", which take earlier ones back.
func sendEnv(names []string) []string {
	var out []string
	for _, n := range names {
		gone, minus := strings.CutPrefix(n, "-")
		if !minus {
			out = append(out, n)
			continue
		}
		out = slices.DeleteFunc(out, func(have string) bool { return matchPattern(have, gone) })
	}
	return out
}

func unique(names []string) []string {
	var out []string
	for _, n := range names {
		out = appendNew(out, n)
	}
	return out
}

// parseTime reads ssh's times, "90", "1m30s", "2h", in seconds.
func parseTime(s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 {
		return n, nil
	}
	total := time.Duration(0)
	for rest := strings.ToLower(s); rest != ""; {
		i := strings.IndexAny(rest, "smhdw")
		if i < 1 {
			return 0, fmt.Errorf("%q is not a time", clean(s))
		}
		n, err := strconv.ParseUint(rest[:i], 10, 31)
		if err != nil {
			return 0, fmt.Errorf("%q is not a time", clean(s))
		}
		unit := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[rest[i]]
		if n > uint64((1<<31-1)*time.Second/unit) {
			return 0, fmt.Errorf("%q is too long", clean(s))
		}
		total += time.Duration(n) * unit
		rest = rest[i+1:]
	}
	if total > (1<<31-1)*time.Second {
		return 0, fmt.Errorf("%q is too long", clean(s))
	}
	return int(total / time.Second), nil
}

// setFor says whether the person's own files turn an option on for a host in a
// block that is not for every host: a decision about this host, unlike a default
// of the distribution or a line copied under "Host *".
func setFor(o Options, host, key string) bool {
	decided, on := false, false
	w := newWalker(o, nil)
	w.visit = func(s *section, l *line) {
		if decided || l.key != key || !s.namesOnly(host) {
			return
		}
		decided, on = true, yes(l.args[0], false)
	}
	w.user(or(o.UserFile, w.places.userFile))
	return on
}

// namesOnly says whether the section surely applies to host and not to every
// other one.
func (s *section) namesOnly(host string) bool {
	narrow := false
	for ; s != nil; s = s.parent {
		switch {
		case s.match != nil:
			return false // not without ssh
		case s.host != nil:
			if !matchAny(host, s.host) {
				return false
			}
			everyone := false
			for _, p := range s.host {
				everyone = everyone || strings.Trim(p, "*") == ""
			}
			narrow = narrow || !everyone
		}
	}
	return narrow
}
