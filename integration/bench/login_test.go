package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"towline/integration/peer"
)

// keyed is a home with an API key that both programs read.
func keyed(b *testing.B) []string {
	b.Helper()
	home := b.TempDir()
	if err := os.WriteFile(filepath.Join(home, "auth.json"), []byte(`{"auth_mode":"apikey","OPENAI_API_KEY":"sk-benchmark-0123456789"}`), 0o600); err != nil {
		b.Fatal(err)
	}
	return append(peer.Environ(b), "CODEX_HOME="+home, "TOWLINE_HOME="+b.TempDir(), "HOME="+home)
}

// BenchmarkLoginStatus is how long a script waits to hear whether the machine is
// logged in, and what memory that takes, against `codex login status` on the same
// file.
func BenchmarkLoginStatus(b *testing.B) {
	codex, env := peer.Codexes(b)[0].Bin, keyed(b)
	var memory [2]int64
	run := func(which int, program string) func() time.Duration {
		return func() time.Duration {
			cmd := exec.CommandContext(b.Context(), program, "login", "status")
			cmd.Env = env
			began := time.Now()
			out, err := cmd.CombinedOutput()
			took := time.Since(began)
			if err != nil || !strings.Contains(string(out), "API key") {
				b.Fatalf("%s: %v %s", program, err, out)
			}
			memory[which] = max(memory[which], cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
			return took
		}
	}
	ratio(b, "status/codex", run(0, peer.Binary(b)), run(1, codex))
	b.ReportMetric(float64(memory[0])/float64(memory[1]), "memory/codex")
}
