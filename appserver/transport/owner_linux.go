package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// tcpOwnerKnown: the kernel's tables tell whose a TCP connection is.
const tcpOwnerKnown = true

// socketOwner finds who made the client's end of a TCP connection on this
// machine. It is looked up in the table of the network namespace this process
// lives in, so a client elsewhere is not found, which is what it should be.
func socketOwner(client, server netip.AddrPort) (socket, error) {
	if o, found, err := askKernel(client, server); err == nil && found {
		return o, nil
	}
	// The kernel hands out the table in pieces and can skip a row when others
	// vanish between two of them.
	const tries = 3
	for range tries {
		o, found, err := scanTables(client, server)
		if err != nil || found {
			return o, err
		}
	}
	return socket{}, errNoRow
}

func scanTables(client, server netip.AddrPort) (o socket, found bool, err error) {
	for _, t := range []struct {
		path string
		v6   bool
	}{{"/proc/net/tcp", false}, {"/proc/net/tcp6", true}} {
		if !t.v6 && client.Addr().Unmap().Is6() {
			continue
		}
		f, err := os.Open(t.path)
		if t.v6 && errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return socket{}, false, err
		}
		u, ok, err := findOwner(f, tableAddress(client, t.v6), tableAddress(server, t.v6))
		_ = f.Close() // read-only
		switch {
		case err != nil:
			return socket{}, false, err
		case ok && found && u.uid != o.uid:
			return socket{}, false, errAmbiguous
		case ok:
			o, found = u, true
		}
	}
	return o, found, nil
}

func peerCredentials(c *net.UnixConn) (credentials, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return credentials{}, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return credentials{}, err
	}
	if cerr != nil {
		return credentials{}, cerr
	}
	return credentials{uid: cred.Uid, pid: int(cred.Pid)}, nil
}

// distinguishable refuses to run as the uid that a user namespace shows for
// everybody it does not know: all of them would look like us.
func distinguishable(uid uint32) error {
	overflow := uint64(65534)
	if b, err := os.ReadFile("/proc/sys/kernel/overflowuid"); err == nil {
		if n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 32); err == nil {
			overflow = n
		}
	}
	if uint64(uid) != overflow {
		return nil
	}
	b, err := os.ReadFile("/proc/self/uid_map")
	if f := bytes.Fields(b); err == nil && len(f) == 3 && string(f[0]) == "0" && string(f[2]) == "4294967295" {
		return nil // the first namespace knows everybody
	}
	return fmt.Errorf("uid %d stands for every unknown user in this container", uid)
}
