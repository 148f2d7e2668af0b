package supervisor

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"

	"towline/config"
)

const (
	// maxSaid bounds what is read of the last words of a daemon, in bytes, and
	// maxLines how many of them are kept.
	maxSaid  = 8 << 10
	maxLines = 12
)

// maxLog is how large the log may be when a daemon starts, and how large it may
// get: a larger one becomes the old one. In bytes.
const maxLog = 8 << 20

// OpenLog opens a daemon's log at its end, and says where that is.
func OpenLog(path string) (*os.File, int64, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, 0, err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, end, nil
}

// trimLog makes a log that has grown too large the old one while a daemon writes
// to it: it is copied, and begun anew in place.
func trimLog(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= 2*maxLog {
		return err
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // read-only
	out, err := os.OpenFile(path+".old", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, info.Size()))
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Truncate(path, 0) // the daemon appends
}

// Tail is the last lines a daemon wrote since its log was begin bytes long, fit
// for a terminal.
func Tail(path string, begin int64) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // read-only
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	if info.Size() < begin { // begun anew since
		begin = 0
	}
	cut := info.Size()-maxSaid > begin
	b, _ := io.ReadAll(io.NewSectionReader(f, max(begin, info.Size()-maxSaid), maxSaid)) // what can be read
	if cut {
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if line = clean(line); line != "" {
			out = append(out, line)
		}
	}
	// The reason of a panic is above its goroutines.
	for i, line := range out {
		if isPanic(line) {
			return out[i:min(len(out), i+maxLines)]
		}
	}
	return out[max(0, len(out)-maxLines):]
}

func isPanic(line string) bool {
	return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ")
}

func clean(line string) string { return config.OneLine(line) }
