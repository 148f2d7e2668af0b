//go:build linux

package transport

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestSocketOwnerFindsTheClientsEnd(t *testing.T) {
	for name, tc := range map[string]struct{ listen, dial, network string }{
		"v4":          {"127.0.0.1:0", "127.0.0.1", "tcp4"},
		"v6":          {"[::1]:0", "[::1]", "tcp6"},
		"mapped":      {"[::]:0", "127.0.0.1", "tcp4"},
		"mapped both": {"[::]:0", "[::ffff:127.0.0.1]", "tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", tc.listen)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			c, err := net.Dial(tc.network, tc.dial+":"+port)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			s, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			client, server := netip.MustParseAddrPort(s.RemoteAddr().String()), netip.MustParseAddrPort(s.LocalAddr().String())
			o, err := socketOwner(client, server)
			if err != nil || o.inode == 0 || int(o.uid) != os.Geteuid() {
				t.Errorf("owner = %+v, %v", o, err)
			}
			// A connection that is over has no owner: the kernel then shows root's.
			_ = c.Close()
			if o, err := socketOwner(client, server); err == nil {
				t.Errorf("after the end, owner = %+v", o)
			}
		})
	}
}

const heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func row(local, remote, state, uid string) string {
	return "   0: " + local + " " + remote + " " + state + " 00000000:00000000 00:00000000 00000000 " + uid + " 0 20601 1 0000000000000000 100 0 0 10 0\n"
}

func TestFindOwner(t *testing.T) {
	const client, server = "0100007F:C350", "0100007F:1F90"
	for name, tc := range map[string]struct {
		table string
		uid   uint32
		found bool
		err   error
	}{
		"found":              {row(server, client, "01", "0") + row(client, server, "01", " 1000"), 1000, true, nil},
		"only our own end":   {row(server, client, "01", "0"), 0, false, nil},
		"closing":            {row(client, server, "04", "0"), 0, false, nil},
		"time wait":          {row(client, server, "06", "0"), 0, false, nil},
		"other server":       {row(client, "0100007F:1F91", "01", "0"), 0, false, nil},
		"same twice":         {row(client, server, "01", "7") + row(client, server, "01", "7"), 7, true, nil},
		"two owners":         {row(client, server, "01", "7") + row(client, server, "01", "8"), 0, false, errAmbiguous},
		"uid is no number":   {row(client, server, "01", "root"), 0, false, errBadTable},
		"uid below zero":     {row(client, server, "01", "-1"), 0, false, errBadTable},
		"uid too large":      {row(client, server, "01", "4294967296"), 0, false, errBadTable},
		"torn row":           {"   0: " + client + " " + server + " 01\n", 0, false, nil},
		"longer address":     {row("0"+client, server, "01", "7"), 0, false, nil},
		"endless line":       {strings.Repeat("x", 1<<20), 0, false, errBadTable},
		"empty":              {"", 0, false, nil},
		"address elsewhere":  {row("0100007F:0001", "0100007F:0002", "01", client+" "+server+" 01"), 0, false, nil},
		"found without end":  {strings.TrimSuffix(row(client, server, "01", "5"), "\n"), 5, true, nil},
		"windows line ends":  {strings.ReplaceAll(row(client, server, "01", "5"), "\n", "\r\n"), 5, true, nil},
		"nothing but spaces": {"    \n \n", 0, false, nil},
	} {
		o, found, err := findOwner(strings.NewReader(heading+tc.table), client, server)
		if o.uid != tc.uid || (o.inode == 20601) != found || found != tc.found || err != tc.err {
			t.Errorf("%s: %+v, %v, %v", name, o, found, err)
		}
	}
}

func TestTableAddress(t *testing.T) {
	if !strings.HasPrefix(tableAddress(netip.MustParseAddrPort("127.0.0.1:1"), false), "01") {
		t.Skip("the words below are in little-endian order")
	}
	for _, tc := range []struct {
		addr string
		v6   bool
		want string
	}{
		{"127.0.0.1:8080", false, "0100007F:1F90"},
		{"[::ffff:127.0.0.1]:8080", false, "0100007F:1F90"},
		{"127.0.0.1:8080", true, "0000000000000000FFFF00000100007F:1F90"},
		{"[::1]:1", true, "00000000000000000000000001000000:0001"},
		{"[fe80::1%eth0]:65535", true, "000080FE000000000000000001000000:FFFF"},
	} {
		if got := tableAddress(netip.MustParseAddrPort(tc.addr), tc.v6); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.addr, got, tc.want)
		}
	}
}

func FuzzFindOwner(f *testing.F) {
	const client, server = "0100007F:C350", "0100007F:1F90"
	f.Add(heading + row(client, server, "01", "1000"))
	f.Add(row(server, client, "01", "0") + row(client, server, "06", "0"))
	f.Add(row(client, server, "01", "99999999999"))
	f.Add("0100007F:C350 0100007F:C350 0100007F:1F90 01")
	f.Fuzz(func(t *testing.T, table string) {
		o, found, err := findOwner(strings.NewReader(table), client, server)
		if found && err != nil || !found && o != (socket{}) {
			t.Fatalf("%+v, %v, %v", o, found, err)
		}
		if !found {
			return
		}
		// An answer must stand in one row: address, address, state.
		for line := range strings.SplitSeq(table, "\n") {
			if f := strings.Fields(line); len(f) >= 10 && f[1] == client && f[2] == server && f[3] == established {
				return
			}
		}
		t.Fatalf("%+v comes from nowhere", o)
	})
}
