package secret

import (
	"errors"
	"io/fs"
	"os"

	"towline/config/osfile"
)

// Refreshing reports whether somebody holds [Store.Lock] now, for showing. It
// waits for nobody and makes nothing: where there is no lock file, nobody does.
func (s *Store) Refreshing() (bool, error) {
	if s.o.Kind == KindEphemeral {
		return len(s.local) > 0, nil
	}
	f, err := openFolder(s.o.CodexHome, false)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, storeProblem("look at "+s.o.CodexHome, err)
	}
	defer f.close()
	file, err := f.root.OpenFile(refreshLock, os.O_RDWR|nonBlock, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, storeProblem("look at "+f.join(refreshLock), err)
	}
	defer func() { _ = file.Close() }() // and the lock, if it is ours now
	err = osfile.Lock(file)
	if errors.Is(err, osfile.ErrLocked) {
		return true, nil
	}
	return false, err
}
