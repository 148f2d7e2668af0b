package systemssh

import (
	"regexp"
	"strings"

	"towline/launcher/remote"
)

// promptKind is which of the Asker's questions a prompt of ssh's is.
type promptKind int

const (
	promptSecret  promptKind = iota // a password, passphrase, PIN or code
	promptHostKey                   // an unknown host key
	promptConfirm                   // some other yes or no
	promptNotice                    // nothing to answer: "touch your key"
)

// prompt is a question of ssh's, read.
type prompt struct {
	kind   promptKind
	secret remote.SecretQuestion // for promptSecret and promptConfirm; no Hop, no Attempt
	key    remote.HostKeyQuestion
	text   string   // for promptNotice
	more   []string // for promptHostKey: what else ssh says of the key
}

// The values of SSH_ASKPASS_PROMPT, which says what kind of answer ssh wants.
const (
	hintConfirm = "confirm"
	hintNone    = "none"
)

var (
	authenticity = regexp.MustCompile(`^The authenticity of host '(\S+)(?: \(([^']*)\))?' can't be established`)
	fingerprint  = regexp.MustCompile(`^(\S+) key fingerprint is (\S+?)\.?$`)
	challenge    = regexp.MustCompile(`^\(([^()\s]+@[^()\s]+)\) ?(.*)$`)
	passphrase   = regexp.MustCompile(`^(?:Enter passphrase for|Bad passphrase, try again for)(?: key)? '?(.*?)'?: ?$`)
)

// parsePrompt reads what ssh asks. What it does not recognise becomes a question
// in ssh's own words, so nothing a future ssh may ask is lost.
func parsePrompt(text, hint string) prompt {
	lines := make([]string, 0, 4)
	for l := range strings.Lines(text) {
		if l = clean(l); l != "" {
			lines = append(lines, l)
		}
	}
	whole := strings.Join(lines, " ")
	if hint == hintNone {
		return prompt{kind: promptNotice, text: whole}
	}
	if p, ok := hostKeyPrompt(lines); ok {
		return p
	}
	if hint == hintConfirm || strings.Contains(whole, "(yes/no") {
		q := remote.SecretQuestion{Kind: remote.Challenge, Prompt: whole, Echo: true}
		if hint == hintConfirm {
			q.Prompt += " (yes/no)"
		}
		return prompt{kind: promptConfirm, secret: q}
	}
	q := remote.SecretQuestion{Kind: remote.Challenge, Prompt: whole}
	if who, ok := strings.CutSuffix(strings.TrimSuffix(whole, ":"), "'s password"); ok && !strings.ContainsAny(who, " ") {
		q.Kind, q.Subject, q.Prompt = remote.Password, who, "password"
	} else if m := passphrase.FindStringSubmatch(whole); m != nil {
		q.Kind, q.Subject, q.Prompt = remote.Passphrase, m[1], "passphrase"
	} else if m := challenge.FindStringSubmatch(whole); m != nil {
		q.Subject, q.Prompt = m[1], m[2]
	}
	return prompt{kind: promptSecret, secret: q}
}

// hostKeyPrompt reads the one question whose answer is worth a screen of its own.
func hostKeyPrompt(lines []string) (prompt, bool) {
	p := prompt{kind: promptHostKey}
	// What a server asks has "(user@host)" before it, and any lines it likes after.
	if len(lines) == 0 || !authenticity.MatchString(lines[0]) {
		return prompt{}, false
	}
	for _, l := range lines {
		if m := authenticity.FindStringSubmatch(l); m != nil {
			p.key.Address = m[1]
		} else if m := fingerprint.FindStringSubmatch(l); m != nil && p.key.Fingerprint == "" {
			p.key.Type, p.key.Fingerprint = keyType(m[1]), m[2]
		} else if !strings.Contains(l, "(yes/no") && !strings.HasPrefix(l, "This key is not known by any other names") {
			p.more = append(p.more, l)
		}
	}
	return p, p.key.Address != "" && p.key.Fingerprint != "" && strings.Contains(lines[len(lines)-1], "(yes/no")
}

// keyType turns ssh's word for a kind of key into the protocol's, where there is
// only one.
func keyType(word string) string {
	switch word {
	case "ED25519":
		return "ssh-ed25519"
	case "RSA":
		return "ssh-rsa"
	case "DSA":
		return "ssh-dss"
	case "ED25519-SK":
		return "sk-ssh-ed25519@openssh.com"
	case "ECDSA-SK":
		return "sk-ecdsa-sha2-nistp256@openssh.com"
	}
	return word
}
