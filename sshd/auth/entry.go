// Package auth reads authorized_keys: which keys may log in, from where, until
// when, and as what. It neither listens nor verifies signatures; sshd asks it
// about a key and tells it who is calling.
//
// The file has OpenSSH's format (sshd(8), AUTHORIZED_KEYS FILE FORMAT): a key a
// line, options in front. Because the file belongs to the host's owner, a key in
// it is the owner's unless the line says otherwise:
//
//	ssh-ed25519 AAAA… ana@laptop                                      admin
//	environment="TOWLINE_ROLE=approver" ssh-ed25519 AAAA… ana@phone   approver
//	restrict,environment="TOWLINE_ROLE=observer" ssh-ed25519 AAAA…    no terminal
//	no-port-forwarding ssh-ed25519 AAAA… ana@tablet                    no login's port
//	from="10.0.0.0/8,!10.0.0.9",expiry-time="20271231Z" ssh-ed25519 AAAA…
//	command="app-server",restrict ssh-ed25519 AAAA… ci
//
// TOWLINE_ROLE is observer, approver, operator or admin. One bad line costs that
// line: it is reported with its number and the others stand. A line with an
// option nobody knows, or whose promise cannot be kept, admits nobody.
//
// Start with [Open], then [Keys.Check].
package auth

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

// Limits on the file.
const (
	maxFile    = 1 << 20  // bytes; thousands of keys
	maxLine    = 16 << 10 // bytes; the longest RSA key with options is a tenth of it
	maxName    = 80       // runes of a comment that are shown
	minRSABits = 2048     // NIST SP 800-131A
)

// Grant is what one line gives to the key on it.
type Grant struct {
	Fingerprint string // "SHA256:…"
	Name        string // the comment, safe to print; the fingerprint when there is none
	Role        protocol.Role
	Line        int
	// Terminal is false after restrict or no-pty: no UI, the protocol only.
	Terminal bool
	// NoForward is true after restrict or no-port-forwarding: not even the port of a
	// login may be reached. Opens narrows where to, as ",HOST:PORT" for each
	// permitopen; empty does not.
	NoForward bool
	Opens     string
	// Forced replaces whatever the client asks for by Command.
	Forced  bool
	Command string
	// NoTouch accepts a security key's signature without a touch.
	NoTouch bool
}

// Principal is who a connection with this grant is.
func (g Grant) Principal() access.Principal {
	return access.Principal{Kind: access.KindKey, ID: g.Fingerprint, Name: g.Name, Role: g.Role}
}

// MayOpen reports whether the line leaves a forward to host and port, as the
// client names them, to the server's own policy. A line with a command of its own
// gives that command and nothing beside it.
func (g Grant) MayOpen(host string, port uint32) bool {
	if g.NoForward || g.Forced {
		return false
	}
	if g.Opens == "" {
		return true
	}
	for open := range strings.SplitSeq(g.Opens[1:], ",") {
		if open == net.JoinHostPort(host, "*") || open == net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)) {
			return true
		}
	}
	return false
}

// Same reports whether two grants allow the same. Where the line stands and what
// it calls the key does not matter.
func (g Grant) Same(o Grant) bool {
	g.Line, g.Name = o.Line, o.Name
	return g == o
}

// entry is one line of the file, understood.
type entry struct {
	blob []byte // the key in wire format
	Grant
	limits
}

// lineError is what is wrong with one line of the file.
type lineError struct {
	Line int
	Err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap gives the cause.
func (e *lineError) Unwrap() error { return e.Err }

// parse reads a whole file. Lines it cannot use are in errs.
func parse(data []byte) (entries []entry, errs []*lineError) {
	n := 0
	for raw := range bytes.SplitSeq(data, []byte("\n")) {
		n++
		line := strings.Trim(string(raw), " \t\r")
		if line == "" || line[0] == '#' {
			continue
		}
		e, err := parseLine(line)
		if err != nil {
			errs = append(errs, &lineError{Line: n, Err: err})
			continue
		}
		e.Line = n
		entries = append(entries, e)
	}
	return entries, errs
}

// parseLine reads "[options] type base64 [comment]". As in OpenSSH, what does
// not start with a key must start with options.
func parseLine(line string) (entry, error) {
	if len(line) > maxLine {
		return entry{}, fmt.Errorf("longer than %d bytes", maxLine)
	}
	e := entry{Grant: Grant{Role: protocol.RoleAdmin, Terminal: true}}
	rest := line
	if !startsWithKey(rest) {
		opts, after, err := splitOptions(rest)
		if err != nil {
			return entry{}, err
		}
		if !startsWithKey(after) {
			return entry{}, errors.New("no key: expected a type such as ssh-ed25519, maybe after options")
		}
		if err := e.applyOptions(opts); err != nil {
			return entry{}, err
		}
		rest = after
	}
	key, comment, err := parseKey(rest)
	if err != nil {
		return entry{}, err
	}
	e.blob = key.Marshal()
	e.Fingerprint = ssh.FingerprintSHA256(key)
	if e.Name = Printable(comment, maxName); e.Name == "" {
		e.Name = e.Fingerprint
	}
	return e, nil
}

// acceptedTypes are the keys that may log in. Certificates are not: a
// cert-authority line is refused by its option, a pasted certificate here.
var acceptedTypes = map[string]bool{
	ssh.KeyAlgoED25519: true, ssh.KeyAlgoSKED25519: true, ssh.KeyAlgoSKECDSA256: true,
	ssh.KeyAlgoECDSA256: true, ssh.KeyAlgoECDSA384: true, ssh.KeyAlgoECDSA521: true,
	ssh.KeyAlgoRSA: true,
}

// startsWithKey tells a key's type from options, which never contain "ssh-" or
// "ecdsa-" at their start.
func startsWithKey(s string) bool {
	t, _, _ := strings.Cut(s, " ")
	t, _, _ = strings.Cut(t, "\t")
	return strings.HasPrefix(t, "ssh-") || strings.HasPrefix(t, "ecdsa-") || strings.HasPrefix(t, "sk-ssh-") ||
		strings.HasPrefix(t, "sk-ecdsa-")
}

func parseKey(s string) (ssh.PublicKey, string, error) {
	typ, rest := cutSpace(s)
	b64, comment := cutSpace(rest)
	if !acceptedTypes[typ] {
		return nil, "", fmt.Errorf("keys of type %q may not log in", Printable(typ, 40))
	}
	blob, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return nil, "", fmt.Errorf("damaged key: %w", err)
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, "", fmt.Errorf("damaged key: %w", err)
	}
	if key.Type() != typ {
		return nil, "", fmt.Errorf("the line says %s, the key inside is %s", typ, Printable(key.Type(), 40))
	}
	if err := strong(key); err != nil {
		return nil, "", err
	}
	return key, comment, nil
}

// strong refuses keys that somebody else may be able to compute.
func strong(key ssh.PublicKey) error {
	ck, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return nil
	}
	if r, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() < minRSABits {
		return fmt.Errorf("an RSA key of %d bits is too short: %d at least", r.N.BitLen(), minRSABits)
	}
	return nil
}

// cutSpace splits at the first run of blanks.
func cutSpace(s string) (head, tail string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

// Printable makes text from outside safe for a terminal, a log and a page's
// text: no control, format or invalid characters, at most max runes.
func Printable(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			continue
		}
		if n++; n > limit {
			b.WriteRune('…')
			break
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
