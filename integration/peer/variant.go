package peer

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"towline/appserver/protocol"
)

// Variant is another build of towline: one of the past or the future, as hosts
// have it that are not updated when the laptop is.
type Variant struct {
	Version string          // what it calls itself
	Window  protocol.Window // what it says it understands
}

var variants struct {
	mu    sync.Mutex
	built map[Variant]string
}

// BuildVariant builds one, once a test process. It is the same source but for
// what it says of itself.
func BuildVariant(t testing.TB, v Variant) string {
	t.Helper()
	variants.mu.Lock()
	defer variants.mu.Unlock()
	if bin, ok := variants.built[v]; ok {
		return bin
	}
	// Next to the ordinary binary: it is removed with it, and others may run it.
	dir, err := os.MkdirTemp(filepath.Dir(Binary(t)), "variant")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // accounts made for tests run it too
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	root := strings.TrimSpace(string(out))
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	change := func(name, from, to string) {
		t.Helper()
		path := filepath.Join(root, name)
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(src), from) {
			t.Fatalf("%s no longer has %q: a variant is built by replacing it", name, from)
		}
		other := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(other, []byte(strings.Replace(string(src), from, to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[path] = other
	}
	change("appserver/protocol/window.go", "var Spoken = Window{", fmt.Sprintf("var Spoken = Window{Min: %d, Max: %d}\n\nvar _ = Window{", v.Window.Min, v.Window.Max))
	raw, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "towline")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w -X main.release="+v.Version, "-overlay", file, "-o", bin, "towline/cmd/towline")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build a variant: %v\n%s", err, out)
	}
	if variants.built == nil {
		variants.built = map[Variant]string{}
	}
	variants.built[v] = bin
	return bin
}
