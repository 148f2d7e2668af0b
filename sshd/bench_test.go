package sshd

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// BenchmarkHandshake is the time from connect to the end of a session that does
// nothing: TCP, key exchange, a key, a session, its exit status. OpenSSH's sshd
// runs `true` for the same client in the same run; "x/sshd" is the ratio.
func BenchmarkHandshake(b *testing.B) {
	h := start(b, func(c *Config) {
		c.UI = func(_ context.Context, s *Session) int { _, _ = io.WriteString(s.Out, "x"); return 0 }
	})
	cfg := h.clientConfig(h.key.signer)
	cfg.HostKeyCallback = gossh.InsecureIgnoreHostKey() // the same work on both sides
	once := func(addr, command string, pty bool) time.Duration {
		start := time.Now()
		nc, err := net.Dial("tcp", addr)
		must(b, err)
		conn, chans, reqs, err := gossh.NewClientConn(nc, addr, cfg)
		must(b, err)
		c := gossh.NewClient(conn, chans, reqs)
		s, err := c.NewSession()
		must(b, err)
		if pty {
			must(b, s.RequestPty("xterm-256color", 24, 80, nil))
		}
		out, err := s.StdoutPipe()
		must(b, err)
		must(b, s.Start(command))
		_, err = io.Copy(io.Discard, out)
		must(b, err)
		must(b, s.Wait())
		took := time.Since(start)
		must(b, c.Close())
		return took
	}
	me, err := user.Current()
	must(b, err)
	cfg.User = me.Username
	theirs := opensshServer(b, h.key)
	var ours, their []time.Duration
	for b.Loop() { // in turns, so that both meet the same machine
		ours = append(ours, once(h.Addr(), "", true))
		if theirs != "" {
			their = append(their, once(theirs, "true", false))
		}
	}
	b.ReportMetric(float64(median(ours).Microseconds()), "µs/handshake")
	if theirs != "" {
		b.ReportMetric(float64(median(their).Microseconds()), "µs/sshd-true")
		b.ReportMetric(float64(median(ours))/float64(median(their)), "x/sshd")
	}
}

// BenchmarkThroughput is the protocol's stream through one session, both ways.
func BenchmarkThroughput(b *testing.B) {
	h := start(b, nil)
	s, err := h.dial().NewSession()
	must(b, err)
	in, err := s.StdinPipe()
	must(b, err)
	out, err := s.StdoutPipe()
	must(b, err)
	must(b, s.Start("app-server"))
	const size = 1 << 20
	msg := make([]byte, size)
	b.SetBytes(size)
	for b.Loop() {
		wrote := make(chan error, 1)
		go func() { _, err := in.Write(msg); wrote <- err }()
		_, err := io.CopyN(io.Discard, out, size)
		must(b, err)
		must(b, <-wrote)
	}
	must(b, in.Close())
	must(b, s.Wait())
}

func median(d []time.Duration) time.Duration {
	sort.Slice(d, func(i, j int) bool { return d[i] < d[j] })
	return d[len(d)/2]
}

// opensshServer runs the system's sshd for key on loopback, or returns "" and
// says why not: the ratio is then missing, the rest is not.
func opensshServer(b *testing.B, key testKey) string {
	b.Helper()
	bin := "/usr/sbin/sshd"
	if !fileExists(bin) {
		b.Log("sshd is not installed: no ratio")
		return ""
	}
	dir := b.TempDir()
	hostKey := newKey(b)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	addr := ln.Addr().String()
	must(b, ln.Close())
	keys := filepath.Join(dir, "authorized_keys")
	must(b, os.WriteFile(keys, []byte(key.line("")+"\n"), 0o600))
	conf := filepath.Join(dir, "sshd_config")
	must(b, os.WriteFile(conf, fmt.Appendf(nil, `ListenAddress %s
HostKey %s
AuthorizedKeysFile %s
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
`, addr, hostKey.path, keys), 0o600))
	cmd := exec.Command(bin, "-D", "-e", "-f", conf)
	var log lockedBuffer
	cmd.Stderr = &log
	must(b, cmd.Start())
	gone := make(chan struct{})
	go func() { defer close(gone); _ = cmd.Wait() }()
	b.Cleanup(func() { _ = cmd.Process.Kill(); <-gone })
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		select {
		case <-gone:
			b.Logf("sshd does not run here, no ratio: %s", log.String())
			return ""
		default:
		}
		if nc, err := net.Dial("tcp", addr); err == nil {
			_ = nc.Close()
			return addr
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.Fatal("sshd does not listen")
	return ""
}
