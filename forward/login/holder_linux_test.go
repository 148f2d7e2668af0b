package login

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0200007F:05AF 00000000:0000 0A 00000000:00000000 00:00000000 00000000     1        0 11 1 0000000000000000 100 0 0 10 0
   1: 0100007F:05AF 0100007F:C350 01 00000000:00000000 00:00000000 00000000     2        0 12 1 0000000000000000 100 0 0 10 0
   2: 0100007F:05AF 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 13 1 0000000000000000 100 0 0 10 0
   3: 00000000:05B1 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 14 1 0000000000000000 100 0 0 10 0
`

func TestListening(t *testing.T) {
	for port, want := range map[int]socket{1455: {1000, "13"}, 1457: {33, "14"}, 1456: {}} {
		got, ok := listening(strings.NewReader(table), port)
		if got != want || ok != (want != socket{}) {
			t.Errorf("port %d: %+v, %v", port, got, ok)
		}
	}
}

// A port of ours is known to be, in milliseconds.
func TestFindHolder(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue // no such address here
		}
		began := time.Now()
		h := FindHolder(t.Context(), ln.Addr().(*net.TCPAddr).Port)
		t.Logf("%s in %v", h, time.Since(began))
		if h.PID != os.Getpid() || !h.Mine || !h.self || h.guessed || h.Program == "" || h.User == "" {
			t.Errorf("%s: %+v", addr, h)
		}
		_ = ln.Close()
	}
	if h := FindHolder(t.Context(), port(t)); h.PID != 0 || h.String() != "another program" {
		t.Errorf("of a free port: %+v", h)
	}
}

func TestNamesPort(t *testing.T) {
	for args, want := range map[string]bool{
		"nc -l 127.0.0.1 1455": true, "srv --listen=:1455": true, "srv 0.0.0.0:1455": true, "srv --port=1455": true,
		"srv 14550": false, "srv /1455/x": false, "": false,
	} {
		if got := namesPort(strings.Fields(args), 1455); got != want {
			t.Errorf("%q: %v", args, got)
		}
	}
}

func FuzzListening(f *testing.F) {
	f.Add(table)
	f.Fuzz(func(t *testing.T, table string) {
		if s, ok := listening(strings.NewReader(table), 1455); ok && s.inode == "" {
			t.Errorf("%+v", s)
		}
	})
}
