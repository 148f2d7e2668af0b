//go:build unix

package systemssh

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The protocol of a control socket (PROTOCOL.mux of OpenSSH): packets of a 32-bit
// length and that many bytes, which begin with a 32-bit type. All numbers are big
// endian; a string is a 32-bit length and its bytes.
//
//	hello          type, version
//	alive check    type, request            -> alive: type, request, pid
//	new session    type, request, "", tty, x11, agent, subsystem, escape, term, command, env…
//	               and three messages of one byte, each with a file descriptor: stdin, stdout, stderr
//	               -> opened: type, request, session; later exit: type, session, status
//	stdio forward  type, request, "", host, port; and two descriptors: in, out
//	               -> opened
//	anything       -> failure or denied: type, request, reason
//
// One control connection is one session, and ends with it.
const (
	muxVersion = 4

	muxHello      = 0x00000001
	muxNewSession = 0x10000002
	muxAliveCheck = 0x10000004
	muxStdioFwd   = 0x10000008

	muxDenied  = 0x80000002
	muxFailure = 0x80000003
	muxExit    = 0x80000004
	muxAlive   = 0x80000005
	muxOpened  = 0x80000006

	noEscape     = 0xffffffff
	portUnix     = 0xfffffffe // in a stdio forward: host is a socket's path (OpenSSH 9.4)
	maxMuxPacket = 128 << 10  // bytes; no remote takes a longer command
)

// errGone is the end of a control connection without a word.
var errGone = errors.New("the control master ended the connection")

// controlConn is one connection to a control master. It is used by one goroutine
// at a time.
type controlConn struct{ nc *net.UnixConn }

// dialControl connects and exchanges hellos.
func dialControl(ctx context.Context, path string) (*controlConn, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !mine(info) {
		return nil, fmt.Errorf("%s belongs to somebody else", path)
	}
	d := net.Dialer{Timeout: controlTimeout}
	nc, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	c := &controlConn{nc: nc.(*net.UnixConn)}
	if err := c.within(ctx, controlTimeout, c.hello); err != nil {
		_ = nc.Close()
		return nil, err
	}
	return c, nil
}

// within runs f, which fails when ctx or the time ends. The connection is then of
// no further use.
func (c *controlConn) within(ctx context.Context, limit time.Duration, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = c.nc.Close() })
	if limit > 0 {
		_ = c.nc.SetDeadline(time.Now().Add(limit))
		defer func() { _ = c.nc.SetDeadline(time.Time{}) }()
	}
	err := f()
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

func (c *controlConn) hello() error {
	if err := c.send(packet(muxHello).u32(muxVersion)); err != nil {
		return err
	}
	kind, body, err := c.receive()
	if err != nil {
		return err
	}
	if v, _, ok := takeU32(body); kind != muxHello || !ok || v != muxVersion {
		return errors.New("the control master speaks another protocol")
	}
	return nil
}

// alive asks whether the master answers.
func (c *controlConn) alive() error {
	if err := c.send(packet(muxAliveCheck).u32(0)); err != nil {
		return err
	}
	kind, body, err := c.receive()
	if err == nil && kind != muxAlive {
		err = refusal(kind, body)
	}
	return err
}

// session starts a command with these for its streams.
func (c *controlConn) session(command string, agent bool, env []string, files ...*os.File) error {
	forward := uint32(0)
	if agent {
		forward = 1
	}
	p := packet(muxNewSession).u32(0).str("").u32(0).u32(0).u32(forward).u32(0).u32(noEscape).str("").str(command)
	for _, e := range env {
		p = p.str(e)
	}
	return c.open(p, files)
}

// forward connects these to an address of the remote.
func (c *controlConn) forward(host string, port uint32, files ...*os.File) error {
	return c.open(packet(muxStdioFwd).u32(0).str("").str(host).u32(port), files)
}

func (c *controlConn) open(p muxPacket, files []*os.File) error {
	if err := c.send(p); err != nil {
		return err
	}
	for _, f := range files {
		if err := c.pass(f); err != nil {
			return err
		}
	}
	kind, body, err := c.receive()
	if err == nil && kind != muxOpened {
		err = refusal(kind, body)
	}
	return err
}

// pass hands a file descriptor over.
func (c *controlConn) pass(f *os.File) error {
	raw, err := f.SyscallConn() // Fd would make it block
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		_, _, sent = c.nc.WriteMsgUnix([]byte{0}, unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sent)
}

// status waits for the end of the session and returns its status, or errGone
// when none was told. The master ends the connection once the last output is
// written; ending it at the status, which comes before, would lose that output.
func (c *controlConn) status() (int, error) {
	status, told := 0, false
	for {
		kind, body, err := c.receive()
		if err != nil {
			if told {
				return status, nil
			}
			return 0, errGone
		}
		if _, rest, ok := takeU32(body); kind == muxExit && ok && !told {
			if v, _, ok := takeU32(rest); ok {
				status, told = int(int32(v)), true
			}
		}
	}
}

// masterError is a control master's no.
type masterError struct{ reason string }

func (e *masterError) Error() string { return e.reason }

func refusal(kind uint32, body []byte) error {
	if kind != muxFailure && kind != muxDenied {
		return fmt.Errorf("the control master answered with %#x", kind)
	}
	_, rest, _ := takeU32(body) // the request's number
	n, rest, ok := takeU32(rest)
	if !ok || uint64(n) > uint64(len(rest)) {
		return &masterError{"the control master refused"}
	}
	return &masterError{clean(string(rest[:n]))}
}

func (c *controlConn) send(p muxPacket) error {
	if len(p) > maxMuxPacket {
		return errors.New("the command is too long for the control master")
	}
	_, err := c.nc.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, len(p)+4), uint32(len(p))), p...))
	return err
}

func (c *controlConn) receive() (kind uint32, body []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(c.nc, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 4 || n > maxMuxPacket {
		return 0, nil, fmt.Errorf("a packet of %d bytes from the control master", n)
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(c.nc, body); err != nil {
		return 0, nil, err
	}
	kind, body, _ = takeU32(body)
	return kind, body, nil
}

// muxPacket is a packet being written, without its length.
type muxPacket []byte

func packet(kind uint32) muxPacket { return muxPacket(nil).u32(kind) }

func (p muxPacket) u32(v uint32) muxPacket { return binary.BigEndian.AppendUint32(p, v) }
func (p muxPacket) str(s string) muxPacket { return append(p.u32(uint32(len(s))), s...) }

func takeU32(b []byte) (uint32, []byte, bool) {
	if len(b) < 4 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(b), b[4:], true
}
