package transport

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// The kernel can be asked about one connection (sock_diag(7)), which takes
// microseconds where its table takes milliseconds once there are thousands. Not
// every kernel has this; then the table is read.
//
// A request is a netlink header and inet_diag_req_v2: family, protocol, extensions,
// a pad, the states wanted, and the id of the socket: its port and its peer's (big
// endian), its address and its peer's (16 bytes each), an interface and a cookie.
// The answer is inet_diag_msg: family, state, timer, retransmissions, the id,
// expiry, two queues, the owner's uid and the inode.
const (
	diagRequest = 56
	diagMessage = 72
	diagIDAt    = 4 // in an answer
	diagIDBytes = 36
	diagUIDAt   = 64
	diagByName  = 20 // SOCK_DIAG_BY_FAMILY
	diagSeqAt   = 8  // in the netlink header
)

var errNoDiag = errors.New("the kernel does not answer about connections")

// asker is the socket on which the kernel is asked, one question at a time: it
// answers within the call that asks.
type asker struct {
	mu   sync.Mutex // guards what follows
	fd   int
	open bool
	seq  uint32
}

var kernel asker

// askKernel finds who has the connection from client to server open. An error, and
// a connection that is not found, say nothing: the table may know.
func askKernel(client, server netip.AddrPort) (o socket, found bool, err error) {
	return kernel.ask(client, server)
}

func (k *asker) ask(client, server netip.AddrPort) (o socket, found bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.ready(); err != nil {
		return o, false, err
	}
	k.seq++
	req := diagQuestion(client, server)
	binary.NativeEndian.PutUint32(req[diagSeqAt:], k.seq)
	var buf [1024]byte
	n, err := k.exchange(req, buf[:])
	if err == nil && (n < unix.NLMSG_HDRLEN || binary.NativeEndian.Uint32(buf[diagSeqAt:]) != k.seq) {
		err = errNoDiag // of another question
	}
	if err != nil { // what may still come must not answer the next one
		_ = unix.Close(k.fd)
		k.open = false
		return o, false, err
	}
	return diagAnswer(buf[:n], req[unix.NLMSG_HDRLEN+8:][:diagIDBytes])
}

// ready opens the socket where it is not; k.mu is held.
func (k *asker) ready() error {
	if k.open {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return err
	}
	patience := unix.Timeval{Sec: 1}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		_ = unix.Close(fd)
		return err
	}
	k.fd, k.open = fd, true
	return nil
}

// exchange sends a question and takes one answer of the kernel's.
func (k *asker) exchange(req, answer []byte) (int, error) {
	if err := unix.Sendto(k.fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	n, from, err := unix.Recvfrom(k.fd, answer, 0)
	if err != nil {
		return 0, err
	}
	if k, ok := from.(*unix.SockaddrNetlink); !ok || k.Pid != 0 { // not the kernel
		return 0, errNoDiag
	}
	return n, nil
}

func diagQuestion(client, server netip.AddrPort) []byte {
	b := make([]byte, 0, unix.NLMSG_HDRLEN+diagRequest)
	b = binary.NativeEndian.AppendUint32(b, unix.NLMSG_HDRLEN+diagRequest)
	b = binary.NativeEndian.AppendUint16(b, diagByName)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, 0) // sequence: whoever asks has its own
	b = binary.NativeEndian.AppendUint32(b, 0)
	family := byte(unix.AF_INET6)
	if client.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // any state
	b = binary.BigEndian.AppendUint16(b, client.Port())
	b = binary.BigEndian.AppendUint16(b, server.Port())
	for _, a := range []netip.Addr{client.Addr().Unmap(), server.Addr().Unmap()} {
		var ip [16]byte
		copy(ip[:], a.AsSlice())
		b = append(b, ip[:]...)
	}
	b = binary.NativeEndian.AppendUint32(b, 0) // any interface
	return append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
}

// diagAnswer reads the kernel's answer about the socket with this id.
func diagAnswer(b, id []byte) (o socket, found bool, err error) {
	const open = 1 // TCP_ESTABLISHED
	if len(b) < unix.NLMSG_HDRLEN+diagMessage || binary.NativeEndian.Uint16(b[4:]) != diagByName {
		return o, false, errNoDiag // an error of netlink's, mostly that there is none
	}
	m := b[unix.NLMSG_HDRLEN:]
	if m[1] != open {
		return o, false, nil
	}
	if string(m[diagIDAt:][:4]) != string(id[:4]) { // other ports
		return o, false, errNoDiag
	}
	return socket{uid: binary.NativeEndian.Uint32(m[diagUIDAt:]), inode: uint64(binary.NativeEndian.Uint32(m[diagUIDAt+4:]))}, true, nil
}
