package sshconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
)

// Bounds on what is read. Real configurations stay far below them; a loop of
// Includes or a wildcard over a home folder does not.
const (
	maxDepth  = 16       // nested Includes, ssh's own bound
	maxFiles  = 1_000    // files read, each time counted
	maxFile   = 1 << 20  // bytes a file
	maxTotal  = 16 << 20 // bytes altogether
	maxLine   = 64 << 10 // bytes a line
	maxFaults = 200      // faults reported; more is noise
	perFile   = 10       // of them for one file: a binary file is one mistake, not thousands
)

// section is a Host or Match block, or the lines of a file before the first one.
type section struct {
	parent   *section    // the block the file's Include stands in; nil at the top
	host     []string    // patterns of a Host block
	match    []criterion // conditions of a Match block
	all      bool        // neither: the lines before the first block
	file     string
	no       int
	fromUser bool // of the user's own files, not the system's
}

// walker reads configuration files in ssh's order, Includes in their place, and
// shows every line that says something together with the block it stands in.
type walker struct {
	o      Options
	places places
	visit  func(s *section, l *line) // also for the Host and Match lines, with the block they open
	faults []Fault
	files  int
	total  int64
	loose  string        // the first file ssh would refuse, because others may have written it
	open   []fs.FileInfo // the Includes being read, outermost first: a cycle meets itself here
}

// newWalker reads with o, which has its defaults.
func newWalker(o Options, visit func(*section, *line)) *walker {
	return &walker{o: o, places: o.places(), visit: visit}
}

// run reads the user's file, then the system's.
func (w *walker) run() {
	userFile, systemFile := w.o.UserFile, w.o.SystemFile
	if userFile == "" {
		userFile, systemFile = w.places.userFile, or(systemFile, w.places.systemFile)
	}
	w.user(userFile)
	if systemFile != "" {
		w.file(systemFile, &section{all: true, file: systemFile}, false)
	}
}

// user reads the user's own file.
func (w *walker) user(path string) {
	if path == "none" {
		return
	}
	top := &section{all: true, file: path, fromUser: true}
	if w.o.UserFile != "" && !exists(path) {
		w.fault(path, 0, "there is no such file")
		return
	}
	w.file(path, top, w.o.UserFile == "")
}

// fault records what is wrong, within bounds.
func (w *walker) fault(file string, no int, format string, args ...any) {
	n := 0
	for i := len(w.faults) - 1; i >= 0; i-- {
		if w.faults[i].File == file {
			n++
		}
	}
	if n >= perFile || len(w.faults) >= maxFaults {
		return
	}
	text := clean(fmt.Sprintf(format, args...))
	if n == perFile-1 {
		no, text = 0, "more is wrong here; is it a configuration file?"
	}
	w.faults = append(w.faults, Fault{File: file, Line: no, Text: text})
}

// file reads one file. sec is the block it begins in. checked asks for the
// ownership rules ssh applies to ~/.ssh/config and whatever is included.
func (w *walker) file(path string, sec *section, checked bool) {
	text, info, err := w.read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), isNotDir(err):
		return // ssh says nothing either
	case err != nil:
		w.fault(path, 0, "not read: %v", errText(err))
		return
	}
	for _, above := range w.open {
		if os.SameFile(above, info) {
			w.fault(path, 0, "includes itself; not followed")
			return
		}
	}
	if checked {
		if why := looseness(info); why != "" {
			w.fault(path, 0, "%s, so ssh refuses it: run `chmod 600 %s`", why, path)
			if w.loose == "" {
				w.loose = path
			}
		}
	}
	w.open = append(w.open, info)
	defer func() { w.open = w.open[:len(w.open)-1] }()

	parent := sec.parent
	for no := 1; len(text) > 0; no++ {
		raw, rest, _ := bytes.Cut(text, []byte{'\n'})
		text = rest
		if len(raw) > maxLine {
			w.fault(path, no, "the line has %d bytes; at most %d are read", len(raw), maxLine)
			continue
		}
		if bytes.IndexByte(raw, 0) >= 0 {
			w.fault(path, no, "holds a zero byte")
			continue
		}
		l, err := parseLine(string(raw))
		if err != nil {
			w.fault(path, no, "%v: %s", err, raw)
			continue
		}
		if l == nil {
			continue
		}
		l.file, l.no = path, no
		switch l.key {
		case "host":
			sec = &section{parent: parent, host: l.args, file: path, no: no, fromUser: sec.fromUser}
			w.visit(sec, l)
		case "match":
			c, err := criteria(l.args)
			if err != nil {
				w.fault(path, no, "%v: %s", err, raw)
				c = []criterion{{not: true, name: "all"}} // what follows belongs to nobody
			}
			sec = &section{parent: parent, match: c, file: path, no: no, fromUser: sec.fromUser}
			w.visit(sec, l)
		case "include":
			w.include(l, sec)
		default:
			w.visit(sec, l)
		}
	}
}

// include follows an Include line from inside sec.
func (w *walker) include(l *line, sec *section) {
	for _, arg := range l.args {
		path, err := w.includePath(arg, sec.fromUser)
		if err != nil {
			w.fault(l.file, l.no, "Include %s: %v", arg, err)
			continue
		}
		if len(w.open) >= maxDepth {
			w.fault(l.file, l.no, "Includes are nested more than %d deep; not followed", maxDepth)
			return
		}
		found, complete := glob(path, w.places.windows)
		if !complete {
			w.fault(l.file, l.no, "Include %s: looked at %d files and gave up", arg, maxGlob)
		}
		for _, f := range found {
			if w.files >= maxFiles || w.total >= maxTotal {
				w.fault(l.file, l.no, "too much is included: stopped after %d files and %d bytes", w.files, w.total)
				return
			}
			// Inside, lines before the first block still belong to the block around.
			w.file(f, &section{parent: sec, all: true, file: f, fromUser: sec.fromUser}, true)
		}
	}
}

// includePath makes an Include's argument absolute.
func (w *walker) includePath(arg string, fromUser bool) (string, error) {
	path, err := expandEnv(arg, w.o.Getenv)
	if err != nil {
		return "", err
	}
	// ssh leaves these to glob(3), which goes by $HOME where all else goes by the
	// user database.
	home := w.o.Home
	if v := w.o.Getenv("HOME"); v != "" && !w.places.windows {
		home = v
	}
	if path, err = expandHome(path, home); err != nil {
		return "", err
	}
	if w.places.abs(path) {
		return path, nil
	}
	dir := w.places.systemDir
	if fromUser {
		dir = filepath.Join(home, ".ssh")
	}
	return dir + string(filepath.Separator) + path, nil
}

// abs is filepath.IsAbs for the operating system the places are of.
func (p places) abs(path string) bool {
	if strings.HasPrefix(path, "/") {
		return true
	}
	return p.windows && (strings.HasPrefix(path, `\`) || len(path) > 2 && path[1] == ':' && (path[2] == '\\' || path[2] == '/'))
}

// read takes a regular file in whole. A pipe or device is refused unopened:
// opening one can block for ever.
func (w *walker) read(path string) ([]byte, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() {
		return nil, nil, errors.New("it is a folder")
	}
	if !info.Mode().IsRegular() {
		return nil, nil, errors.New("it is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, err
	}
	if len(text) > maxFile {
		return nil, nil, fmt.Errorf("it has more than %d bytes", maxFile)
	}
	w.files++
	w.total += int64(len(text))
	return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), info, nil
}

// errText is an error without the path the fault names already.
func errText(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// expandHome replaces a leading ~ or ~user.
func expandHome(path, home string) (string, error) {
	if !strings.HasPrefix(path, "~") {
		return path, nil
	}
	name, rest := path[1:], ""
	if i := strings.IndexAny(name, `/\`); i >= 0 {
		name, rest = name[:i], name[i:]
	}
	if name == "" {
		return home + rest, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return "", fmt.Errorf("~%s is nobody's home", clean(name))
	}
	return u.HomeDir + rest, nil
}
