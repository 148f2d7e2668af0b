package systemssh

import (
	"strconv"
	"strings"
	"time"
	"unicode"

	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// mark is what one line of `ssh -v` tells about progress.
type mark struct {
	kind markKind
	host string // the hop as ssh names it, host or host:port
	text string // what to tell a person
	key  string // for markHostKey: "ssh-ed25519 SHA256:…"
}

type markKind int

const (
	markNone       markKind = iota // a detail
	markSays                       // not a debug line: ssh speaks to the user
	markConnecting                 // to host; text is the address
	markBanner                     // text is the server's version
	markHostNamed                  // host is about to show its key
	markHostKey                    // it did
	markNewKeys                    // and it was accepted
	markLoggedIn                   // at host; text is the method
)

// parseLine reads a line of ssh's stderr. Debug lines are written by OpenSSH in
// English whatever the locale. A wording this does not know costs a detail on
// the screen, nothing else.
func parseLine(line string) mark {
	debug, isDebug := strings.CutPrefix(line, "debug1: ")
	if !isDebug {
		if rest, ok := strings.CutPrefix(line, "Authenticated to "); ok {
			host, how, _ := strings.Cut(rest, " ")
			if i := strings.Index(how, ` using "`); i >= 0 {
				how = strings.Trim(strings.TrimSuffix(how[i+len(` using "`):], "."), `"`)
			}
			return mark{kind: markLoggedIn, host: host, text: how}
		}
		if strings.HasPrefix(line, "debug2: ") || strings.HasPrefix(line, "debug3: ") ||
			strings.HasPrefix(line, "OpenSSH_") || strings.HasPrefix(line, "Transferred: ") ||
			strings.HasPrefix(line, "Bytes per second: ") || line == "" {
			return mark{}
		}
		return mark{kind: markSays, text: line}
	}
	after := func(prefix string) (string, bool) { return strings.CutPrefix(debug, prefix) }
	switch {
	case strings.HasPrefix(debug, "SSH2_MSG_NEWKEYS received"):
		return mark{kind: markNewKeys}
	case strings.HasPrefix(debug, "Connecting to "):
		rest, _ := after("Connecting to ")
		host, where, _ := strings.Cut(rest, " ")
		return mark{kind: markConnecting, host: host, text: strings.TrimSuffix(where, ".")}
	}
	if rest, ok := after("Remote protocol version "); ok {
		if _, software, ok := strings.Cut(rest, "remote software version "); ok {
			return mark{kind: markBanner, text: software}
		}
	}
	if rest, ok := after("Authenticating to "); ok {
		host, _, _ := strings.Cut(rest, " as ")
		return mark{kind: markHostNamed, host: host}
	}
	if rest, ok := after("Server host key: "); ok {
		return mark{kind: markHostKey, key: rest}
	}
	if rest, ok := after("Server host certificate: "); ok { // "type SHA256:…, serial …"
		key, _, _ := strings.Cut(rest, ",")
		return mark{kind: markHostKey, key: key}
	}
	if rest, ok := after("Authentication succeeded ("); ok { // before OpenSSH 8.6 or so
		return mark{kind: markLoggedIn, text: strings.TrimRight(rest, ").")}
	}
	return mark{}
}

// progress follows a login through its hops and stages. It is used by one
// goroutine.
type progress struct {
	target sshconfig.Target
	emit   func(remote.Event)
	now    func() time.Time

	last    string // the stage once all hops are logged in to
	stage   string
	hop     string
	began   time.Time
	passed  int      // hops logged in to
	text    string   // what the end of the stage will say
	hostKey string   // the last one shown
	server  string   // version of the last server met
	said    []string // what ssh said of this hop apart from debug lines, bounded
}

// saidLines bounds what is kept of ssh's own words, from the end.
const saidLines = 60

func newProgress(t sshconfig.Target, last string, emit func(remote.Event), now func() time.Time) *progress {
	p := &progress{target: t, last: last, emit: emit, now: now}
	p.begin(remote.StageDial, p.hopName(""))
	return p
}

// hopName is how the person knows the hop whose turn it is. where is ssh's name
// for it, host:port, or "" when it has not been told.
func (p *progress) hopName(where string) string {
	t := p.target
	port := t.Port
	if port == 0 {
		port = 22
	}
	switch {
	case where == t.HostName+":"+strconv.Itoa(port):
		return destination(t)
	case p.passed < len(t.ProxyJump):
		return jumpName(t.ProxyJump[p.passed])
	case where != "":
		// A hop nobody mentioned: the jump host's own configuration has a jump.
		if i := strings.LastIndexByte(where, ':'); i > 0 {
			return where[:i]
		}
	}
	return destination(t)
}

// jumpName is a ProxyJump entry without the user and port.
func jumpName(entry string) string {
	entry = strings.TrimPrefix(entry, "ssh://")
	entry = entry[strings.LastIndexByte(entry, '@')+1:]
	if rest, ok := strings.CutPrefix(entry, "["); ok {
		host, _, _ := strings.Cut(rest, "]")
		return host
	}
	if strings.Count(entry, ":") == 1 {
		entry, _, _ = strings.Cut(entry, ":")
	}
	return entry
}

func (p *progress) begin(stage, hop string) {
	p.stage, p.hop, p.began, p.text = stage, hop, p.now(), ""
	p.emit(remote.Event{Stage: stage, Hop: hop})
}

// done ends the stage that runs, if it is this one.
func (p *progress) done(stage string) {
	if p.stage != stage {
		return
	}
	p.emit(remote.Event{Stage: stage, Hop: p.hop, Text: p.text, Done: true, Took: p.now().Sub(p.began)})
	p.stage = ""
}

// line takes one line of ssh's stderr, already stripped.
func (p *progress) line(s string) {
	m := parseLine(s)
	switch m.kind {
	case markSays:
		if p.said = append(p.said, m.text); len(p.said) > saidLines {
			p.said = p.said[1:]
		}
	case markConnecting:
		if p.stage == remote.StageDial {
			p.text = m.text
		}
	case markBanner:
		p.server = "SSH-2.0-" + m.text
		p.done(remote.StageDial)
	case markHostNamed:
		p.done(remote.StageDial)
		p.begin(remote.StageHostKey, p.hopName(m.host))
	case markHostKey:
		p.hostKey, p.text = m.key, m.key
	case markNewKeys:
		if p.stage == remote.StageHostKey {
			p.done(remote.StageHostKey)
			p.begin(remote.StageAuth, p.hop)
		}
	case markLoggedIn:
		p.text = m.text
		if p.stage == remote.StageAuth {
			p.done(remote.StageAuth)
			p.passed++
			p.said = nil // a banner of this hop explains nothing of the next
			if p.hop != destination(p.target) {
				p.begin(remote.StageDial, p.hopName(""))
			}
		}
	}
	if s != "" {
		p.emit(remote.Event{Stage: p.where(), Hop: p.hop, Text: s, Detail: true})
	}
}

// where is the stage a failure now belongs to.
func (p *progress) where() string {
	if p.stage == "" {
		return p.last // logged in, and nothing came of it
	}
	return p.stage
}

// finish ends what is still open once the login is known to have worked.
func (p *progress) finish() {
	if p.stage != "" {
		p.done(p.stage)
	}
}

// fail ends the stage that runs, badly.
func (p *progress) fail(stage string, err error) {
	e := remote.Event{Stage: stage, Hop: p.hop, Err: err, Took: p.now().Sub(p.began)}
	p.stage = ""
	p.emit(e)
}

// clean makes one line that a terminal may show.
func clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == '\u2028', r == '\u2029', r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, s))
}
