package main

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// The file of -o is replaced in one step; what is no regular file, or somebody's
// open one, is written to where it is. (Nothing here may name a device: with -o on
// /dev/stderr a run as root once replaced it by a file.)
func TestLastMessageReplacesFilesOnly(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"file", "target"} {
		if err := os.WriteFile(at(name), []byte("old"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("target", at("link")); err != nil {
		t.Skip("LOUD: no symbolic links here")
	}
	if err := os.Symlink("nothing", at("dangling")); err != nil {
		t.Fatal(err)
	}
	for name, into := range map[string]string{"file": "file", "link": "target", "new": "new"} {
		m, err := openLastMessage(at(name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := os.Stat(at("new")); name == "new" && err == nil {
			t.Error("it is there before there is a message")
		}
		if err := m.write("said"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(at(into)); err != nil || string(b) != "said" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		if info, err := os.Lstat(at(into)); err != nil || name != "new" && info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if info, err := os.Lstat(at("link")); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info, err)
	}
	for _, name := range []string{"dangling", ".", "no/such/folder"} {
		if _, err := openLastMessage(at(name)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	left, err := filepath.Glob(at("*.tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A descriptor of this process that leads to a file, as /dev/stdout does after a
// redirection, is somebody's open file.
func TestLastMessageOfAnOpenFile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteString("before "); err != nil {
		t.Fatal(err)
	}
	fd := filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd())))
	if _, err := os.Lstat(fd); err != nil {
		t.Skip("LOUD: no /proc here")
	}
	m, err := openLastMessage(fd)
	if err != nil || !m.direct {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := m.write("said"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(f.Name()); err != nil || string(b) != "before said" {
		t.Errorf("%q, %v", b, err)
	}
}
