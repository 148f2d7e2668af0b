//go:build unix

package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHomeHasOneDaemonThatIsFoundFromAnyEnvironment(t *testing.T) {
	home := t.TempDir()
	began := Paths{Config: home, State: home, Runtime: filepath.Join(home, "xdg")}
	here := Paths{Config: home, State: home, Runtime: filepath.Join(home, "run")}
	if got := here.FindSocket(); got != here.Socket() {
		t.Errorf("without a daemon: %s", got)
	}
	release, _, err := began.Hold()
	if err != nil {
		t.Fatal(err)
	}
	if got := here.FindSocket(); got != began.Socket() {
		t.Errorf("the daemon is looked for at %s", got)
	}
	if _, other, err := here.Hold(); err == nil || other.PID != os.Getpid() || other.Socket != began.Socket() {
		t.Errorf("a second one: %+v, %v", other, err)
	}
	release()
	if got := here.FindSocket(); got != here.Socket() {
		t.Errorf("what a daemon left is believed: %s", got)
	}
	// A file that says nothing of use.
	if err := os.WriteFile(here.holderFile(), []byte(`{"socket":"relative"`), 0o600); err != nil {
		t.Fatal(err)
	}
	release, _, err = here.Hold()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := os.WriteFile(here.holderFile(), []byte("not json"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := began.FindSocket(); got != began.Socket() {
		t.Errorf("%s", got)
	}
	info, err := os.Stat(here.holderFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}
