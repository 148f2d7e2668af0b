//go:build linux || darwin

package handover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"towline/appserver/transport"
)

// wire is one connection on the private socket. Each side speaks in its turn, so
// nothing is ever read beyond a message that belongs to what follows it.
type wire struct {
	c    *net.UnixConn
	peer int // the process at the other end
}

// listenPrivate listens at path for this user's processes alone. What a process
// that is gone left there is replaced, and with replace also what one that is not.
func listenPrivate(path string, replace bool) (*net.UnixListener, error) {
	if _, err := os.Lstat(path); err == nil {
		if !replace {
			if c, err := net.DialTimeout("unix", path, helloTime); err == nil {
				_ = c.Close()
				return nil, fmt.Errorf("%s is in use", path)
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false) // by name, it could remove an heir's
	if err := os.Chmod(path, 0o600); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

// dialPrivate connects to the private socket of a process of this user.
func dialPrivate(ctx context.Context, path string) (*wire, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: %w", ErrNobody, err)
	}
	if err != nil {
		return nil, err
	}
	return newWire(c.(*net.UnixConn))
}

// newWire makes sure that the other end is this user's, and closes c when not.
func newWire(c *net.UnixConn) (*wire, error) {
	uid, pid, err := credentials(c)
	if err == nil && uid != os.Geteuid() {
		err = fmt.Errorf("the other end belongs to uid %d, not to you", uid)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return &wire{c: c, peer: pid}, nil
}

// admit is newWire for who comes to this process: one that is more confined than it
// is refused too. What an agent runs in its sandbox is a process of the same user,
// and could have a program run outside of it here, or be an administrator.
func admit(c *net.UnixConn) (*wire, error) {
	w, err := newWire(c)
	if err != nil {
		return nil, err
	}
	if err := transport.Unconfined(w.peer); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), tellTime)
		defer cancel()
		_ = w.send(ctx, refusal(err)) // one that is gone need not know
		w.close()
		return nil, fmt.Errorf("refused pid %d: %w", w.peer, err)
	}
	return w, nil
}

// send writes one message, and with its first byte the files.
func (w *wire) send(ctx context.Context, m message, files ...*os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if b = append(b, '\n'); len(b) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long", len(b))
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			if fds[i], err = descriptor(f); err != nil {
				return err
			}
		}
		rights = unix.UnixRights(fds...)
	}
	defer w.until(ctx, w.c.SetWriteDeadline)()
	n, _, err := w.c.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = w.c.Write(b[n:])
	}
	return w.why(ctx, err)
}

// descriptor is the number of an open file. Fd would make a socket block that
// others still wait for without.
func descriptor(f *os.File) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Control(func(fd uintptr) { n = int(fd) }) //nolint:gosec // a descriptor is small
	return n, err
}

// receive reads one message and the files that came with it, which are the
// caller's.
func (w *wire) receive(ctx context.Context) (m message, files []*os.File, err error) {
	defer w.until(ctx, w.c.SetReadDeadline)()
	var line []byte
	var fds []int
	buf, oob := make([]byte, 4<<10), make([]byte, unix.CmsgSpace(4*maxFiles))
	for {
		n, on, flags, _, err := w.c.ReadMsgUnix(buf, oob)
		if on > 0 {
			fds = append(fds, rightsOf(oob[:on])...)
		}
		line = append(line, buf[:max(n, 0)]...) // negative with an error
		switch {
		case err == nil && n == 0:
			err = io.EOF
		case flags&unix.MSG_CTRUNC != 0 || len(line) > maxMessage || len(fds) > maxFiles:
			err = errors.New("a message is too long")
		}
		end := bytes.IndexByte(line, '\n')
		if err == nil && end < 0 {
			continue
		}
		if err == nil && end != len(line)-1 {
			err = errors.New("something came out of turn")
		}
		if err == nil {
			err = json.Unmarshal(line, &m)
		}
		for i, fd := range fds {
			name := ""
			if i < len(m.Files) {
				name = m.Files[i]
			}
			files = append(files, os.NewFile(uintptr(fd), name)) //nolint:gosec // a descriptor is not negative
		}
		if err == nil && len(files) != len(m.Files) {
			err = fmt.Errorf("%d files came, and %d were named", len(files), len(m.Files))
		}
		if err != nil {
			closeAll(files)
			return message{}, nil, w.why(ctx, err)
		}
		return m, files, nil
	}
}

func rightsOf(oob []byte) (fds []int) {
	scms, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range scms {
		if got, err := unix.ParseUnixRights(&scms[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// until bounds what follows by ctx; the result undoes that.
func (w *wire) until(ctx context.Context, set func(time.Time) error) func() {
	_ = set(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = set(time.Unix(1, 0)) })
	return func() {
		if stop() {
			_ = set(time.Time{})
		}
	}
}

// why is the reason of ctx where that ended it.
func (w *wire) why(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (w *wire) close() { _ = w.c.Close() }

// alive reports whether a process is there, one that only waits to be reaped
// included.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
