package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"towline/integration/peer"
)

// BenchmarkExec is one trivial prompt from the start of the process to its end:
// `towline exec`, with a server of its own and on a daemon, against `codex exec`.
func BenchmarkExec(b *testing.B) {
	codex := peer.Codexes(b)[0]
	baseURL := peer.Rehearsal(b)
	env := peer.CodexEnv(b, baseURL)
	project := b.TempDir()
	once := func(env []string, argv ...string) time.Duration {
		cmd := exec.CommandContext(b.Context(), argv[0], append(argv[1:], "exec", "--json", "--skip-git-repo-check", "say hello")...)
		cmd.Env, cmd.Dir = env, project
		start := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %v\n%s", argv, err, out)
		}
		return time.Since(start)
	}
	// The endpoint is the same as Codex's, over loopback.
	home := b.TempDir()
	toml := "[engine]\nkind = \"native\"\n[engine.native]\nbase_url = \"" + baseURL + "\"\nmodel = \"gpt-5.5\"\n"
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(toml), 0o600); err != nil {
		b.Fatal(err)
	}
	own := append(peer.Environ(b), "TOWLINE_HOME="+home)
	theirs := func() time.Duration { return once(env, codex.Bin) }
	b.Run("alone", func(b *testing.B) {
		ratio(b, "towline/codex", func() time.Duration { return once(own, peer.Binary(b)) }, theirs)
	})
	b.Run("daemon", func(b *testing.B) {
		d := spawnTowline(b, home)
		defer d.stop()
		dial(b, d.url).end()
		ratio(b, "towline/codex", func() time.Duration { return once(own, peer.Binary(b)) }, theirs)
	})
}
