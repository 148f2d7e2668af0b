package systemssh

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh/knownhosts"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// Error is why ssh gave up, in one line, with everything it said.
type Error struct {
	Cause string
	// Said are ssh's own words, apart from debug lines; stripped.
	Said []string
	Err  error // how the program ended, when that was learned
}

func (e *Error) Error() string { return e.Cause }

// Unwrap gives how the program ended.
func (e *Error) Unwrap() error { return e.Err }

// ErrRefused is behind a Problem when the person did not trust a host key.
var ErrRefused = errors.New("the host key was not accepted")

// failure is what is known when a login did not work.
type failure struct {
	target  sshconfig.Target
	stage   string // where it happened, as far as ssh told
	hop     string
	said    []string
	hostKey string // what the server showed
	err     error  // how ssh ended, or why it was ended
	silence bool   // it was ended because it said nothing for too long
	nobody  bool   // a question found no one to answer
	refused bool   // a host key was refused by the person
	once    bool   // by "once", where that is impossible
	asked   bool   // a secret was given
}

// cause is one way for ssh to fail: a pattern of its words, in English as
// OpenSSH writes them, and the stage at which they mean that. Later on a server's
// banner could say the same, to put a command of its choice into our advice. An
// unknown wording leaves the stage progress had reached and the last words as the
// cause; the patterns add better advice.
type cause struct {
	at    string
	words *regexp.Regexp
	hints func(f failure, m []string) []string // nil: see changedKey
}

func static(hints ...string) func(failure, []string) []string {
	return func(failure, []string) []string { return hints }
}

var (
	offending = regexp.MustCompile(`^(?:Offending|Offending key for IP in) ?(\S+)?(?: key)?(?: in)? ?(\S.*):(\d+)$`)
	sentKey   = regexp.MustCompile(`^(SHA256:[A-Za-z0-9+/]{43})\.?$`)
	removeCmd = regexp.MustCompile(`^ssh-keygen -f ["']([A-Za-z0-9_./@%+,:=-]+)["'] -R ["']([A-Za-z0-9_.:@%\[\]-]+)["']$`)
	bareWord  = regexp.MustCompile(`^[A-Za-z0-9_./@%+,:=-]+$`)
)

// word is s as one word of a command to type: what ssh repeats may be the words of
// a jump host or a proxy, who must not get theirs into our advice.
func word(s string) string {
	if bareWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// causes in order of precedence: what comes first explains what follows.
var causes = []cause{
	{remote.StageResolve, regexp.MustCompile(`^(.*): line (\d+): Bad configuration option: (.*)$`), func(_ failure, m []string) []string {
		return []string{fmt.Sprintf("remove `%s` from %s line %s, or put `IgnoreUnknown %s` above it", m[3], m[1], m[2], m[3])}
	}},
	{remote.StageResolve, regexp.MustCompile(`^Bad owner or permissions on (.*)$`), func(_ failure, m []string) []string {
		return []string{"run `chmod 600 " + word(m[1]) + "`, and check that the file is yours"}
	}},
	{remote.StageResolve, regexp.MustCompile(`terminating, \d+ bad configuration options`), static("correct the configuration ssh names")},
	{remote.StageDial, regexp.MustCompile(`Could not resolve hostname (\S+): `), func(f failure, m []string) []string {
		return []string{
			"check HostName for `" + f.hop + "` in ~/.ssh/config, or the spelling of the name",
			"run `getent hosts " + word(strings.TrimSuffix(m[1], ":")) + "`: if it knows nothing, a VPN or DNS server may be missing",
		}
	}},
	{remote.StageDial, regexp.MustCompile(`^(?:ssh: )?connect to (?:host|address) (\S+) port (\d+): .*refused`), func(_ failure, m []string) []string {
		return []string{fmt.Sprintf("check that sshd listens on port %s of %s: run `systemctl status ssh` there", m[2], m[1]), "check Port in ~/.ssh/config"}
	}},
	{remote.StageDial, regexp.MustCompile(`^(?:ssh: )?connect to (?:host|address) (\S+) port (\d+): .*(?:timed out|[Tt]imeout)`), func(_ failure, m []string) []string {
		return []string{"check that " + m[1] + " is up and that no firewall drops port " + m[2], "raise ConnectTimeout in ~/.ssh/config if the network is slow"}
	}},
	{remote.StageDial, regexp.MustCompile(`^(?:ssh: )?connect to (?:host|address) (\S+) port \d+: `), func(_ failure, m []string) []string {
		return []string{"check the network or VPN: run `ping " + word(m[1]) + "`"}
	}},
	{remote.StageDial, regexp.MustCompile(`open failed: administratively prohibited`), func(f failure, _ []string) []string {
		return []string{"the jump host before " + f.hop + " forbids going on: check AllowTcpForwarding and PermitOpen in its sshd_config"}
	}},
	{remote.StageDial, regexp.MustCompile(`open failed: connect failed: (.*)$`), func(f failure, _ []string) []string {
		return []string{"the jump host cannot reach " + f.place() + ": check that it is up, and its name and port as seen from there"}
	}},
	{remote.StageHostKey, regexp.MustCompile(`REMOTE HOST IDENTIFICATION HAS CHANGED`), nil}, // see changedKey
	{remote.StageHostKey, regexp.MustCompile(`REVOKED HOST KEY DETECTED`), static("this key was marked as revoked: ask whoever runs the host for its new key")},
	{remote.StageHostKey, regexp.MustCompile(`^Host key verification failed`), func(f failure, _ []string) []string {
		return []string{"run `ssh " + destination(f.target) + "` in a terminal once to see and accept its key", "or set `StrictHostKeyChecking accept-new` for it in ~/.ssh/config"}
	}},
	{remote.StageHostKey, regexp.MustCompile(`no matching (.*) found\. Their offer: ([A-Za-z0-9@.+-]*)`), func(_ failure, m []string) []string {
		option := "KexAlgorithms"
		switch {
		case strings.HasPrefix(m[1], "host key"):
			option = "HostKeyAlgorithms"
		case strings.HasPrefix(m[1], "cipher"):
			option = "Ciphers"
		case strings.HasPrefix(m[1], "MAC"):
			option = "MACs"
		}
		return []string{"the server is old: set `" + option + " +" + m[2] + "` for it in ~/.ssh/config if you must"}
	}},
	{remote.StageAuth, regexp.MustCompile(`Too many authentication failures`), static(
		"the agent offers too many keys: set `IdentitiesOnly yes` and the right IdentityFile for the host in ~/.ssh/config")},
	{remote.StageAuth, regexp.MustCompile(`^Permissions 0?\d+ for '(.*)' are too open`), func(f failure, m []string) []string {
		if !slices.Contains(f.target.IdentityFiles, m[1]) { // perhaps not ssh's words
			return []string{"close the key's file to others: ssh does not use a key others can read"}
		}
		return []string{"run `chmod 600 " + word(m[1]) + "`: ssh does not use a key others can read"}
	}},
	{remote.StageAuth, regexp.MustCompile(`Permission denied \((.*)\)`), func(f failure, m []string) []string { return deniedHints(f, m[1]) }},
	{remote.StageAuth, hungUp, static(
		"the server ended the login: check AllowUsers, MaxAuthTries and its log, or whether fail2ban has banned this address")},
	{remote.StageDial, regexp.MustCompile(`^(?:kex_exchange_identification|banner exchange|ssh_exchange_identification): `), func(f failure, _ []string) []string {
		if f.target.ProxyCommand != "" {
			return []string{"the ProxyCommand did not reach an SSH server: run it by hand: `" + clean(f.target.ProxyCommand) + "`"}
		}
		return []string{
			"something answers there, but ends the connection before SSH begins: check that it is an SSH port",
			"a server that is too busy (MaxStartups) or has banned this address (fail2ban) does the same: wait a minute, then try again",
		}
	}},
}

// hungUp is what ssh says when the other end is gone.
var hungUp = regexp.MustCompile(`^(?:Connection (?:closed|reset) by|Received disconnect from|(?:kex_exchange_identification|client_loop):) `)

// deniedHints advise on what to try when the server takes none of what it got.
func deniedHints(f failure, methods string) []string {
	var hints []string
	name := destination(f.target)
	if f.hop != "" {
		name = f.hop
	}
	has := func(m string) bool { return strings.Contains(methods, m) }
	if has("publickey") {
		hints = append(hints, "run `ssh-add -l` to see which keys are offered, and `ssh-copy-id "+name+"` to add one to the host")
	}
	if has("gssapi") {
		hints = append(hints, "run `klist`, and `kinit` if there is no ticket")
	}
	switch {
	case (has("password") || has("keyboard-interactive")) && f.nobody:
		hints = append(hints, "run it in a terminal: the server would take a password")
	case f.asked:
		hints = append(hints, "check what was typed, and the user name `"+f.target.User+"`")
	}
	return append(hints, "run `ssh -v "+name+"` to see what is tried")
}

// problem explains a failure: at which stage, why, what to type next. It is
// total: whatever ssh said, there is a stage and a hint.
func (f failure) problem() *config.Problem {
	p := &config.Problem{Stage: f.stage}
	e := &Error{Said: f.said, Err: f.err}
	p.Err = e
	if f.refused {
		e.Cause, e.Err, p.Stage = ErrRefused.Error(), ErrRefused, remote.StageHostKey
		p.Hints = []string{"compare the fingerprint with what the host's owner says, then connect again"}
		if f.once {
			e.Cause = "the host key of a jump host can be accepted for good, but not just once, by the system ssh"
			p.Hints = []string{"connect again and accept it for good, or run `ssh " + f.hop + "` first"}
		}
		return p
	}
	found := false
search:
	for _, c := range causes {
		if c.at != f.stage && !(c.at == remote.StageResolve && f.stage == remote.StageDial) {
			continue
		}
		for _, line := range f.said {
			m := c.words.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			found, e.Cause, p.Stage = true, strings.TrimPrefix(line, "ssh: "), c.at
			if c.hints == nil {
				e.Cause, p.Hints = changedKey(f)
			} else {
				p.Hints = c.hints(f, m)
			}
			break search
		}
	}
	if !found {
		e.Cause, p.Hints = f.unknown(p.Stage)
	}
	switch {
	case p.Stage == remote.StageDial, hungUp.MatchString(e.Cause): // nobody refused anything
		p.Exit = config.ExitUnavailable
	case p.Stage == remote.StageHostKey, p.Stage == remote.StageAuth:
		p.Exit = config.ExitDenied
	}
	if t := f.target; t.ProxyCommand != "" && p.Stage == remote.StageDial && len(f.said) > 1 {
		e.Cause = strings.Join(f.said[max(0, len(f.said)-4):], "; ") // the proxy's words come first
	}
	if f.hop != "" && f.hop != destination(f.target) {
		e.Cause = "jump host " + f.hop + ": " + e.Cause
	}
	return p
}

// unknown explains a failure no pattern recognises.
func (f failure) unknown(stage string) (string, []string) {
	text := ""
	if len(f.said) > 0 {
		text = strings.TrimPrefix(f.said[len(f.said)-1], "ssh: ")
	}
	name := destination(f.target)
	switch {
	case f.silence && stage == remote.StageDial:
		return join(fmt.Sprintf("%s does not answer at the SSH level", f.place()), text),
			[]string{"run `ssh -v " + name + "` to see where it stops", "raise ConnectTimeout in ~/.ssh/config if the network is slow"}
	case stage == remote.StageShell:
		if text == "" && f.err != nil {
			text = f.err.Error()
		}
		return join("logged in, but the login shell did not run our command", text), []string{
			"run `ssh " + name + " /bin/sh -c true`: it must end at once and say nothing",
			"check ForceCommand in the host's sshd_config, command= in authorized_keys, and the shell's startup files",
		}
	case f.silence:
		return join("no word from "+f.place()+" for too long", text), []string{"run `ssh -v " + name + "` to see where it stops"}
	case text == "" && f.err != nil:
		text = "ssh ended: " + f.err.Error()
	case text == "":
		text = "ssh ended without a word"
	}
	return text, []string{"run `ssh -v " + name + "` to see the same with all its words"}
}

// place is the hop with its address when it is the target.
func (f failure) place() string {
	t := f.target
	if f.hop != "" && f.hop != destination(t) || t.HostName == "" {
		return f.hop
	}
	if t.Port != 0 {
		return t.HostName + " port " + strconv.Itoa(t.Port)
	}
	return t.HostName
}

// changedKey says which key was expected and which came, where the old one is
// written, and how to be rid of it.
func changedKey(f failure) (string, []string) {
	var file, line, sent, remove string
	// A file that is none of ours is not ssh's word.
	ours := slices.Concat(f.target.UserKnownHosts, f.target.GlobalKnownHosts)
	for _, s := range f.said {
		if m := offending.FindStringSubmatch(s); m != nil && file == "" && slices.Contains(ours, m[2]) {
			file, line = m[2], m[3]
		} else if m := sentKey.FindStringSubmatch(s); m != nil {
			sent = m[1]
		} else if m := removeCmd.FindStringSubmatch(s); m != nil && remove == "" && slices.Contains(ours, m[1]) {
			remove = s
		}
	}
	if sent == "" {
		_, sent, _ = strings.Cut(f.hostKey, " ")
	}
	text := "the host key of " + f.place() + " has changed"
	if sent != "" {
		text += ": it is now " + sent
	}
	if n, err := strconv.Atoi(line); err == nil {
		if old, err := fingerprintAt(file, n); err == nil {
			text += ", it was " + old
		}
		text += " (" + file + ":" + line + ")"
	}
	if remove == "" {
		remove = "ssh-keygen -R " + word(knownhosts.Normalize(knownName(f.target)))
	}
	return text, []string{
		"ask whoever runs the host whether its key was changed: if it was not, someone may be in between",
		"then run `" + remove + "` and connect again",
	}
}

func join(a, b string) string {
	if b == "" {
		return a
	}
	return a + ": " + b
}
