package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"towline/integration/peer"
)

// sshd starts OpenSSH's server on loopback with its default algorithms and
// returns the client's command line to it.
func sshd(b *testing.B, env []string) []string {
	b.Helper()
	peer.Need(b, "sshd", "ssh-keygen", "ssh")
	dir, port := b.TempDir(), free(b)
	run := func(args ...string) {
		if out, err := exec.CommandContext(b.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host"))
	run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "id"))
	_ = os.MkdirAll("/run/sshd", 0o755) //nolint:gosec // what Debian's unit does; root's sshd asks for it
	conf := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/id.pub\nStrictModes no\nUsePAM no\nPidFile none\n", port, dir, dir)
	if len(env) > 0 {
		conf += "SetEnv " + strings.Join(env, " ") + "\n"
	}
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		b.Fatal(err)
	}
	bin, err := exec.LookPath("sshd")
	if err != nil {
		bin = "/usr/sbin/sshd"
	}
	cmd := exec.Command(bin, "-D", "-e", "-f", file) //nolint:noctx // ended below
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pub, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		b.Fatal(err)
	}
	known := filepath.Join(dir, "known")
	if err := os.WriteFile(known, []byte("[127.0.0.1]:"+port+" "+string(pub)), 0o600); err != nil {
		b.Fatal(err)
	}
	args := []string{
		"ssh", "-F", "none", "-p", port, "-i", filepath.Join(dir, "id"), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "UserKnownHostsFile=" + known, "-o", "StrictHostKeyChecking=yes", "127.0.0.1",
	}
	for end := time.Now().Add(peer.Patience); ; {
		if exec.CommandContext(b.Context(), args[0], append(args[1:], "true")...).Run() == nil {
			return args
		}
		if time.Now().After(end) {
			b.Fatal("sshd does not answer")
		}
	}
}

// screen runs argv on a pseudo-terminal and returns the time until text was drawn.
func screen(b *testing.B, text string, env []string, argv ...string) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), peer.Patience)
	defer cancel()
	start := time.Now()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(env, "TERM=xterm-256color")
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		b.Fatal(err)
	}
	var all []byte
	buf := make([]byte, 64<<10)
	for !bytes.Contains(all, []byte(text)) {
		n, err := f.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			b.Fatalf("%v never drew %q: %v\n%q", argv, text, err, all)
		}
	}
	took := time.Since(start)
	_ = cmd.Process.Kill()
	_ = f.Close()
	_ = cmd.Wait()
	return took
}

// BenchmarkFirstScreen is `ssh host` until the UI's footer is drawn, against
// `ssh host true` on OpenSSH's sshd. Goal: at most 0.5.
func BenchmarkFirstScreen(b *testing.B) {
	h := peer.Start(b, peer.HostConfig{})
	peerSSH := sshd(b, nil)
	env := peer.Environ(b)
	ratio(b, "towline/ssh-true",
		func() time.Duration { return screen(b, "help", env, h.SSHArgs("")...) },
		func() time.Duration {
			start := time.Now()
			if err := exec.CommandContext(b.Context(), peerSSH[0], append(peerSSH[1:], "true")...).Run(); err != nil {
				b.Fatal(err)
			}
			return time.Since(start)
		})
}

// BenchmarkFirstScreenAgainstCodex is the same against `ssh -t host codex`, the
// way people reach an agent on a server today.
func BenchmarkFirstScreenAgainstCodex(b *testing.B) {
	codex := peer.Codexes(b)[0]
	h := peer.Start(b, peer.HostConfig{})
	home, err := os.UserHomeDir()
	if err != nil {
		b.Fatal(err)
	}
	codexEnv := peer.CodexEnv(b, "http://127.0.0.1:9/v1", home)
	var set []string
	for _, kv := range codexEnv {
		if strings.HasPrefix(kv, "CODEX_HOME=") || strings.HasPrefix(kv, "HTTP") || strings.HasPrefix(kv, "NO_PROXY") {
			set = append(set, kv)
		}
	}
	peerSSH := sshd(b, set)
	there := append([]string{"ssh", "-t"}, peerSSH[1:]...)
	there = append(there, codex.Bin, "--no-daemon")
	env := peer.Environ(b)
	ratio(b, "towline/ssh-codex",
		func() time.Duration { return screen(b, "help", env, h.SSHArgs("")...) },
		func() time.Duration { return screen(b, "Ask Codex to do anything", env, there...) })
}
