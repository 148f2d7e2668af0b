package peer

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
)

// StartDropbear starts Dropbear, the SSH server of routers and small machines,
// until the end of the test. Keys only, unless passwords.
func StartDropbear(t testing.TB, passwords bool) *Server {
	t.Helper()
	NeedRoot(t)
	Need(t, "dropbear", "dropbearkey")
	dir := t.TempDir()
	key := filepath.Join(dir, "host")
	run := func(args ...string) []byte {
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return out
	}
	out := run("dropbearkey", "-t", "ed25519", "-f", key)
	s := &Server{Addr: Loopback(t) + ":2222", log: &syncBuffer{}}
	for len(out) > 0 && s.HostKey.Line == "" {
		pub, comment, _, rest, err := ssh.ParseAuthorizedKey(out)
		if err != nil {
			t.Fatalf("dropbearkey said %q: %v", out, err)
		}
		out = rest
		s.HostKey = Key{Line: line(pub) + " " + comment, Fingerprint: ssh.FingerprintSHA256(pub), public: line(pub)}
	}
	argv := []string{sbin("dropbear"), "-F", "-E", "-m", "-p", s.Addr, "-r", key}
	if !passwords {
		argv = append(argv, "-s")
	}
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // Stop ends it
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dir}
	cmd.Dir = dir
	_ = os.Chmod(dir, 0o700) //nolint:gosec // a folder needs its x bit
	s.run(t, cmd, "Not backgrounding")
	return s
}
