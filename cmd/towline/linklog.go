package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/term"

	"towline/config"
	"towline/config/osfile"
)

// maxLinkLog bounds the log of a connection.
const maxLinkLog = 16 << 20

// linkLog is where --verbose writes while a UI has the terminal: a log among the
// lines of a screen is read by nobody, and ruins the screen.
type linkLog struct {
	path string

	mu   sync.Mutex // guards what follows
	f    *os.File
	room int
}

// openLinkLog begins the log anew.
func openLinkLog(paths config.Paths) (*linkLog, error) {
	if err := config.PrivateDir(paths.State); err != nil {
		return nil, err
	}
	path := filepath.Join(paths.State, "connect.log")
	// Removed and not emptied: another window may write to the old one.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|osfile.NoFollow, 0o600)
	if err != nil {
		return nil, err
	}
	return &linkLog{path: path, f: f, room: maxLinkLog}, nil
}

// Write implements io.Writer. What is beyond the bound is dropped.
func (l *linkLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.room -= len(p); l.room < 0 {
		l.room = 0
		return len(p), nil
	}
	return l.f.Write(p)
}

// close says where the log is.
func (l *linkLog) close(errOut io.Writer) {
	_ = l.f.Close() // what could be written is there
	fmt.Fprintln(errOut, "the log of the connection is "+l.path)
}

// verboseLog is where the log of --verbose goes, and what ends it: to errOut
// unless that is the terminal a UI will have.
func (o *connectOptions) verboseLog(errOut io.Writer) (io.Writer, func(), error) {
	if !o.verbose || o.json || o.goBack || !term.IsTerminal(int(os.Stderr.Fd())) {
		return errOut, func() {}, nil
	}
	paths, err := config.Locate(os.Getenv)
	if err != nil {
		return nil, nil, err
	}
	l, err := openLinkLog(paths)
	if err != nil {
		return nil, nil, err
	}
	return l, func() { l.close(errOut) }, nil
}
