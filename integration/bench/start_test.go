package bench

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"towline/integration/peer"
)

// daemon is a server process that listens on a unix socket.
type daemon struct {
	cmd *exec.Cmd
	url string
}

func (d daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	_ = d.cmd.Wait()
}

// spawnCodex starts a codex app-server on a socket in a fresh folder.
func spawnCodex(b *testing.B, bin string, env []string) daemon {
	b.Helper()
	sock := filepath.Join(b.TempDir(), "s")
	cmd := exec.Command(bin, "app-server", "--listen", "unix://"+sock) //nolint:noctx // stop ends it
	cmd.Env = env
	cmd.Dir = b.TempDir()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return daemon{cmd, "unix://" + sock}
}

// spawnTowline starts a host with the native engine on a prepared home.
func spawnTowline(b *testing.B, home string) daemon {
	b.Helper()
	cmd := exec.Command(peer.Binary(b), "serve", "--ssh-listen", "127.0.0.1:0", "--project", home) //nolint:noctx // stop ends it
	cmd.Env = append(peer.Environ(b), "TOWLINE_HOME="+home)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return daemon{cmd, "unix://" + filepath.Join(home, "run", "towline.sock")}
}

func rehearsing(b *testing.B) string {
	b.Helper()
	home := b.TempDir()
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte("[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	return home
}

// BenchmarkColdStart is the time from starting the process to the answer to
// initialize, the whole host with its SSH door against codex app-server alone.
// Goal: at most 0.3.
func BenchmarkColdStart(b *testing.B) {
	codex := peer.Codexes(b)[0]
	env := peer.CodexEnv(b, "http://127.0.0.1:9/v1")
	home := rehearsing(b)
	measure := func(spawn func() daemon) time.Duration {
		start := time.Now()
		d := spawn()
		c := dial(b, d.url)
		took := time.Since(start)
		c.end()
		d.stop()
		return took
	}
	ratio(b, "towline/codex",
		func() time.Duration { return measure(func() daemon { return spawnTowline(b, home) }) },
		func() time.Duration { return measure(func() daemon { return spawnCodex(b, codex.Bin, env) }) })
}

// BenchmarkIdleMemory is resident memory with one initialized client, two
// seconds after it came. Goal: at most 0.3. The private part is told beside it:
// the rest is pages of files, which the system can drop and read again.
func BenchmarkIdleMemory(b *testing.B) {
	codex := peer.Codexes(b)[0]
	env := peer.CodexEnv(b, "http://127.0.0.1:9/v1")
	home := rehearsing(b)
	measure := func(d daemon) (all, private int64) {
		defer d.stop()
		c := dial(b, d.url)
		defer c.end()
		time.Sleep(2 * time.Second) // idle is a state that takes time
		return memory(b, d.cmd.Process.Pid, "VmRSS:"), memory(b, d.cmd.Process.Pid, "RssAnon:")
	}
	var ours, theirs, ourOwn, theirOwn int64
	for range b.N {
		ours, ourOwn = measure(spawnTowline(b, home))
		theirs, theirOwn = measure(spawnCodex(b, codex.Bin, env))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(ours)/float64(theirs), "towline/codex")
	b.ReportMetric(float64(ours)/(1<<20), "towline-MiB")
	b.ReportMetric(float64(theirs)/(1<<20), "codex-MiB")
	b.ReportMetric(float64(ourOwn)/(1<<20), "towline-private-MiB")
	b.ReportMetric(float64(theirOwn)/(1<<20), "codex-private-MiB")
}

// free is a TCP port nobody uses at the moment.
func free(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
