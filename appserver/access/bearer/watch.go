package bearer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"towline/config"
	"towline/config/osfile"
)

// lookEvery and badLooks are how a change of a file is noticed: at the next look,
// and when there is nothing usable in it at the one after, because a writer may be
// in the middle. So a secret that was taken away ends within about a second.
const badLooks = 2

// watched is a file with a secret or with keys. Run alone calls look; keys may be
// read by anybody.
type watched struct {
	path   string
	secret bool // not for others to read
	parse  func(text string) (ring, error)
	log    *slog.Logger
	keys   atomic.Pointer[ring]

	sum  [sha256.Size]byte
	bad  int  // looks in a row at which there was nothing usable
	once bool // a pipe or the like, which can be read once
}

func (w *watched) ring() ring {
	if r := w.keys.Load(); r != nil {
		return *r
	}
	return nil
}

// open reads the file for the first time. The errors are Codex's.
func (w *watched) open() error {
	st, err := os.Stat(w.path)
	if err == nil {
		w.once = !st.Mode().IsRegular()
		if w.secret && st.Mode().Perm()&0o077 != 0 && !w.once && osfile.ModesMean {
			// Codex takes it, and so does who mounts secrets into a container.
			w.log.Warn("a file with a credential can be read by others; chmod 600 closes it", "file", w.path, "mode", st.Mode().Perm().String())
		}
	}
	text, sum, err := read(w.path)
	var r ring
	if err == nil {
		r, err = w.parse(text)
	}
	if err != nil {
		return w.mend(err)
	}
	w.sum = sum
	w.keys.Store(&r)
	return nil
}

// mend adds what to type.
func (w *watched) mend(err error) error {
	hint := fmt.Sprintf("make one: `(umask 077; openssl rand -hex 32 > %s)`", w.path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		hint = "let the user who runs towline read it: `ls -l " + w.path + "`"
	case errors.Is(err, errPrivate):
		hint = "write the public half to another file: `openssl pkey -in " + w.path + " -pubout`"
	case !w.secret:
		hint = "see what is in it: `openssl pkey -pubin -noout -text -in " + w.path + "`"
	}
	return &config.Problem{Err: err, Hints: []string{hint}}
}

// look reads the file again. Keys that are in it no longer are gone.
func (w *watched) look() {
	if w.once {
		return
	}
	text, sum, err := read(w.path)
	if err == nil && sum == w.sum && w.bad < badLooks {
		w.bad = 0
		return
	}
	var next ring
	if err == nil {
		next, err = w.parse(text)
	}
	if err != nil {
		if w.bad++; w.bad == badLooks {
			w.log.Warn("a credential counts no longer: its file has nothing usable", "file", w.path, "err", config.OneLine(err.Error()))
			w.set(nil)
		}
		return
	}
	w.bad, w.sum = 0, sum
	w.set(next)
	w.log.Info("a file with credentials was read again", "file", w.path, "keys", len(next))
}

func (w *watched) set(next ring) {
	r := w.ring().replace(next)
	w.keys.Store(&r)
}

// read gives a file's text without the white space around it.
func read(path string) (text string, sum [sha256.Size]byte, err error) {
	unreadable := func(err error) error {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return fmt.Errorf("failed to read websocket auth secret %s: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", sum, unreadable(err)
	}
	defer func() { _ = f.Close() }() // read only
	raw, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return "", sum, unreadable(err)
	case len(raw) > maxSecretFile:
		return "", sum, fmt.Errorf("websocket auth secret %s has more than %d bytes", path, maxSecretFile)
	case !utf8.Valid(raw):
		return "", sum, unreadable(errors.New("stream did not contain valid UTF-8"))
	}
	if text = strings.TrimSpace(string(raw)); text == "" {
		return "", sum, fmt.Errorf("websocket auth secret %s must not be empty", path)
	}
	return text, sha256.Sum256(raw), nil
}
