package sshclient

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

const (
	// maxKnownHosts bounds one file: a large company's list is a few megabytes.
	maxKnownHosts = 64 << 20
	// maxKnownLine is the longest line the library reads.
	maxKnownLine = bufio.MaxScanTokenSize - 2

	markerAuthority = "@cert-authority"
	markerRevoked   = "@revoked"
)

// knownKey is a key some known_hosts file holds for a host.
type knownKey struct {
	key       ssh.PublicKey
	authority bool   // it signs host certificates
	hosts     string // the line's host field
	file      string
	line      int
}

func (k knownKey) location() string { return k.file + ":" + strconv.Itoa(k.line) }

// knownHosts is the content of several known_hosts files. The matching is the
// library's; what it cannot cope with is kept from it: where ssh skips a line it
// does not understand, the library refuses the whole file.
type knownHosts struct {
	db      *knownhosts.HostKeyDB
	lines   map[string]knownKey // by the library's "file:line"
	skipped []string            // "file:line: what is wrong"
}

// readKnownHosts reads files; those that do not exist are empty.
func readKnownHosts(files []string) (*knownHosts, error) {
	k, err := loadKnownHosts(files, false)
	var bad *badLineError
	if errors.As(err, &bad) {
		k, err = loadKnownHosts(files, true)
	}
	return k, err
}

// badLineError says that the library refused a file it was given as it is:
// somebody wrote to it in between.
type badLineError struct{ err error }

func (e *badLineError) Error() string { return e.err.Error() }

// loadKnownHosts hands files to the library, those with lines it would refuse (or
// all of them) as cleaned copies.
func loadKnownHosts(files []string, copies bool) (_ *knownHosts, err error) {
	k := &knownHosts{lines: make(map[string]knownKey)}
	var dir string
	defer func() {
		if dir != "" {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	var names []string
	for i, file := range files {
		content, err := readBounded(file, maxKnownHosts)
		if errors.Is(err, fs.ErrNotExist) || file == "" || strings.EqualFold(file, "none") {
			continue
		}
		if err != nil {
			return nil, err
		}
		clean, entries, skipped := cleanKnownHosts(content)
		name := file
		if copies || !bytes.Equal(clean, content) {
			if dir == "" {
				if dir, err = os.MkdirTemp("", "towline-known-hosts-"); err != nil {
					return nil, err
				}
			}
			name = filepath.Join(dir, strconv.Itoa(i))
			if err := os.WriteFile(name, clean, 0o600); err != nil {
				return nil, err
			}
		}
		for _, e := range entries {
			k.lines[name+":"+strconv.Itoa(e.line)] = knownKey{
				key: e.key, authority: e.marker == markerAuthority, hosts: e.hosts, file: file, line: e.line,
			}
		}
		for _, s := range skipped {
			k.skipped = append(k.skipped, file+":"+s)
		}
		names = append(names, name)
	}
	if k.db, err = knownhosts.NewDB(names...); err != nil {
		return nil, &badLineError{err}
	}
	return k, nil
}

// readBounded reads a whole file that must not be larger than limit.
func readBounded(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read-only
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", file, limit)
	}
	return b, err
}

// entry is one line of a known_hosts file:
//
//	[@cert-authority|@revoked] HOSTS TYPE BASE64-KEY [comment]
//
// HOSTS are patterns with commas between, or |1|salt|hash.
type entry struct {
	marker, hosts string
	key           ssh.PublicKey
	line          int
}

// cleanKnownHosts is content with the lines emptied that the library would stumble
// over, and host patterns in lower case as ssh compares them. Line numbers stay.
func cleanKnownHosts(content []byte) (clean []byte, entries []entry, skipped []string) {
	n := 0
	for line := range bytes.Lines(content) {
		n++
		body := bytes.TrimRight(line, "\r\n")
		trimmed := bytes.Trim(body, " \t")
		if len(trimmed) == 0 || trimmed[0] == '#' {
			if len(body) <= maxKnownLine {
				clean = append(clean, line...)
			} else {
				clean = append(clean, '\n')
			}
			continue
		}
		e, err := parseEntry(string(trimmed))
		if err == nil && len(body) > maxKnownLine {
			err = errors.New("the line is too long")
		}
		if err != nil {
			skipped = append(skipped, strconv.Itoa(n)+": "+printable(err.Error(), 200))
			clean = append(clean, '\n')
			continue
		}
		e.line = n
		if lower := strings.ToLower(e.hosts); e.hosts[0] != '|' && lower != e.hosts {
			line = bytes.Replace(line, []byte(e.hosts), []byte(lower), 1)
			e.hosts = lower
		}
		clean = append(clean, line...)
		entries = append(entries, e)
	}
	return clean, entries, skipped
}

// parseEntry reads one line without blanks around it, refusing what the library
// would refuse.
func parseEntry(line string) (entry, error) {
	var e entry
	word := func() (w string) {
		i := strings.IndexAny(line, " \t")
		if i < 0 {
			w, line = line, ""
			return w
		}
		w, line = line[:i], strings.Trim(line[i:], " \t")
		return w
	}
	e.hosts = word()
	if e.hosts == markerAuthority || e.hosts == markerRevoked {
		e.marker, e.hosts = e.hosts, word()
	}
	if strings.HasPrefix(e.hosts, "@") {
		return e, fmt.Errorf("%s is no marker", e.hosts)
	}
	keyType, blob := word(), word()
	if e.hosts == "" || blob == "" {
		return e, errors.New("the line is incomplete")
	}
	if err := checkHosts(e.hosts); err != nil {
		return e, err
	}
	raw, err := base64.StdEncoding.DecodeString(blob)
	if err != nil {
		return e, err
	}
	if e.key, err = ssh.ParsePublicKey(raw); err != nil {
		return e, err
	}
	if e.key.Type() != keyType {
		return e, fmt.Errorf("the line says %s, its key is %s", keyType, e.key.Type())
	}
	return e, nil
}

// checkHosts refuses host fields the library cannot read.
func checkHosts(hosts string) error {
	if hosts[0] == '|' {
		parts := strings.Split(hosts, "|")
		if len(parts) != 4 || parts[1] != "1" {
			return errors.New("the hash is of an unknown kind")
		}
		for _, p := range parts[2:] {
			if _, err := base64.StdEncoding.DecodeString(p); err != nil {
				return err
			}
		}
		return nil
	}
	for p := range strings.SplitSeq(hosts, ",") {
		bare := strings.TrimPrefix(p, "!")
		if p != "" && bare == "" {
			return errors.New("a ! with nothing behind it")
		}
		if strings.HasPrefix(bare, "[") {
			if _, _, err := net.SplitHostPort(bare); err != nil {
				return err
			}
		}
	}
	return nil
}

// anyAddr stands for the server's address, which is looked at only when a name is
// missing.
var anyAddr = &net.TCPAddr{IP: net.IPv4zero}

// probeKey is a key nobody has: asking about it lists the keys a host should have.
type probeKey struct{}

func (probeKey) Type() string                        { return "probe" }
func (probeKey) Marshal() []byte                     { return []byte("probe") }
func (probeKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// keys lists what is known for address, "host:port". ssh also takes a line without
// a port for a host on another port, so those come second; they can vouch for a
// key, but not call it changed.
func (k *knownHosts) keys(address string) (exact, portless []knownKey) {
	exact = k.at(address)
	if host, port, err := net.SplitHostPort(address); err == nil && port != "22" {
		portless = k.at(net.JoinHostPort(host, "22"))
	}
	return exact, portless
}

func (k *knownHosts) at(address string) []knownKey {
	var wrong *xknownhosts.KeyError
	if err := k.db.HostKeyCallback()(address, anyAddr, probeKey{}); !errors.As(err, &wrong) {
		return nil
	}
	var keys []knownKey
	for _, w := range wrong.Want {
		if kk, ok := k.lines[w.Filename+":"+strconv.Itoa(w.Line)]; ok {
			keys = append(keys, kk)
		}
	}
	return keys
}

// verdict is what known_hosts says about a key.
type verdict int

const (
	unknown verdict = iota
	known
	changed
	revoked
)

// finding is a verdict with its evidence.
type finding struct {
	verdict verdict
	by      knownKey   // the line that vouches for the key, or revokes it
	old     []knownKey // the keys it should have been
	cert    error      // why a certificate does not count; nil when there is none
}

// check judges the key a server at address showed.
func (k *knownHosts) check(address string, key ssh.PublicKey) finding {
	var f finding
	cert, isCert := key.(*ssh.Certificate)
	judged := []ssh.PublicKey{key}
	if isCert {
		judged = []ssh.PublicKey{cert.Key, cert.SignatureKey}
	}
	for _, j := range judged {
		var r *xknownhosts.RevokedError
		if err := k.db.HostKeyCallback()(address, anyAddr, j); errors.As(err, &r) {
			return finding{verdict: revoked, by: k.lines[r.Revoked.Filename+":"+strconv.Itoa(r.Revoked.Line)]}
		}
	}
	exact, portless := k.keys(address)
	if isCert {
		if by, err := k.checkCertificate(address, cert, append(exact, portless...)); err == nil {
			return finding{verdict: known, by: by}
		} else {
			f.cert = err
		}
		key = cert.Key // as ssh does: the key inside may be known by itself
	}
	for _, kk := range append(exact[:len(exact):len(exact)], portless...) {
		if !kk.authority && bytes.Equal(kk.key.Marshal(), key.Marshal()) {
			return finding{verdict: known, by: kk}
		}
	}
	for _, kk := range exact {
		if !kk.authority {
			f.verdict = changed
			f.old = append(f.old, kk)
		}
	}
	return f
}

// checkCertificate is nil when an authority known for the host vouches for it.
func (k *knownHosts) checkCertificate(address string, cert *ssh.Certificate, keys []knownKey) (knownKey, error) {
	err := k.db.HostKeyCallback()(address, anyAddr, cert)
	if host, port, split := net.SplitHostPort(address); err != nil && split == nil && port != "22" {
		if k.db.HostKeyCallback()(net.JoinHostPort(host, "22"), anyAddr, cert) == nil {
			err = nil
		}
	}
	for _, kk := range keys {
		if kk.authority && bytes.Equal(kk.key.Marshal(), cert.SignatureKey.Marshal()) {
			return kk, err
		}
	}
	if err == nil { // an authority the library sees and we do not: impossible, and not to be trusted
		err = errors.New("no authority for this host")
	}
	return knownKey{}, err
}

// saveKnownHost adds a line for address to file, in one write at the end of it, so
// that it cannot tear the lines of others who do the same. A file that was
// replaced meanwhile (ssh-keygen -R does) gets the line as well.
func saveKnownHost(file, address string, key ssh.PublicKey, hashed bool) error {
	name, port, err := net.SplitHostPort(address)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 ||
		name == "" || name != printable(name, maxKnownLine) || strings.ContainsAny(name, " ,!*?#|@[]\\\"") {
		return fmt.Errorf("%q cannot be written to known_hosts", address)
	}
	host := knownhosts.Normalize(strings.ToLower(address))
	if hashed {
		host = xknownhosts.HashHostname(host)
	}
	line := host + " " + key.Type() + " " + base64.StdEncoding.EncodeToString(key.Marshal()) + "\n"
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	for range 8 {
		kept, err := appendLine(file, line)
		if err != nil || kept {
			return err
		}
	}
	return fmt.Errorf("%s is being replaced over and over", file)
}

// appendLine reports whether file still is the file it wrote to.
func appendLine(file, line string) (kept bool, err error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	before, err := f.Stat()
	if err != nil {
		return false, err
	}
	if before.Size() > 0 {
		var last [1]byte
		if _, err := f.ReadAt(last[:], before.Size()-1); err != nil {
			return false, err
		}
		if last[0] != '\n' {
			line = "\n" + line
		}
	}
	if _, err := f.WriteString(line); err != nil {
		return false, err
	}
	after, err := os.Stat(file)
	return err == nil && os.SameFile(before, after), nil
}
