package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// maxHolder bounds the file that says who holds a home, in bytes.
const maxHolder = 8 << 10

// Holder is the daemon that has a home. Where its socket is depends on the
// environment it was started in, which need not be that of whoever looks for it:
// one login sets XDG_RUNTIME_DIR and another does not.
type Holder struct {
	PID    int    `json:"pid"`
	Socket string `json:"socket"` // path of its own socket
}

func (p Paths) holderFile() string { return filepath.Join(p.State, "daemon.lock") }

// Hold makes this process the one daemon of the home until release is called or
// it ends in whatever way. When there is another, its Holder comes with an error.
func (p Paths) Hold() (release func(), other Holder, err error) {
	f, other, err := p.HoldFile()
	if err != nil {
		return nil, other, err
	}
	return func() { _ = f.Close() }, Holder{}, nil // the lock goes with it
}

// HoldFile is Hold with the file whose open descriptor is the lock, so that it can
// be given to a successor, see [Paths.Inherit].
func (p Paths) HoldFile() (lock *os.File, other Holder, err error) {
	f, err := os.OpenFile(p.holderFile(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, Holder{}, err
	}
	held, err := tryLock(f)
	for n := 0; held && n < 10; n++ { // whoever looks for a daemon has it for a moment
		time.Sleep(25 * time.Millisecond)
		held, err = tryLock(f)
	}
	if errors.Is(err, errors.ErrUnsupported) { // a network disk; the socket still keeps a second one away
		return f, Holder{}, nil
	}
	if err != nil || held {
		other = readHolder(f)
		_ = f.Close()
		if err == nil {
			err = fmt.Errorf("pid %d holds it", other.PID)
		}
		return nil, other, err
	}
	if err := p.Inherit(f); err != nil {
		_ = f.Close()
		return nil, Holder{}, err
	}
	return f, Holder{}, nil
}

// Inherit says that this process is the daemon of the home now. The lock is one
// that HoldFile gave, to this process or to the one that handed it over.
func (p Paths) Inherit(lock *os.File) error {
	b, err := json.Marshal(Holder{PID: os.Getpid(), Socket: p.Socket()})
	if err == nil {
		err = lock.Truncate(0)
	}
	if err == nil {
		_, err = lock.WriteAt(append(b, '\n'), 0)
	}
	return err
}

// Holder is the daemon that has the home now, if one does.
func (p Paths) Holder() (h Holder, ok bool) {
	f, err := os.OpenFile(p.holderFile(), os.O_RDWR, 0)
	if err != nil {
		return Holder{}, false
	}
	defer func() { _ = f.Close() }() // and the lock, if it is ours now
	if !someoneHolds(f) {
		return Holder{}, false
	}
	return readHolder(f), true
}

// FindSocket is where the home's daemon listens: Socket, unless one runs that
// was started in another environment.
func (p Paths) FindSocket() string {
	if h, ok := p.Holder(); ok && filepath.IsAbs(h.Socket) {
		return h.Socket
	}
	return p.Socket()
}

// readHolder is best effort: whoever took the lock a moment ago has not written
// yet.
func readHolder(f *os.File) (h Holder) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxHolder))
	if err != nil || json.Unmarshal(b, &h) != nil {
		return Holder{}
	}
	return h
}
