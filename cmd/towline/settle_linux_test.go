package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// The pages come back as they are used: that the test goes on shows it.
func TestUnmapStart(t *testing.T) {
	before := fileKiB(t)
	unmapStart()
	if after := fileKiB(t); after > before/2 {
		t.Errorf("%d KiB of files were mapped, and %d still are", before, after)
	}
}

func fileKiB(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssFile:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Skip("this kernel does not tell")
	return 0
}
