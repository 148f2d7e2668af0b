package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// unmapStart takes the pages of this program's file off the process. Setting
// up some hundred packages runs a few lines in nearly every part of the code,
// and with each the kernel maps what lies around it; what a daemon then uses is
// a tenth of that. Mapped code is the last a system short of memory drops. What
// is used again comes back from the file or its cache, a piece at a time.
func unmapStart() {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return // as where /proc is not mounted: nothing depends on this
	}
	defer func() { _ = f.Close() }()
	var from, to uintptr
	var kept bool
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		name, value, _ := strings.Cut(line, ":")
		switch {
		case strings.Contains(name, " "): // the head of a mapping; its path may hold a colon
			var mode, offset, device string
			var inode uint64
			n, _ := fmt.Sscanf(line, "%x-%x %s %s %s %d", &from, &to, &mode, &offset, &device, &inode)
			kept = n < 6 || mode != "r-xp" && mode != "r--p" || !strings.HasSuffix(line, " "+self)
		case name == "Anonymous" && !kept && strings.TrimSpace(value) == "0 kB":
			// Only what is the file's and nothing else: a page of the process's own,
			// such as relocated data or a debugger's breakpoint, would be lost.
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // advice
		}
	}
}
