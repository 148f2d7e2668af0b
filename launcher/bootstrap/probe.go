package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"towline/config"
	"towline/launcher/remote"
)

const (
	// skewGrain is what the clocks may differ by before it is worth a word: the
	// remote tells whole seconds, and the link takes its time.
	skewGrain = 2 * time.Second
	// programsFactor: npm's wrapper on a cold disk takes its time to say a
	// version, so programs get more of it than facts do.
	programsFactor = 3
	// maxCandidates and maxSearched bound what a strange host makes us keep.
	maxCandidates = 64
	maxSearched   = 200
)

// doorServer is what Towline's own SSH server calls itself.
const doorServer = "SSH-2.0-Towline"

// Probe asks the remote what it is and what it has. It writes nothing there.
// The Report holds what was learned even when err is not nil.
func Probe(ctx context.Context, r Remote, o Options) (Report, error) {
	o = o.withDefaults()
	rep := Report{Env: map[string]string{}, DiskFree: -1, o: o}
	begin := o.Now()
	if s, ok := r.(interface{ Server() string }); ok && strings.HasPrefix(s.Server(), doorServer) {
		rep.Door = true
		rep.Candidates = []Candidate{{Kind: Towline, From: "door", Socket: "ssh"}}
		o.Events(remote.Event{Stage: remote.StageShell, Text: "Towline's own SSH door: no shell needed", Done: true})
		o.Events(remote.Event{Stage: remote.StageProbe, Text: "a Towline daemon answers there", Done: true})
		return rep, nil
	}
	o.Events(remote.Event{Stage: remote.StageShell, Text: "waiting for the login shell"})
	t, err := start(ctx, r, o, "probe", []variable{
		{"tl_id", o.InstallDir},
		{"tl_pin", o.pinnedPath()},
		{"tl_envt", seconds(o.EnvTimeout)},
		{"tl_itemt", seconds(o.ItemTimeout)},
		{"tl_bint", seconds(programsFactor * o.ItemTimeout)},
	}, remote.ExecOptions{})
	if err != nil {
		return rep, err
	}
	defer t.close()
	in := newIntake(&rep)
	for {
		a, err := t.next()
		if err != nil {
			in.finish()
			return rep, err
		}
		if a.key == "hello" {
			rep.UID, _ = strconv.Atoi(a.text) // 0 is what a strange one counts as: only shown
			o.Events(remote.Event{Stage: remote.StageShell, Text: "the login shell ran our script", Done: true, Took: a.at.Sub(begin)})
			o.Events(remote.Event{Stage: remote.StageProbe, Text: "asking what is there"})
			continue
		}
		if a.key == "trying" {
			o.Events(remote.Event{Stage: remote.StageProbe, Text: "environment of the " + a.text, Detail: true})
		}
		if a.key == "bye" {
			break
		}
		in.take(a)
	}
	in.finish()
	rep.Took = o.Now().Sub(begin)
	if rep.OS == "windows" {
		return rep, &config.Problem{
			Stage: remote.StageProbe, Err: fmt.Errorf("%w (its shell is %s)", errWindows, rep.Shell),
			Hints: windowsHints, Exit: config.ExitUnavailable,
		}
	}
	o.Events(remote.Event{Stage: remote.StageProbe, Text: rep.summary(), Done: true})
	return rep, nil
}

// pinnedPath is the program the configuration names, which may lie where nobody
// would look; "" when it names none.
func (o Options) pinnedPath() string {
	if strings.HasPrefix(o.Pin, "/") || strings.HasPrefix(o.Pin, "~/") {
		return o.Pin
	}
	return ""
}

// summary is the machine on one line.
func (r Report) summary() string {
	return fmt.Sprintf("%s/%s, %s@%s, %s", r.OS, r.Arch, r.User, r.Hostname, path.Base(r.Shell))
}

func seconds(d time.Duration) string { return strconv.Itoa(max(1, int((d+time.Second-1)/time.Second))) }

// intake turns answers into a Report.
type intake struct {
	rep   *Report
	begun map[string]time.Time
	bins  map[string]int // id -> index of Candidates
	alive map[string]int // a socket's question -> index of Candidates
	socks []sighting
	paths []string // of PATH
	where []string // searched, as path.N and known.N count them
}

func newIntake(rep *Report) *intake {
	return &intake{rep: rep, begun: map[string]time.Time{}, bins: map[string]int{}, alive: map[string]int{}}
}

// sighting is a daemon, by the question that found it.
type sighting struct {
	name string
	Candidate
}

func (in *intake) take(a answer) {
	r := in.rep
	yes := a.text == "yes"
	switch a.key {
	case "time":
		if n, err := strconv.ParseInt(a.text, 10, 64); err == nil {
			// Half a second is what a whole one is off by on average.
			skew := time.Unix(n, int64(500*time.Millisecond)).Sub(a.at)
			if skew.Abs() > skewGrain {
				r.ClockSkew = skew.Round(time.Second)
			}
		}
	case "os":
		r.OS = goOS(a.text)
	case "machine":
		r.Arch = goArch(a.text)
	case "kernel":
		r.Kernel = a.text
	case "host":
		r.Hostname = a.text
	case "user":
		r.User = a.text
	case "home":
		r.Home = a.text
	case "shell":
		r.Shell = a.text
	case "home.writable":
		r.ReadOnlyHome = !yes
	case "tmp.noexec":
		r.NoExecTmp = true
	case "install.noexec":
		r.NoExec = true
	case "install.writable":
		r.Writable = yes
	case "install.free":
		if n, err := strconv.ParseInt(a.text, 10, 64); err == nil && n >= 0 {
			r.DiskFree = n << 10
		}
	case "install.dir":
		r.InstallDir = a.text
	case "state.dir":
		r.StateDir = a.text
	case "systemd":
		r.Linger.Systemd = true
	case "linger":
		r.Linger.State = a.text
	case "kills":
		r.Linger.Kills = true
	case "landlock":
		r.Sandbox.Landlock = a.text
	case "userns":
		r.Sandbox.UserNS = a.text
	case "bwrap":
		r.Sandbox.Bubblewrap = a.text
	case "port":
		f := a.fields(2)
		if n, err := strconv.Atoi(f[0]); err == nil && len(r.Ports) < 8 {
			r.Ports = append(r.Ports, Port{n, f[1]})
		}
	case "tool":
		if len(r.Tools) < 32 {
			r.Tools = append(r.Tools, a.text)
		}
	case "path.broken":
		r.PathBroken = true
	case "path":
		if len(in.paths) < maxSearched {
			in.paths = append(in.paths, a.text)
		}
	case "searched":
		if len(in.where) < maxSearched {
			in.where = append(in.where, a.text)
		}
	case "env.from":
		r.EnvFrom = a.text
	case "env.note":
		r.EnvNote = a.text
	case "env":
		in.env(a)
	default:
		in.program(a)
	}
}

func (in *intake) env(a answer) {
	f := a.fields(2)
	if len(in.rep.Env) >= 64 {
		return
	}
	name, value := f[0], f[1]
	if strings.HasSuffix(strings.ToLower(name), "_proxy") {
		value = redact(value)
		in.rep.Proxies = append(in.rep.Proxies, name+"="+value)
	}
	in.rep.Env[name] = value
}

// program takes what concerns questions, binaries and sockets.
func (in *intake) program(a answer) {
	r := in.rep
	switch a.key {
	case "begin":
		if len(in.begun) < 2*maxSearched {
			in.begun[a.fields(2)[0]] = a.at
		}
	case "end", "late":
		name := a.text
		if len(r.Items) >= 2*maxSearched {
			return
		}
		it := Item{Name: name, Late: a.key == "late"}
		if begun, ok := in.begun[name]; ok { // a quick one may end before its beginning is told
			it.Took = a.at.Sub(begun)
		}
		r.Items = append(r.Items, it)
	case "bin":
		f := a.fields(4)
		if len(r.Candidates) < maxCandidates && path.IsAbs(f[3]) {
			in.bins[f[0]] = len(r.Candidates)
			r.Candidates = append(r.Candidates, Candidate{Kind: Kind(f[1]), From: f[2], Path: f[3], Fault: "it did not say its version in time"})
			if f[2] == "running" {
				in.alive[strings.TrimSuffix(f[0], ".1")] = in.bins[f[0]]
			}
		}
	case "real":
		f := a.fields(2)
		if i, ok := in.bins[f[0]]; ok && f[1] != r.Candidates[i].Path {
			r.Candidates[i].Real = f[1]
		}
	case "version":
		f := a.fields(2)
		if i, ok := in.bins[f[0]]; ok {
			r.Candidates[i].version(f[1])
		}
	case "sock":
		f := a.fields(3)
		c := Candidate{Kind: Kind(f[1]), From: "running", Socket: f[2]}
		if f[1] == "private" {
			c.Kind, c.Private = Codex, true
		}
		if len(in.socks) < 16 {
			in.socks = append(in.socks, sighting{f[0], c})
		}
	}
}

// finish puts together what came in pieces and in any order.
func (in *intake) finish() {
	r := in.rep
	if len(in.paths) > 0 {
		r.Env["PATH"] = strings.Join(in.paths, ":")
	}
	r.PathSearched = in.where
	for i, it := range r.Items {
		for _, prefix := range []string{"path.", "known."} {
			if n, err := strconv.Atoi(strings.TrimPrefix(it.Name, prefix)); err == nil && strings.HasPrefix(it.Name, prefix) && n >= 1 && n <= len(in.where) {
				r.Items[i].Name = "look in " + in.where[n-1]
			}
		}
	}
	for _, p := range []int{1455, 1457} {
		if !slices.ContainsFunc(r.Ports, func(x Port) bool { return x.Port == p }) {
			r.Ports = append(r.Ports, Port{p, "unknown"})
		}
	}
	slices.SortFunc(r.Ports, func(a, b Port) int { return a.Port - b.Port })
	for _, s := range []*string{&r.Sandbox.Landlock, &r.Sandbox.UserNS, &r.Linger.State} {
		if *s == "" {
			*s = "unknown"
		}
	}
	in.merge()
}

// merge drops the second sight of one program and gives the daemons that run
// the program that reaches them.
func (in *intake) merge() {
	r := in.rep
	order := map[string]int{"pinned": -1, "installed": 0, "PATH": 1, "well-known": 2}
	index := func(c Candidate) int { // folders were asked beside each other: any order
		if i := slices.Index(in.where, path.Dir(c.Path)); i >= 0 {
			return i
		}
		return len(in.where)
	}
	all := slices.Clone(r.Candidates)
	slices.SortStableFunc(all, func(a, b Candidate) int {
		if d := order[a.From] - order[b.From]; d != 0 {
			return d
		}
		return index(a) - index(b)
	})
	seen := map[string]bool{}
	var out []Candidate
	for _, c := range all {
		switch c.From {
		case "previous":
			r.Previous = c.Version
			continue
		case "running":
			continue // for its daemon's sake only
		}
		where := c.Path
		if c.Real != "" {
			where = c.Real
		}
		if !seen[where] {
			seen[where] = true
			out = append(out, c)
		}
	}
	programs := out
	for _, s := range in.socks {
		c := s.Candidate
		if slices.ContainsFunc(out, func(o Candidate) bool { return o.Socket == c.Socket }) {
			continue
		}
		with := usable(programs, c.Kind)
		if i, ok := in.alive[s.name]; ok && r.Candidates[i].Fault == "" {
			with = &r.Candidates[i] // the daemon's own
		}
		if with == nil {
			c.Fault = "it runs, and there is no program to reach it with"
		} else {
			c.Path, c.Real, c.Version, c.Window = with.Path, with.Real, with.Version, with.Window
		}
		out = append(out, c)
	}
	r.Candidates = out
}

func usable(all []Candidate, k Kind) *Candidate {
	for i, c := range all {
		if c.Kind == k && c.Fault == "" && c.Path != "" {
			return &all[i]
		}
	}
	return nil
}

// redact replaces the password of a proxy's address.
func redact(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return address
	}
	if u, err := url.Parse(address); err == nil && u.User != nil {
		return u.Redacted()
	}
	scheme, _, found := strings.Cut(address, "://")
	if !found {
		return "xxxxx" + address[at:]
	}
	return scheme + "://xxxxx" + address[at:]
}

// goOS and goArch translate uname's words.
func goOS(s string) string {
	low := strings.ToLower(s)
	for _, p := range []string{"mingw", "msys", "cygwin", "windows"} {
		if strings.HasPrefix(low, p) {
			return "windows"
		}
	}
	if low == "sunos" {
		return "solaris"
	}
	return low
}

func goArch(s string) string {
	switch {
	case s == "x86_64", s == "amd64":
		return "amd64"
	case s == "aarch64", s == "arm64", s == "armv8b", s == "armv8l":
		return "arm64"
	case strings.HasPrefix(s, "arm"):
		return "arm"
	case len(s) == 4 && s[0] == 'i' && s[2:] == "86", s == "x86":
		return "386"
	case s == "loongarch64":
		return "loong64"
	}
	return s
}

// Find is the report's answer to "why was nothing found".
func (r Report) notFound() error {
	return errors.New("neither towline nor codex is in " + strings.Join(r.PathSearched, ", "))
}
