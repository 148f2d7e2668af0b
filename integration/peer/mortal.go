package peer

import (
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"towline/appserver/engine/native/rehearsal"
)

// RehearsalAtOnce serves the rehearsal model on loopback, as [Rehearsal] does, but
// one that does not take its time; it returns the configuration of a host with it.
func RehearsalAtOnce(t testing.TB) (toml string) {
	t.Helper()
	s := httptest.NewServer(rehearsal.New(rehearsal.Config{}))
	t.Cleanup(s.Close)
	return "[engine]\nkind = \"native\"\n[engine.native]\nbase_url = \"" + s.URL + "/v1\"\nmodel = \"" + rehearsal.Slug + "\"\n"
}

// LowPort is a free port of loopback that the system gives to nobody who asks for
// any port: a daemon that is killed gets it again.
func LowPort(t testing.TB) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(10_000 + rand.IntN(20_000)) //nolint:gosec // no secret
		l, err := net.Listen("tcp", "127.0.0.1:"+port)   //nolint:noctx // closed at once
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}

// Rise starts a daemon that was killed again, on the same home and with the same
// arguments, and returns how long it took to be ready. Its SSH door has a port of
// the system's choice.
func (h *Host) Rise() time.Duration {
	h.t.Helper()
	before := time.Now()
	h.run("127.0.0.1:0")
	return time.Since(before)
}

// Stillborn starts it and kills it after a time, ready or not.
func (h *Host) Stillborn(after time.Duration) {
	h.t.Helper()
	args := append([]string{"serve", "--json", "--ssh-listen", "127.0.0.1:0", "--project", h.Project}, h.args...)
	cmd := exec.Command(Binary(h.t), args...) //nolint:noctx // it is killed here
	cmd.Env = append(append(Environ(h.t), "TOWLINE_HOME="+h.Home), h.env...)
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	time.Sleep(after) // the moment is the point
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
