//go:build unix

package tui

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxLine bounds what is read of one line; the driver itself keeps 4096 bytes.
const maxLine = 8192

// fileTerminal is a terminal of this machine, in the line mode it is in.
type fileTerminal struct{ f *os.File }

// openTerminal opens the terminal this process was started from.
func openTerminal() (PlainTerminal, error) {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return fileTerminal{f}, nil
}

func (t fileTerminal) Write(p []byte) (int, error) { return t.f.Write(p) }
func (t fileTerminal) Close() error                { return t.f.Close() }

// ReadLine implements PlainTerminal. The driver edits the line and turns ctrl+c
// into a signal, as for any program.
func (t fileTerminal) ReadLine(ctx context.Context, echo bool) (string, error) {
	fd := int(t.f.Fd())
	if !echo {
		was, err := unix.IoctlGetTermios(fd, getTermios)
		if err != nil {
			return "", err
		}
		hidden := *was
		hidden.Lflag &^= unix.ECHO
		hidden.Lflag |= unix.ICANON | unix.ISIG
		hidden.Iflag |= unix.ICRNL
		if err := unix.IoctlSetTermios(fd, setTermios, &hidden); err != nil {
			return "", err
		}
		defer func() { _ = unix.IoctlSetTermios(fd, setTermios, was) }() // as it was, or nothing helps
	}
	// A read cannot be interrupted; a pipe that becomes readable ends the wait.
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer func() { _, _ = r.Close(), w.Close() }() // only ever signals
	stop := context.AfterFunc(ctx, func() { _, _ = w.Write([]byte{0}) })
	defer stop()
	var line []byte
	defer func() { clear(line) }()
	for {
		var set unix.FdSet
		set.Set(fd)
		set.Set(int(r.Fd()))
		if _, err := unix.Select(max(fd, int(r.Fd()))+1, &set, nil, nil, nil); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return "", err
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if !set.IsSet(fd) {
			continue
		}
		buf := make([]byte, 1024)
		n, err := unix.Read(fd, buf)
		if n > 0 {
			line = append(line, buf[:n]...)
		}
		clear(buf)
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			return string(bytes.TrimRight(line[:i], "\r")), nil
		}
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		case err != nil:
			return "", err
		case n == 0 && len(line) == 0:
			return "", io.EOF // ctrl+d
		case n == 0 || len(line) > maxLine:
			return string(line), nil
		}
	}
}
