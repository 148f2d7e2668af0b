package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
)

// established is the state of a socket both ends of which are open.
const established = "01"

// row is a socket in the kernel's table. Without an inode it has lost its owner, and
// the kernel shows it as root's.
type row struct {
	state string
	uid   uint32
	inode string
}

// tries: the kernel hands out its table in pieces, and can skip a row when others
// vanish between two of them.
const tries = 3

func check(client, server netip.AddrPort) error {
	for range tries {
		switch r, found := look(client, server); {
		case found && r.inode == "0", found && r.uid != 0 && r.uid != uint32(os.Geteuid()): //nolint:gosec // uids are 32 bits
			return ErrForeign
		case found:
			return nil
		}
		// Nobody here has the other end. Either its owner has closed it, who may be
		// anybody, and then our own end knows by now; or it never was a process of this
		// machine, as a browser beside a virtual machine is none.
		if r, found := look(server, client); found && r.state != established {
			return ErrForeign
		}
	}
	return nil
}

// look finds a socket by its addresses, in the network this process
// lives in.
func look(local, remote netip.AddrPort) (r row, found bool) {
	for _, t := range []struct {
		path string
		v6   bool
	}{{"/proc/net/tcp", false}, {"/proc/net/tcp6", true}} {
		if !t.v6 && local.Addr().Unmap().Is6() {
			continue
		}
		f, err := os.Open(t.path)
		if err != nil {
			continue
		}
		r, found = find(f, address(local, t.v6), address(remote, t.v6))
		_ = f.Close() // read-only
		if found {
			break
		}
	}
	return r, found
}

// find looks in a table of the form of /proc/net/tcp: fields between spaces,
//
//	sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
func find(table io.Reader, local, remote string) (r row, found bool) {
	for sc := bufio.NewScanner(table); sc.Scan(); {
		if !bytes.Contains(sc.Bytes(), []byte(local)) {
			continue // somebody else's: most are
		}
		f := bytes.Fields(sc.Bytes())
		if len(f) < 10 || string(f[1]) != local || string(f[2]) != remote {
			continue
		}
		if n, err := strconv.ParseUint(string(f[7]), 10, 32); err == nil {
			return row{string(f[3]), uint32(n), string(f[9])}, true
		}
	}
	return row{}, false
}

// address writes one as the kernel's tables do: 32-bit words of the network order in
// the machine's own byte order, in hex, a colon, the port.
func address(a netip.AddrPort, v6 bool) string {
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
