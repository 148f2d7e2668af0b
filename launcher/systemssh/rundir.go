package systemssh

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"towline/config"
)

const (
	dirPrefix  = "ssh-"
	masterName = "c" // the control socket
	lockName   = "l" // locked for as long as the folder is in use

	// maxSocketDir keeps a socket's path within the 104 bytes of the BSDs, with
	// the 17 that ssh adds to it for a moment.
	maxSocketDir = 80

	// youngDir is not swept: it may be about to be locked.
	youngDir = time.Minute
)

// rundir is the private folder of one connection.
type rundir struct {
	path string
	lock *os.File // nil where there are no locks
	once sync.Once
}

// newRundir makes a folder of mode 0700 in base, or in the temporary folder when
// base is too long a name for sockets. base may be empty.
func newRundir(base string) (*rundir, error) {
	if base != "" {
		if err := config.PrivateDir(base); err != nil {
			return nil, err
		}
	}
	var all error
	for _, in := range []string{base, os.TempDir(), "/tmp"} {
		if in == "" || len(in)+len(dirPrefix)+12 > maxSocketDir {
			all = errors.Join(all, errors.New("the path of "+in+" is too long for a socket"))
			continue
		}
		dir, err := os.MkdirTemp(in, dirPrefix+"*")
		if err != nil {
			all = errors.Join(all, err)
			continue
		}
		d := &rundir{path: dir}
		if d.lock, err = lock(filepath.Join(dir, lockName)); err != nil {
			d.remove()
			return nil, err
		}
		return d, nil
	}
	return nil, all
}

func (d *rundir) file(name string) string { return filepath.Join(d.path, name) }

func (d *rundir) remove() {
	d.once.Do(func() {
		_ = os.RemoveAll(d.path)
		if d.lock != nil {
			_ = d.lock.Close()
		}
	})
}

// sweep ends the control masters that a killed program of ours left in base. Who
// is alive holds a lock.
func sweep(ctx context.Context, program, base string) {
	dirs, err := filepath.Glob(filepath.Join(base, dirPrefix+"*"))
	if err != nil || base == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, dir := range dirs {
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() || time.Since(info.ModTime()) < youngDir {
			continue
		}
		l, err := lock(filepath.Join(dir, lockName))
		if err != nil || l == nil {
			continue
		}
		socket := filepath.Join(dir, masterName)
		if _, err := os.Lstat(socket); err == nil {
			cmd := exec.CommandContext(ctx, program, "-F", "none", "-S", socket, "-O", "exit", "--", "unused")
			cmd.WaitDelay = time.Second
			_ = cmd.Run() // nobody listens there when the link was cut
		}
		_ = os.RemoveAll(dir)
		_ = l.Close()
	}
}
