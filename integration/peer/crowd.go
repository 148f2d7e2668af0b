package peer

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// NeedFiles makes sure that this process, and those it starts, may open n files. A
// limit that root may not raise either fails the test.
func NeedFiles(t testing.TB, n uint64) {
	t.Helper()
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if l.Max < n {
		l.Cur, l.Max = n, n
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Fatalf("%d open files are needed and the hard limit is lower (%v): run `ulimit -Hn %d` as root before the tests", n, err, n)
		}
	}
	if l.Cur < n {
		l.Cur = l.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Fatal(err)
		}
	}
}

// WireFrom connects to ws://HOST:PORT from an address of this machine. Its buffer
// is small: there may be thousands.
func WireFrom(ctx context.Context, source, url string) (*Wire, error) {
	host := strings.TrimPrefix(url, "ws://")
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: Patience}
	c, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(2 * Patience))
	return &Wire{Conn: c, Host: host, r: bufio.NewReaderSize(c, 512)}, nil
}

// Metrics reads what a daemon tells Prometheus at HOST:PORT, by name.
func Metrics(t testing.TB, addr string) map[string]float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(fmt.Errorf("metrics: %s", resp.Status))
	}
	out := make(map[string]float64)
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		if name, value, ok := strings.Cut(sc.Text(), " "); ok {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				out[name] = v
			}
		}
	}
	return out
}
