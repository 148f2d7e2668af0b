//go:build unix

package sshconfig

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"towline/config"
)

// ssh refuses a file others may write to; the list says so before it is asked,
// and shows what is in it all the same.
func TestFilesOthersMayWriteTo(t *testing.T) {
	o := home(t, map[string]string{".ssh/config": "Host a\nInclude part\n", ".ssh/part": "Port 3\n"})
	for _, f := range []string{"config", "part"} {
		path := filepath.Join(o.Home, ".ssh", f)
		if err := os.Chmod(path, 0o606); err != nil { //nolint:gosec // loose on purpose
			t.Fatal(err)
		}
		l := List(o)
		if len(l.Aliases) != 1 || len(l.Faults) != 1 || l.Faults[0].File != path || !strings.Contains(l.Faults[0].Text, "others may write to it (mode 0606), so ssh refuses it: run `chmod 600 "+path+"`") {
			t.Errorf("%s: %+v", f, l)
		}
		without := o
		without.Program = NoProgram
		if _, err := Resolve(t.Context(), without, "a"); err == nil || !strings.Contains(err.Error(), "others may have written "+path) || len(config.Hints(err)) == 0 {
			t.Errorf("%s: without ssh: %v", f, err)
		}
		if err := os.Chmod(path, 0o644); err != nil { //nolint:gosec // readable is fine
			t.Fatal(err)
		}
	}
	if l := List(o); len(l.Faults) != 0 {
		t.Errorf("readable files are fine: %v", l.Faults)
	}
	// ssh does not mind a file named by -F, but what that includes.
	needSSH(t)
	path := filepath.Join(o.Home, ".ssh/part")
	o = write(t, "Include "+path+"\n")
	if err := os.Chmod(path, 0o606); err != nil { //nolint:gosec // loose on purpose
		t.Fatal(err)
	}
	if err := os.Chmod(o.UserFile, 0o606); err != nil { //nolint:gosec // loose on purpose
		t.Fatal(err)
	}
	if l := List(o); len(l.Faults) != 1 || l.Faults[0].File != path {
		t.Errorf("faults %v", l.Faults)
	}
	_, err := Resolve(t.Context(), o, "a")
	if err == nil || !strings.Contains(err.Error(), "Bad owner or permissions on "+path) || !strings.Contains(config.Hints(err)[0], "chmod 600 "+path) {
		t.Errorf("ssh: %v", err)
	}
}

// Opening a pipe waits for a writer who never comes.
func TestPipesAreNotRead(t *testing.T) {
	o := home(t, map[string]string{".ssh/config": "Include agent.pipe\nHost a\n"})
	if err := syscall.Mkfifo(filepath.Join(o.Home, ".ssh/agent.pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan Listing, 1)
	go func() { done <- List(o) }()
	select {
	case l := <-done:
		if len(l.Aliases) != 1 || len(l.Faults) != 1 || l.Faults[0].Text != "not read: it is not a regular file" {
			t.Errorf("got %+v", l)
		}
	case <-time.After(40 * time.Second):
		t.Fatal("it waits")
	}
}

// A pipe where a folder could be is no folder, and nobody waits for its writer.
func TestGlobPassesPipes(t *testing.T) {
	top := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(top, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(top, "folder", "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	found, complete := glob(top+"/*/*", false)
	if want := filepath.Join(top, "folder", "a"); !complete || len(found) != 1 || found[0] != want {
		t.Errorf("found %q, complete %v", found, complete)
	}
}
