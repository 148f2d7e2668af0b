package auth

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"towline/config"
)

// Why a key is not admitted. Outside they all look alike.
var (
	ErrUnlisted    = errors.New("the key is not in authorized_keys")
	ErrExpired     = errors.New("the key has expired")
	ErrSource      = errors.New("the key may not be used from this address")
	ErrCertificate = errors.New("certificates are not accepted")
	// ErrUnusable: the file cannot be read, or others could have written it. Nobody
	// new is admitted until that is put right.
	ErrUnusable = errors.New("authorized_keys cannot be used")
)

// racy is how young a file may be for a second change to hide behind the same
// modification time; so young a file is read again at the next question.
const racy = 2 * time.Second

// Keys is an authorized_keys file that is read again when it changes. Safe for
// use by many goroutines.
type Keys struct {
	path string
	log  *slog.Logger
	now  func() time.Time

	mu      sync.Mutex // guards what follows; held while the file is read
	entries []entry
	seen    fs.FileInfo       // of the file the entries are from; nil: read it
	sum     [sha256.Size]byte // of the content last logged, so that it is logged once
	problem string            // the same for trouble
}

// Open reads the file at path. A missing file is no error: nobody may log in
// until there is one. A file that others may write is an error.
func Open(path string, log *slog.Logger) (*Keys, error) {
	k := &Keys{path: path, log: log, now: time.Now}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refresh(); err != nil {
		return nil, err
	}
	if len(k.entries) == 0 {
		log.Warn("no key may log in yet", "file", path)
	}
	return k, nil
}

// Check says what key is worth coming from remote right now. Of several lines
// with the same key the first that admits it counts. The error is one of this
// package's, possibly wrapped.
func (k *Keys) Check(key ssh.PublicKey, remote netip.Addr) (Grant, error) {
	if _, ok := key.(*ssh.Certificate); ok {
		return Grant{}, ErrCertificate
	}
	blob := key.Marshal()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refresh(); err != nil {
		return Grant{}, err
	}
	why := ErrUnlisted
	now := k.now()
	for i := range k.entries {
		e := &k.entries[i]
		switch {
		case !bytes.Equal(e.blob, blob):
		case !e.expires.IsZero() && !now.Before(e.expires):
			why = ErrExpired
		case !e.from.allows(remote):
			why = ErrSource
		default:
			return e.Grant, nil
		}
	}
	return Grant{}, why
}

// refresh reads the file again if it is not the one the entries are from.
func (k *Keys) refresh() error {
	info, data, err := k.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.entries, k.seen = nil, nil
		k.trouble("the file is missing: nobody may log in")
		return nil
	case err != nil:
		k.entries, k.seen = nil, nil
		k.trouble(err.Error())
		return fmt.Errorf("%w: %w", ErrUnusable, err)
	case data == nil:
		return nil
	}
	entries, bad := parse(data)
	if sum := sha256.Sum256(data); k.problem != "" || sum != k.sum {
		k.sum, k.problem = sum, ""
		for _, b := range bad {
			k.log.Warn("authorized_keys: this line admits nobody", "file", k.path, "line", b.Line, "why", b.Err)
		}
		k.log.Info("authorized_keys read", "file", k.path, "keys", len(entries), "refused_lines", len(bad))
	}
	k.entries, k.seen = entries, info
	if k.now().Sub(info.ModTime()) < racy {
		k.seen = nil
	}
	return nil
}

func (k *Keys) trouble(what string) {
	if k.problem != what {
		k.problem = what
		k.log.Error("authorized_keys", "file", k.path, "why", what)
	}
}

// read returns the file's content, or nil when it has not changed. What is
// checked is the file that was opened, not the name.
func (k *Keys) read() (fs.FileInfo, []byte, error) {
	f, err := os.Open(k.path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }() // read-only
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if err := k.guarded(info); err != nil {
		return nil, nil, err
	}
	if k.seen != nil && os.SameFile(info, k.seen) && info.ModTime().Equal(k.seen.ModTime()) && info.Size() == k.seen.Size() {
		return info, nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, err
	}
	if len(data) > maxFile {
		return nil, nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	return info, data, nil
}

// guarded refuses a file that somebody else could have written: who can write
// it, or swap it in its folder, could let themselves in.
func (k *Keys) guarded(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return &config.Problem{Err: fmt.Errorf("%s is not a file", k.path), Exit: config.ExitConfig}
	}
	real, err := filepath.EvalSymlinks(k.path)
	if err != nil {
		return err
	}
	dir := filepath.Dir(real)
	dirInfo, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return errors.Join(ours(real, info), ours(dir, dirInfo))
}

func ours(path string, info fs.FileInfo) error {
	uid, ok := owner(info)
	if !ok {
		return nil
	}
	if uid != 0 && uid != os.Getuid() {
		return &config.Problem{
			Err:   fmt.Errorf("%s belongs to uid %d, not to you", path, uid),
			Hints: []string{"run `chown " + fmt.Sprint(os.Getuid()) + " " + path + "`"}, Exit: config.ExitConfig,
		}
	}
	if info.Mode().Perm()&0o022 != 0 {
		return &config.Problem{
			Err:   fmt.Errorf("%s can be written by others (mode %#o)", path, info.Mode().Perm()),
			Hints: []string{"run `chmod go-w " + path + "`"}, Exit: config.ExitConfig,
		}
	}
	return nil
}
