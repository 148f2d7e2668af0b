// Package integration holds what no single package can show: journeys with real
// peers, the shape of the tree, and comparisons with other programs.
package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"towline/integration/peer"
)

// mayImport is the table of the design: which top-level folder may know which.
// A new edge is a design change with a commit of its own.
var mayImport = map[string][]string{
	"cmd":         {"appserver", "sshd", "launcher", "forward", "config"},
	"sshd":        {"appserver", "forward", "config"},
	"launcher":    {"appserver/protocol", "appserver/rpc", "forward", "config"},
	"appserver":   {"config"},
	"forward":     {"config"},
	"config":      {},
	"integration": {"cmd", "appserver", "sshd", "launcher", "forward", "config"},
}

// onlyIn names the one place that may know a dependency whose types, size or
// churn must not spread.
var onlyIn = map[string][]string{
	"github.com/openai/openai-go/v3":         {"towline/appserver/engine/native/model"},
	"charm.land/wish/v2":                     {"towline/sshd"},
	"charm.land/ssh":                         {"towline/sshd"},
	"modernc.org/sqlite":                     {"towline/config/store"},
	"github.com/landlock-lsm/go-landlock":    {"towline/appserver/engine/native/sandbox"},
	"github.com/elastic/go-seccomp-bpf":      {"towline/appserver/engine/native/sandbox"},
	"github.com/yuin/goldmark":               {"towline/appserver/tui"},
	"github.com/alecthomas/chroma/v2":        {"towline/appserver/tui"},
	"charm.land/bubbletea/v2":                {"towline/appserver/tui", "towline/sshd"},
	"github.com/pelletier/go-toml/v2":        {"towline/config", "towline/appserver/engine/codex"},
	"github.com/spf13/cobra":                 {"towline/cmd"},
	"github.com/creack/pty":                  {"towline/appserver/engine/native/tool/exec", "towline/sshd", "towline/integration"},
	"github.com/coder/websocket":             {"towline/appserver"},
	"github.com/VictoriaMetrics/metrics":     {"towline/appserver/metrics"},
	"golang.org/x/crypto/acme":               {"towline/appserver/transport"},
	"github.com/godbus/dbus/v5":              {"towline/config/secret"},
	"github.com/zalando/go-keyring":          {"towline/config/secret"},
	"github.com/golang-jwt/jwt/v5":           {"towline/appserver/account", "towline/appserver/access/bearer"},
	"github.com/kevinburke/ssh_config":       {"towline/config/sshconfig"},
	"github.com/santhosh-tekuri/jsonschema/": {},
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Imports,Deps"}, args...)...)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0") // the same answer everywhere
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("go list: %v\n%s", err, &errs)
	}
	var all []goPackage
	for d := json.NewDecoder(&out); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// root is the checkout.
func root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the tests")
		}
	}
}

func TestPackagesImportOnlyWhatTheDesignAllows(t *testing.T) {
	for _, p := range list(t, "./...") {
		from := strings.TrimPrefix(p.ImportPath, "towline/")
		top, _, _ := strings.Cut(from, "/")
		allowed, known := mayImport[top]
		if !known {
			t.Errorf("%s: %q is not one of the fixed top-level folders", p.ImportPath, top)
			continue
		}
		for _, imp := range p.Imports {
			if to, ours := strings.CutPrefix(imp, "towline/"); ours {
				toTop, _, _ := strings.Cut(to, "/")
				if toTop != top && !within(to, allowed) {
					t.Errorf("%s imports %s: the design does not allow %s to know %s", p.ImportPath, imp, top, to)
				}
			}
			for dep, homes := range onlyIn {
				if strings.HasPrefix(imp, dep) && !within(p.ImportPath, homes) {
					t.Errorf("%s imports %s, which only %v may", p.ImportPath, imp, homes)
				}
			}
		}
	}
}

func within(path string, roots []string) bool {
	for _, r := range roots {
		if path == r || strings.HasPrefix(path, r+"/") {
			return true
		}
	}
	return false
}

// The root package of openai-go costs some 20 MB of binary; only its responses
// package is worth its weight.
func TestBinaryLinksNoHeavyDependency(t *testing.T) {
	for _, p := range list(t, "./cmd/towline") {
		for _, d := range p.Deps {
			switch d {
			case "github.com/openai/openai-go/v3", "charm.land/glamour/v2", "testing", "github.com/gliderlabs/ssh":
				t.Errorf("the binary links %s", d)
			}
		}
	}
}

// maxBinary is what the stripped linux/amd64 binary may weigh, in bytes. It is
// copied to hosts over ssh; raise it in the commit that says what was bought: last
// tokens, TLS with ACME, metrics, exec and the managed daemon, for 2.5 MiB.
const maxBinary = 31 << 20

func TestBinaryStaysWithinItsBudget(t *testing.T) {
	info, err := os.Stat(peer.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxBinary {
		t.Errorf("the binary has %d bytes, %d more than its budget", info.Size(), info.Size()-maxBinary)
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

// A new dependency shows up in review as lines of this file.
func TestBinaryLinksWhatTheGoldenFileSays(t *testing.T) {
	var lines []string
	for _, p := range list(t, "./cmd/towline") {
		for _, d := range p.Deps {
			if first, _, _ := strings.Cut(d, "/"); strings.Contains(first, ".") {
				lines = append(lines, d)
			}
		}
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	const golden = "testdata/imports.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the binary's imports changed; review `make golden`:\n%s", cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")))
	}
}

func TestGoModHasNoReplaceOrExclude(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if w := strings.Fields(line); len(w) > 0 && (w[0] == "replace" || w[0] == "exclude") {
			t.Errorf("go.mod: %s breaks `go install`", w[0])
		}
	}
}
