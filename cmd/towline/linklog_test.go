package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towline/config"
)

func TestLinkLog(t *testing.T) {
	paths := config.Paths{State: filepath.Join(t.TempDir(), "state")}
	var last *linkLog
	for _, text := range []string{"first\n", "second\n"} { // each begins anew
		l, err := openLinkLog(paths)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		last = l
	}
	last.room = 3
	for _, text := range []string{"too long\n", "x"} { // dropped, also what would fit after a gap
		if n, err := last.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	var said strings.Builder
	last.close(&said)
	if got, err := os.ReadFile(last.path); string(got) != "second\n" || err != nil {
		t.Errorf("it holds %q, %v", got, err)
	}
	if info, err := os.Stat(last.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if !strings.Contains(said.String(), last.path) {
		t.Errorf("said %q", said.String())
	}
}
