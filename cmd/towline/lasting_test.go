package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"towline/config/osfile"
)

// What a supervisor or a service runs by itself, again after each crash, must not be
// what another user of the machine has put there meanwhile.
func TestSecurityProgramsOthersCanReplaceAreNotKeptRunning(t *testing.T) {
	if !osfile.ModesMean {
		t.Skip("modes say nothing here")
	}
	root := t.TempDir()
	for name, tc := range map[string]struct {
		dir, file os.FileMode
		refused   bool
	}{
		"mine":                        {0o755, 0o755, false},
		"my group's":                  {0o775, 0o775, false},
		"a file for everybody":        {0o755, 0o777, true},
		"a folder for everybody":      {0o777, 0o755, true},
		"a sticky folder":             {0o777 | os.ModeSticky, 0o755, false},
		"everybodys, in a sticky one": {0o777 | os.ModeSticky, 0o757, true},
	} {
		dir := filepath.Join(root, name)
		program, link := filepath.Join(dir, "towline"), filepath.Join(root, name+" link")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(program, nil, 0o700), os.Chmod(program, tc.file), os.Chmod(dir, tc.dir), os.Symlink(program, link)); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{program, link} {
			if err := lasting(path); errors.Is(err, errEverybodys) != tc.refused {
				t.Errorf("%s, %s: %v", name, path, err)
			}
		}
		// A link in a folder of everybody's leads where anybody says.
		if tc.dir == 0o777 {
			inside := filepath.Join(dir, "link")
			mine := filepath.Join(root, "own")
			if err := errors.Join(os.WriteFile(mine, nil, 0o700), os.Symlink(mine, inside)); err != nil {
				t.Fatal(err)
			}
			if err := lasting(inside); !errors.Is(err, errEverybodys) {
				t.Errorf("a link in it: %v", err)
			}
		}
	}
	if err := lasting(filepath.Join(root, "none")); err == nil {
		t.Error("one that is not there")
	}
	if _, err := lastingCommand(filepath.Join(root, "a folder for everybody", "towline"), "serve"); !errors.Is(err, errEverybodys) {
		t.Errorf("the supervisor would run it: %v", err)
	}
}
