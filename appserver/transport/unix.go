package transport

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"towline/config"
)

const (
	// maxSocketPath is what every system's sockaddr_un holds with its closing
	// zero; macOS has the least room.
	maxSocketPath = 103
	probeTimeout  = 2 * time.Second
	// tempPrefix begins the names of folders made for sockets with a long path.
	tempPrefix = "towline-"
	// lockTimeout is how long two starts wait for each other.
	lockTimeout = 5 * time.Second
)

// bound is a listening unix socket and the names that lead to it.
type bound struct {
	ln     *net.UnixListener
	path   string      // as asked for
	real   string      // where the socket is; differs from path when that is a symlink
	tmp    string      // a directory made for real, or ""
	socket os.FileInfo // of real, to know it again
}

// bindUnix listens at path, which only this user can reach. A socket nobody
// answers is replaced; one somebody answers, or anything that is no socket, is
// left alone and refused.
func bindUnix(ctx context.Context, path, runtimeDir string) (*bound, error) {
	dir := filepath.Dir(path)
	if err := privateDir(dir); err != nil {
		return nil, err
	}
	unlock, err := lockDir(ctx, dir, lockTimeout)
	if err != nil {
		return nil, listenProblem(fmt.Errorf("lock %s: %w", dir, err))
	}
	defer unlock()
	if err := vacate(ctx, path); err != nil {
		return nil, err
	}
	b := &bound{path: path, real: path}
	if len(path) > maxSocketPath {
		if err := b.shorten(runtimeDir); err != nil {
			return nil, err
		}
		if err := vacate(ctx, b.real); err != nil {
			return nil, err
		}
	}
	if err := b.listen(ctx); err != nil {
		b.removeLocked()
		return nil, listenProblem(fmt.Errorf("%s: %w", path, rootCause(err)))
	}
	return b, nil
}

// shorten chooses a place for the socket that the kernel can address: runtimeDir
// when it is short enough, else a folder made for it. The name is a digest of
// the path, so that the next start finds what this one left.
func (b *bound) shorten(runtimeDir string) error {
	sum := sha256.Sum256([]byte(b.path))
	name := hex.EncodeToString(sum[:8]) + ".sock"
	if b.real = filepath.Join(runtimeDir, name); runtimeDir != "" && len(b.real) <= maxSocketPath {
		return privateDir(runtimeDir)
	}
	for _, dir := range []string{os.TempDir(), "/tmp"} {
		tmp, err := os.MkdirTemp(dir, tempPrefix)
		if err != nil {
			continue
		}
		if b.real = filepath.Join(tmp, name); len(b.real) <= maxSocketPath {
			b.tmp = tmp
			return nil
		}
		_ = os.Remove(tmp)
	}
	return listenProblem(fmt.Errorf("%s is too long for a socket, and no shorter place for it can be made", b.path),
		fmt.Sprintf("choose a path of at most %d bytes", maxSocketPath))
}

func (b *bound) listen(ctx context.Context) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", b.real)
	if err != nil {
		return err
	}
	b.ln = ln.(*net.UnixListener)
	b.ln.SetUnlinkOnClose(false) // by name, it could remove a successor's
	if b.socket, err = os.Lstat(b.real); err == nil {
		err = os.Chmod(b.real, 0o600)
	}
	if err == nil && b.real != b.path {
		err = os.Symlink(b.real, b.path)
	}
	if err != nil {
		_ = ln.Close()
	}
	return err
}

// remove takes the names away again, unless they lead to somebody else's
// socket by now.
func (b *bound) remove() {
	unlock, err := lockDir(context.Background(), filepath.Dir(b.path), time.Second)
	if err == nil {
		defer unlock()
	}
	b.removeLocked()
}

func (b *bound) removeLocked() {
	if b.socket != nil {
		if info, err := os.Lstat(b.real); err == nil && os.SameFile(info, b.socket) {
			_ = os.Remove(b.real)
		}
		if target, err := os.Readlink(b.path); err == nil && target == b.real {
			_ = os.Remove(b.path)
		}
	}
	if b.tmp != "" {
		_ = os.Remove(b.tmp)
	}
}

// privateDir makes dir if need be and refuses one that others can enter: the
// mode of a socket is not checked everywhere, the directory's is.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return listenProblem(rootPath(err))
	}
	info, err := os.Stat(dir)
	if err != nil {
		return listenProblem(rootPath(err))
	}
	if !info.IsDir() {
		return listenProblem(fmt.Errorf("%s is not a folder", dir))
	}
	if uid, ok := fileOwner(info); ok && uid != os.Geteuid() {
		return &config.Problem{
			Stage: "listen", Err: fmt.Errorf("the folder %s belongs to uid %d, not to you", dir, uid),
			Hints: []string{"put the socket into a folder of your own"}, Exit: config.ExitConfig,
		}
	}
	if ownerKnown && info.Mode().Perm()&0o077 != 0 {
		return &config.Problem{
			Stage: "listen", Err: fmt.Errorf("the folder %s is open to others (mode %#o)", dir, info.Mode().Perm()),
			Hints: []string{"run `chmod 700 " + dir + "`, or put the socket into a folder of its own"}, Exit: config.ExitConfig,
		}
	}
	return nil
}

// vacate makes sure that nothing is at path, removing a socket nobody answers
// and a link to nothing.
func vacate(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return listenProblem(rootPath(err))
	}
	actual := path
	if info.Mode().Type() == fs.ModeSymlink {
		actual, err = filepath.EvalSymlinks(path)
		if errors.Is(err, fs.ErrNotExist) {
			return discard(path)
		}
		if err == nil {
			info, err = os.Lstat(actual)
		}
		if err != nil {
			return listenProblem(rootPath(err))
		}
	}
	if info.Mode().Type() != fs.ModeSocket {
		return listenProblem(fmt.Errorf("%s exists and is not a socket", path), "choose another path, or move it away")
	}
	alive, err := answers(ctx, actual)
	if err != nil {
		return listenProblem(fmt.Errorf("%s exists, and whether somebody uses it is unclear: %w", path, rootCause(err)),
			"remove it when you are sure that nobody does")
	}
	if alive {
		return &config.Problem{
			Stage: "listen", Err: fmt.Errorf("%s is in use: another server answers there", path),
			Hints: []string{"use that server, or stop it first"}, Exit: config.ExitFailure,
		}
	}
	if actual != path {
		_ = os.Remove(actual) // whose directory may be gone or not ours
		if dir := filepath.Dir(actual); strings.HasPrefix(filepath.Base(dir), tempPrefix) {
			_ = os.Remove(dir) // made for this socket alone; not if anything else is in it
		}
	}
	return discard(path)
}

func discard(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return listenProblem(rootPath(err))
	}
	return nil
}

// answers reports whether a server listens on the socket at path.
func answers(ctx context.Context, path string) (bool, error) {
	d := net.Dialer{Timeout: probeTimeout}
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = c.Close()
		return true, nil
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, syscall.EAGAIN): // its queue is full: somebody is there
		return true, nil
	}
	return false, err
}

// rootPath keeps the path of a file error and drops the system call's name.
func rootPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", pe.Path, pe.Err)
	}
	return err
}

// adoptUnix is the bound socket that leads to ln, which another process opened at
// path.
func adoptUnix(ln *net.UnixListener, path string) (*bound, error) {
	ln.SetUnlinkOnClose(false)
	b := &bound{ln: ln, path: path, real: path}
	if target, err := os.Readlink(path); err == nil {
		b.real = target
		if dir := filepath.Dir(target); strings.HasPrefix(filepath.Base(dir), tempPrefix) {
			b.tmp = dir
		}
	}
	if got := ln.Addr().String(); got != b.real {
		return nil, fmt.Errorf("it listens at %s", got)
	}
	var err error
	if b.socket, err = os.Lstat(b.real); err != nil {
		return nil, rootPath(err)
	}
	return b, nil
}
