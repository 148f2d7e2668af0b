package secret

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"towline/config/osfile"
)

// folder is a directory whose files are private to one user. Every name in it
// is resolved inside it: a symbolic link may lead to another file of the same
// folder, and nowhere else. The folder itself may be reached through one.
type folder struct {
	path string
	root *os.Root
}

const (
	maxLinks  = 8 // of one name: more is a circle
	lockPoll  = 10 * time.Millisecond
	tmpMarker = "-towline-"     // in the names of our temporary files
	pollLimit = 5 * time.Second // Codex's own patience with auth.json.lock
)

// openFolder opens dir, made first (0700) when create is set. A folder that is
// not there is fs.ErrNotExist.
func openFolder(dir string, create bool) (*folder, error) {
	if create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f := &folder{path: dir, root: root}
	if err := f.check(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *folder) close() { _ = f.root.Close() } // nothing is pending on a folder

// check refuses a folder in which somebody else could put files of ours aside.
// A group's write bit is let pass: many systems give each user a group of his
// own, and what is found inside must belong to this user in any case.
func (f *folder) check() error {
	info, err := f.root.Stat(".")
	if err != nil {
		return err
	}
	if uid, ok := osfile.Owner(info); ok && uid != os.Getuid() && uid != 0 {
		return unsafeFile(f.path, fmt.Sprintf("belongs to uid %d", uid), "")
	}
	if osfile.ModesMean && info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return unsafeFile(f.path, fmt.Sprintf("is writable by everyone (mode %#o)", info.Mode().Perm()), "chmod go-w "+f.path)
	}
	return nil
}

func (f *folder) join(name string) string { return filepath.Join(f.path, filepath.FromSlash(name)) }

// resolve follows the symbolic links of name as far as they stay inside.
func (f *folder) resolve(name string) (string, error) {
	for range maxLinks {
		info, err := f.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return name, nil
		}
		to, err := f.root.Readlink(name)
		if err != nil {
			return "", err
		}
		next := path.Join(path.Dir(name), filepath.ToSlash(to))
		if filepath.IsAbs(to) || !filepath.IsLocal(filepath.FromSlash(next)) {
			return "", unsafeFile(f.join(name), "is a symbolic link to outside "+f.path, "")
		}
		name = next
	}
	return "", unsafeFile(f.join(name), "is a circle of symbolic links", "")
}

// read gives a private file's content. A missing one is fs.ErrNotExist.
func (f *folder) read(name string) ([]byte, error) {
	name, err := f.resolve(name)
	if err != nil {
		return nil, err
	}
	// Not blocking: a FIFO must not stop us before it is seen for what it is.
	file, err := f.root.OpenFile(name, os.O_RDONLY|nonBlock, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // read-only
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if err := f.private(name, info); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(file, maxStored+1))
	if err == nil && len(b) > maxStored {
		err = unsafeFile(f.join(name), "is too large for a credential", "")
	}
	return b, err
}

// private refuses what is no private file of this user.
func (f *folder) private(name string, info fs.FileInfo) error {
	p := f.join(name)
	uid, known := osfile.Owner(info)
	switch {
	case !info.Mode().IsRegular():
		return unsafeFile(p, "is not a regular file", "")
	case known && uid != os.Getuid():
		return unsafeFile(p, fmt.Sprintf("belongs to uid %d, not to you", uid), "")
	case osfile.ModesMean && info.Mode().Perm()&0o077 != 0:
		return unsafeFile(p, fmt.Sprintf("is open to others (mode %#o)", info.Mode().Perm()), "chmod 600 "+p)
	case info.Size() > maxStored:
		return unsafeFile(p, fmt.Sprintf("has %d bytes, too many for a credential", info.Size()), "")
	}
	return nil
}

// write puts data in the place of name, so that whoever reads, whenever the
// machine stops, finds the old content or the new one. A symbolic link inside
// the folder keeps leading where it did.
func (f *folder) write(name string, data []byte) error { return f.place(name, data, false) }

// writeAhead is write for what has one copy in the world: it is under its name
// before it is waited for on the disk, so that a killed process leaves it where it
// is looked for. A machine that stops in between may leave something torn there,
// or nothing; the content must show that.
func (f *folder) writeAhead(name string, data []byte) error { return f.place(name, data, true) }

func (f *folder) place(name string, data []byte, ahead bool) (err error) {
	if name, err = f.resolve(name); err != nil {
		return err
	}
	info, err := f.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return unsafeFile(f.join(name), "is not a regular file", "")
	default:
		if uid, ok := osfile.Owner(info); ok && uid != os.Getuid() {
			return unsafeFile(f.join(name), fmt.Sprintf("belongs to uid %d, not to you", uid), "")
		}
	}
	tmp := path.Join(path.Dir(name), temporary(path.Base(name)))
	file, err := f.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = file.Close()
			_ = f.root.Remove(tmp) // a sweep takes what stays
		}
	}()
	if _, err = file.Write(data); err != nil {
		return err
	}
	if !ahead {
		if err = file.Sync(); err != nil {
			return err
		}
	}
	if err = file.Close(); err != nil {
		return err
	}
	if err = f.root.Rename(tmp, name); err != nil {
		return err
	}
	if ahead {
		if err := f.syncFile(name); err != nil {
			return err
		}
	}
	return f.syncDir(path.Dir(name))
}

// syncFile makes a file's content last.
func (f *folder) syncFile(name string) error {
	file, err := f.root.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

func temporary(base string) string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return "." + strings.TrimPrefix(base, ".") + tmpMarker + hex.EncodeToString(b[:])
}

// remove forgets a file: its bytes are overwritten first, then it is unlinked.
// The overwriting is a courtesy, no promise: a file system that copies on
// write, a journal, a snapshot or a flash disk's own mapping may all keep the
// old blocks. A secret that must be gone is revoked. It reports whether there
// was a file.
func (f *folder) remove(name string) (bool, error) {
	info, err := f.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Mode().IsRegular() {
		f.overwrite(name)
	} else if to, err := f.resolve(name); err == nil && to != name {
		if was, err := f.root.Lstat(to); err == nil && was.Mode().IsRegular() {
			f.overwrite(to) // the link alone would leave the secret
			_ = f.root.Remove(to)
		}
	}
	if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	return true, f.syncDir(path.Dir(name))
}

func (f *folder) overwrite(name string) {
	file, err := f.root.OpenFile(name, os.O_WRONLY|nonBlock, 0)
	if err != nil {
		return
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxStored || links(info) > 1 {
		return // a hard link elsewhere is not ours to empty
	}
	_, _ = file.WriteAt(make([]byte, info.Size()), 0)
	_ = file.Sync()
}

// syncDir makes a rename or removal in a folder last.
func (f *folder) syncDir(dir string) error {
	d, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return syncDir(d)
}

// sweep removes what killed writers left of name. Call it only under the lock
// that all writers of the file take.
func (f *folder) sweep(name string) {
	for _, left := range f.leftovers(name) {
		if strings.Contains(left, tmpMarker) { // Codex's own are Codex's
			_, _ = f.remove(left)
		}
	}
}

// leftovers lists temporary files beside name, ours and Codex's (".auth-" and
// six letters): each holds a credential.
func (f *folder) leftovers(name string) []string {
	d, err := f.root.Open(".")
	if err != nil {
		return nil
	}
	defer func() { _ = d.Close() }()
	var out []string
	for range 64 { // a folder of Codex's has a few dozen entries
		entries, err := d.ReadDir(256)
		for _, e := range entries {
			n := e.Name()
			ours := strings.HasPrefix(n, "."+name+tmpMarker)
			codex := name == authFile && strings.HasPrefix(n, ".auth-") && len(n) == len(".auth-XXXXXX")
			if e.Type().IsRegular() && (ours || codex) {
				out = append(out, n)
			}
		}
		if err != nil {
			break
		}
	}
	return out
}

// lock takes the lock of a file, made if need be, as Codex does: flock (or its
// counterpart), asked for again and again. It ends with the file's closing.
func (f *folder) lock(ctx context.Context, name string) (*os.File, error) {
	file, err := f.root.OpenFile(name, os.O_RDWR|os.O_CREATE|nonBlock, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		err := osfile.Lock(file)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, osfile.ErrLocked) {
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", f.join(name), err)
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("%s: %w", f.join(name), ErrBusy)
		case <-tick.C:
		}
	}
}
