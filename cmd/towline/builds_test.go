package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A host says what system it is, and gets a file of that name. It cannot choose
// another one of this machine.
func TestSecurityAHostDoesNotChooseWhichFileIsSent(t *testing.T) {
	root := t.TempDir()
	builds := builds{where: []string{filepath.Join(root, "bin")}}
	if err := os.WriteFile(filepath.Join(root, "secret"), []byte("a secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range [][2]string{{"linux", "/../../secret"}, {"x/../..", "/../secret"}, {"..", ".."}, {"linux", "/../../../../../../../../../proc/kcore"}, {"", ""}} {
		b, err := builds.find(name[0], name[1])
		if err == nil || b.Open != nil || !strings.Contains(err.Error(), "the host calls itself") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
