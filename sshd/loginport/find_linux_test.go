package loginport

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestFindSeesListenersAsTheyAre(t *testing.T) {
	for name, tc := range map[string]struct{ listen, host string }{
		"IPv4":          {"127.0.0.1:0", "127.0.0.1"},
		"IPv4, by name": {"127.0.0.1:0", "localhost"},
		"IPv6":          {"[::1]:0", "::1"},
		"IPv6, by name": {"[::1]:0", "localhost"},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", tc.listen)
			if err != nil {
				t.Skip("SKIPPED: " + err.Error())
			}
			at := netip.MustParseAddrPort(ln.Addr().String())
			l, err := Find(tc.host, at.Port(), nil)
			if err != nil || l.Addr != at || !l.Own || l.PID != os.Getpid() || !Waits(l) {
				t.Errorf("%+v, %v", l, err)
			}
			if _, err := Find(tc.host, at.Port(), func(uint16) bool { return true }); err == nil || !strings.Contains(err.Error(), "no login") {
				t.Errorf("what this process listens for itself: %v", err)
			}
			_ = ln.Close()
			if _, err := Find(tc.host, at.Port(), nil); !errors.Is(err, ErrNone) {
				t.Errorf("after its end: %v", err)
			}
			if Waits(l) {
				t.Error("it waits after its end")
			}
		})
	}
	// One that listens everywhere is no login: those listen on loopback.
	ln, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if _, err := Find("127.0.0.1", netip.MustParseAddrPort(ln.Addr().String()).Port(), nil); !errors.Is(err, ErrNone) {
		t.Errorf("a listener on every address: %v", err)
	}
}

const heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func line(local, state, uid, inode string) string {
	return "   0: " + local + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000  " + uid + "        0 " + inode + " 1 0000000000000000 100 0 0 10 0\n"
}

func TestListener(t *testing.T) {
	const at = "0100007F:05AF"
	for name, tc := range map[string]struct {
		table string
		want  row
		found bool
		bad   bool
	}{
		"found":                {line("0200007F:05AF", "0A", "1", "7") + line(at, "0A", "1000", "42"), row{1000, 42}, true, false},
		"a connection from it": {line(at, "01", "1000", "42"), row{}, false, false},
		"another port":         {line("0100007F:05B1", "0A", "1000", "42"), row{}, false, false},
		"in another column":    {strings.ReplaceAll(line("0200007F:05AF", "0A", "1", "7"), "00000000:0000", at), row{}, false, false},
		"a strange uid":        {line(at, "0A", "root", "42"), row{}, false, true},
		"a huge uid":           {line(at, "0A", "4294967296", "42"), row{}, false, true},
		"no inode":             {line(at, "0A", "1000", "0"), row{}, false, true},
		"torn":                 {"   0: " + at + " 00000000:0000 0A\n", row{}, false, false},
		"empty":                {"", row{}, false, false},
	} {
		got, found, err := listener(strings.NewReader(heading+tc.table), at)
		if got != tc.want || found != tc.found || (err != nil) != tc.bad {
			t.Errorf("%s: %+v, %v, %v", name, got, found, err)
		}
	}
}

func FuzzListener(f *testing.F) {
	const at = "0100007F:05AF"
	f.Add(heading + line(at, "0A", "1000", "42"))
	f.Add(line(at, "0A", "99999999999", "42"))
	f.Add(at + " " + at + " " + at + " 0A")
	f.Fuzz(func(t *testing.T, table string) {
		r, found, err := listener(strings.NewReader(table), at)
		if found && (err != nil || r.inode == 0) || !found && r != (row{}) {
			t.Fatalf("%+v, %v, %v", r, found, err)
		}
	})
}
