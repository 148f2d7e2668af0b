package secret

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds every wait of a test, generous for a loaded machine.
const patience = 45 * time.Second

// role is the variable that makes this test program another process of a test.
const role = "TOWLINE_SECRET_TEST_ROLE"

func TestMain(m *testing.M) {
	if r := os.Getenv(role); r != "" {
		os.Exit(play(r))
	}
	goleak.VerifyTestMain(m)
}

// play is the other process.
func play(r string) int {
	s, err := Open(Options{Kind: Kind(os.Getenv("KIND")), StateDir: os.Getenv("STATE")})
	if err == nil {
		err = roles[r](s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

var roles = map[string]func(*Store) error{
	"spend":   spend,
	"refresh": refreshForever,
	"hold":    hold,
}

// other starts this program again as another process on the same store.
func other(t *testing.T, s *Store, r string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append([]string{
		role + "=" + r, "KIND=" + string(s.o.Kind), "STATE=" + s.o.StateDir, "CODEX_HOME=" + s.o.CodexHome,
		"HOME=" + s.o.CodexHome, "PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + t.TempDir(),
	}, env...)
	cmd.WaitDelay = patience
	return cmd
}

func bg(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// logs is a log a test can look into.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// store opens a store in folders of its own, with no keyring but what env has.
func store(t testing.TB, kind Kind, env ...string) *Store {
	t.Helper()
	dir := t.TempDir()
	return storeAt(t, Options{Kind: kind, CodexHome: filepath.Join(dir, "codex"), StateDir: filepath.Join(dir, "state")}, env...)
}

func storeAt(t testing.TB, o Options, env ...string) *Store {
	t.Helper()
	if o.Environ == nil {
		o.Environ = func(name string) string {
			for _, kv := range env {
				if v, ok := strings.CutPrefix(kv, name+"="); ok {
					return v
				}
			}
			return ""
		}
	}
	if o.Log == nil {
		l := &logs{}
		o.Log = slog.New(slog.NewTextHandler(l, nil))
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(l)
			}
		})
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// jwt is an unsigned token with claims such as the issuer's.
func jwt(expires time.Time) string {
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(map[string]any{"alg": "RS256", "typ": "JWT"}) + "." + part(map[string]any{
		"email": "ann@example.com", "sub": "user-1", "iss": "https://auth.openai.com", "iat": 1700000000, "exp": expires.Unix(),
		"https://api.openai.com/auth": map[string]any{
			"chatgpt_plan_type": "pro", "chatgpt_account_id": "acc-1", "chatgpt_user_id": "user-1",
			"organizations": []any{
				map[string]any{"id": "org-1", "title": "Side", "is_default": false},
				map[string]any{"id": "org-2", "title": "Main", "is_default": true},
			},
		},
	}) + ".c2lnbmF0dXJl"
}

// chatgpt is a login whose refresh token is rt.
func chatgpt(rt string, at time.Time) Auth {
	return Auth{Mode: ModeChatGPT, LastRefresh: at.UTC(), Tokens: &Tokens{
		IDToken: jwt(at.Add(time.Hour)), AccessToken: jwt(at.Add(time.Hour)), RefreshToken: rt, AccountID: "acc-1",
		Issuer: "https://auth.openai.com", ClientID: "app_1",
	}}
}

func mustSave(t testing.TB, s *Store, a Auth) Where {
	t.Helper()
	w, err := s.Save(bg(t), a)
	if err != nil {
		t.Fatalf("save: %v", err)
	}
	return w
}

func mustLoad(t testing.TB, s *Store) (Auth, Where) {
	t.Helper()
	a, w, err := s.Load(bg(t))
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return a, w
}

// write puts a file where a test wants it, as somebody else would.
func write(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func places(t *testing.T, s *Store, kind Kind) (out []Place) {
	t.Helper()
	for _, p := range s.Places(bg(t)) {
		if p.Kind == kind {
			out = append(out, p)
		}
	}
	return out
}
