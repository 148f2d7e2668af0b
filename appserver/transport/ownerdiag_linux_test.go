package transport

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel's word about one connection is what its table says.
func TestKernelIsAskedAboutOneConnection(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		client, server := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
		got, found, err := askKernel(client, server)
		if err != nil || !found {
			_, _, _ = c.Close(), s.Close(), ln.Close()
			t.Skip("SKIPPED, LACKING: a kernel that answers about connections (sock_diag with tcp_diag); its table is read instead")
		}
		want, ok, err := scanTables(client, server)
		if err != nil || !ok || got != want || got.uid != uint32(os.Geteuid()) {
			t.Errorf("%s: %+v, the table has %+v, %v", addr, got, want, err)
		}
		if back, found, err := askKernel(server, client); err != nil || !found || back.inode == got.inode {
			t.Errorf("the other end: %+v, %v", back, err)
		}
		if o, found, err := askKernel(netip.AddrPortFrom(client.Addr(), 1), server); found {
			t.Errorf("nobody's connection is %+v's, %v", o, err)
		}
		if o, found, err := askKernel(server, netip.AddrPortFrom(server.Addr(), 1)); found {
			t.Errorf("a listener is a connection: %+v, %v", o, err)
		}
		// One that is over has lost its owner.
		_ = c.Close()
		eventually(t, "the connection is over", func() bool { _, found, _ := askKernel(client, server); return !found })
		_, _ = s.Close(), ln.Close()
	}
}

func FuzzDiagAnswer(f *testing.F) {
	id := diagQuestion(netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2"))[unix.NLMSG_HDRLEN+8:][:diagIDBytes]
	good := make([]byte, unix.NLMSG_HDRLEN+diagMessage)
	good[4], good[unix.NLMSG_HDRLEN+1] = diagByName, 1
	copy(good[unix.NLMSG_HDRLEN+diagIDAt:], id)
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, found, err := diagAnswer(b, id); found && (err != nil || len(b) < len(good)) {
			t.Error("found in nothing")
		}
	})
}
