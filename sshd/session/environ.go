package session

import (
	"strings"

	"golang.org/x/crypto/ssh"

	"towline/sshd/auth"
)

// Limits on what a client may send before its session starts.
const (
	maxEnv      = 32  // variables kept; OpenSSH sends LANG and LC_*, 14 at most
	maxEnvValue = 256 // bytes; a locale is 20
	maxTerm     = 64  // bytes; the longest terminfo name in use is 30
	maxPayload  = 16 << 10
)

// allowedEnv says which variables describe the person's terminal. Everything
// else could steer this process: with TMUX set, colour detection runs `tmux`.
func allowedEnv(name string) bool {
	switch name {
	case "LANG", "COLORTERM", "TERM_PROGRAM", "NO_COLOR":
		return true
	}
	after, ok := strings.CutPrefix(name, "LC_")
	return ok && after != "" && len(after) < 32 && strings.Trim(after, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}

// acceptEnv decides about one env request. The first value of a name stays.
func acceptEnv(environ []string, payload []byte) ([]string, bool) {
	var kv struct{ Name, Value string }
	if ssh.Unmarshal(payload, &kv) != nil || !allowedEnv(kv.Name) || len(environ) >= maxEnv || len(kv.Value) > maxEnvValue {
		return environ, false
	}
	if auth.Printable(kv.Value, maxEnvValue) != kv.Value {
		return environ, false
	}
	for _, have := range environ {
		if strings.HasPrefix(have, kv.Name+"=") {
			return environ, false
		}
	}
	return append(environ, kv.Name+"="+kv.Value), true
}

// termName is a terminal type that is safe to look up and to print.
func termName(s string) string {
	if s == "" || len(s) > maxTerm {
		return "dumb"
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && !strings.ContainsRune("+-._", rune(c)) {
			return "dumb"
		}
	}
	return s
}
