package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
)

// ours reports whether c is seen to come from a process of this user. It is asked
// before there is a request, when many keep us waiting for theirs: anybody on this
// machine can reach a TCP port, and must not be able to take all places at it.
func (l *Listener) ours(c net.Conn) bool {
	if uc, ok := c.(*net.UnixConn); ok {
		cred, err := peerCredentials(uc)
		return err == nil && cred.uid == l.uid
	}
	client, err1 := netip.ParseAddrPort(c.RemoteAddr().String())
	server, err2 := netip.ParseAddrPort(c.LocalAddr().String())
	if err1 != nil || err2 != nil {
		return false
	}
	o, err := socketOwner(client, server)
	return err == nil && o.uid == l.uid
}

// owned checks that the process at the other end of c belongs to the user this
// process runs as, and names it for logs. One that is confined is refused too,
// unless it may be: somebody with a credential acts for that and not for this
// user. The error is for the one refused.
func (l *Listener) owned(c net.Conn, mayBeConfined bool) (remote string, err error) {
	if uc, ok := c.(*net.UnixConn); ok {
		cred, err := peerCredentials(uc)
		switch {
		case err != nil:
			return "", fmt.Errorf("cannot tell whose process this is: %w", err)
		case cred.uid != l.uid:
			return "", fmt.Errorf("this socket serves uid %d only", l.uid)
		case cred.pid == 0: // unknown, or in a container beside ours
			return "unix", nil
		case mayBeConfined:
			return fmt.Sprintf("pid %d", cred.pid), nil
		}
		if err := unconfined(cred.pid); err != nil {
			return "", err
		}
		return fmt.Sprintf("pid %d", cred.pid), nil
	}
	client, err1 := netip.ParseAddrPort(c.RemoteAddr().String())
	server, err2 := netip.ParseAddrPort(c.LocalAddr().String())
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	o, err := socketOwner(client, server)
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot tell whose process this is: %w", err)
	case o.uid != l.uid:
		return "", fmt.Errorf("this port serves processes of uid %d only", l.uid)
	case mayBeConfined:
		return client.String(), nil
	}
	if err := l.holders.unconfinedHolder(o.uid, o.inode); err != nil {
		return "", err
	}
	return client.String(), nil
}

// socket is what the kernel's table says of the client's end of a connection.
type socket struct {
	uid   uint32
	inode uint64
}

// credentials are what the kernel says about a unix socket's other end; pid is
// 0 where the system does not say.
type credentials struct {
	uid uint32
	pid int
}

var (
	errNoRow      = errors.New("the connection is not in the kernel's socket table")
	errAmbiguous  = errors.New("the kernel's socket table shows two owners")
	errBadTable   = errors.New("the kernel's socket table is not readable")
	errTableIsBig = errors.New("the kernel's socket table is too long")
)

// maxRows bounds how much of a socket table one connection makes us read.
const maxRows = 1 << 20

// established is the state of a connection both ends of which live. Others do
// not count: a socket that is closing has lost its owner and shows as root's.
const established = "01"

// findOwner looks in a table of the form of /proc/net/tcp or tcp6 for the end
// of an established connection that has local as its own and remote as its
// other address. One row a line, fields between spaces:
//
//	sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
//
// The first line is a heading.
func findOwner(table io.Reader, local, remote string) (o socket, found bool, err error) {
	sc := bufio.NewScanner(table)
	for rows := 0; sc.Scan(); rows++ {
		if rows == maxRows {
			return socket{}, false, errTableIsBig
		}
		// Most rows are somebody else's: look before splitting.
		if !bytes.Contains(sc.Bytes(), []byte(local)) {
			continue
		}
		f := bytes.Fields(sc.Bytes())
		if len(f) < 10 || string(f[1]) != local || string(f[2]) != remote || string(f[3]) != established {
			continue
		}
		n, err1 := strconv.ParseUint(string(f[7]), 10, 32)
		inode, err2 := strconv.ParseUint(string(f[9]), 10, 64)
		if err1 != nil || err2 != nil {
			return socket{}, false, errBadTable
		}
		if found && o.uid != uint32(n) {
			return socket{}, false, errAmbiguous
		}
		o, found = socket{uint32(n), inode}, true
	}
	if err := sc.Err(); err != nil {
		return socket{}, false, errBadTable
	}
	return o, found, nil
}

// tableAddress writes an address as the kernel's tables do: 32-bit words of the
// network order in the machine's own byte order, in hex, a colon, the port. The
// IPv6 table wants IPv4 addresses in their mapped form.
func tableAddress(a netip.AddrPort, v6 bool) string {
	ip := a.Addr().Unmap()
	raw := ip.AsSlice()
	if v6 {
		b := ip.As16()
		raw = b[:]
	}
	var out []byte
	for i := 0; i+4 <= len(raw); i += 4 {
		out = fmt.Appendf(out, "%08X", binary.NativeEndian.Uint32(raw[i:]))
	}
	return string(fmt.Appendf(out, ":%04X", a.Port()))
}
