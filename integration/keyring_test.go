package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towline/integration/peer"
)

// session is a laptop with a desktop session, and Codex told to use its keyring.
type session struct {
	*peer.Laptop
	keyring *peer.Keyring
	codex   peer.Codex
}

func newSession(t *testing.T, store string, start func(testing.TB, *peer.User) *peer.Keyring) *session {
	t.Helper()
	s := &session{Laptop: peer.NewLaptop(t), codex: peer.Codexes(t)[0]}
	s.keyring = start(t, s.User)
	for _, kv := range s.keyring.Environ {
		s.Setenv(kv)
	}
	s.Write(".codex/config.toml", "cli_auth_credentials_store = \""+store+"\"\n", 0o600)
	return s
}

// with runs a program with something on its standard input.
func (s *session) with(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
	defer cancel()
	cmd := s.Command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("%q hangs; it said\n%s", args, out)
	}
	return string(out), err
}

// One keyring entry for both programs: what one writes, the other reads, and
// neither leaves a file.
func TestKeyringIsSharedWithCodex(t *testing.T) {
	t.Parallel()
	const key = "sk-towline-0123456789abcdef"
	t.Run("towline writes", func(t *testing.T) {
		t.Parallel()
		s := newSession(t, "keyring", peer.StartKeyring)
		if out, err := s.with(t, key+"\n", peer.Binary(t), "login", "--with-api-key"); err != nil || !strings.Contains(out, "keyring") {
			t.Fatalf("towline login: %v\n%s", err, out)
		}
		if out, err := s.with(t, "", s.codex.Bin, "login", "status"); err != nil || !strings.Contains(out, "API key") {
			t.Errorf("codex login status: %v\n%s", err, out)
		}
		if entries := s.keyring.Entries("service", "Codex Auth"); strings.Count(entries, "label = ") != 1 {
			t.Errorf("the keyring has\n%s", entries)
		}
		s.noFile(t)
		if out, err := s.with(t, "", s.codex.Bin, "logout"); err != nil {
			t.Errorf("codex logout: %v\n%s", err, out)
		}
		if r := s.Towline("login", "status"); r.Code == 0 {
			t.Errorf("after codex logout Towline says %+v", r)
		}
	})
	t.Run("codex writes", func(t *testing.T) {
		t.Parallel()
		s := newSession(t, "keyring", peer.StartKeyring)
		if out, err := s.with(t, key+"\n", s.codex.Bin, "login", "--with-api-key"); err != nil {
			t.Fatalf("codex login: %v\n%s", err, out)
		}
		if r := s.Towline("login", "status"); r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr, "keyring") {
			t.Errorf("towline login status: %+v", r)
		}
		s.noFile(t)
		if r := s.Towline("logout"); r.Code != 0 {
			t.Errorf("towline logout: %+v", r)
		}
		if out, err := s.with(t, "", s.codex.Bin, "login", "status"); err == nil {
			t.Errorf("after towline logout Codex says\n%s", out)
		}
		if found := s.keyring.Lookup("service", "Codex Auth"); found != "" {
			t.Error("the entry is still there")
		}
	})
}

func (s *session) noFile(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(s.Home, ".codex", "auth.json")); err == nil {
		t.Error("there is an auth.json next to the keyring")
	}
}

// A keyring that cannot be used never holds anything up. Asked for strictly, it
// is an error that says why; with "auto" the login goes elsewhere, and that is
// said.
func TestKeyringThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	const key = "sk-towline-0123456789abcdef"
	for name, start := range map[string]func(t testing.TB, u *peer.User) *peer.Keyring{
		"absent": peer.StartBus,
		"locked": func(t testing.TB, u *peer.User) *peer.Keyring { k := peer.StartKeyring(t, u); k.Lock(); return k },
		"hung":   func(t testing.TB, u *peer.User) *peer.Keyring { k := peer.StartKeyring(t, u); k.Hang(); return k },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("keyring", func(t *testing.T) {
				t.Parallel()
				s := newSession(t, "keyring", start)
				out, err := s.with(t, key+"\n", peer.Binary(t), "login", "--with-api-key")
				if err == nil || !strings.Contains(out, "error: ") || !strings.Contains(out, "hint: ") || !strings.Contains(out, "keyring") {
					t.Errorf("towline login: %v\n%s", err, out)
				}
				if strings.Contains(out, key) {
					t.Error("the key is in the error")
				}
				s.noFile(t)
				if out, err := s.with(t, "", peer.Binary(t), "credentials", "status"); !strings.Contains(out, "keyring") {
					t.Errorf("towline credentials status: %v\n%s", err, out)
				}
			})
			t.Run("auto", func(t *testing.T) {
				t.Parallel()
				s := newSession(t, "auto", start)
				out, err := s.with(t, key+"\n", peer.Binary(t), "login", "--with-api-key")
				if err != nil || !strings.Contains(out, "auth.json") || !strings.Contains(out, "keyring") {
					t.Errorf("towline login does not say where it went, and why: %v\n%s", err, out)
				}
				if name == "hung" {
					return // Codex waits for it
				}
				if name == "locked" {
					return // Codex gives up over it
				}
				if out, err := s.with(t, "", s.codex.Bin, "login", "status"); err != nil || !strings.Contains(out, "API key") {
					t.Errorf("codex login status: %v\n%s", err, out)
				}
			})
		})
	}
}
