package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"towline/config"
	"towline/config/osfile"
)

// lasting refuses a program that is to be run again and again by itself, and that
// everybody on this machine could put another in the place of. A group's write bit
// is let pass: many systems give each user a group of his own.
func lasting(program string) error {
	if !osfile.ModesMean {
		return nil
	}
	real, err := filepath.EvalSymlinks(program)
	if err != nil {
		return &config.Problem{Stage: "start", Err: fmt.Errorf("find the program: %w", err), Exit: config.ExitConfig, Hints: []string{"install it where it was: " + program}}
	}
	for _, path := range []string{real, filepath.Clean(program)} { // links lie in folders, too
		info, err := os.Stat(path)
		if err == nil {
			err = everybodys(path, info)
		}
		for dir := filepath.Dir(path); err == nil; dir = filepath.Dir(dir) {
			if info, err = os.Stat(dir); err == nil {
				err = everybodys(dir, info)
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var errEverybodys = errors.New("everybody on this machine can write to it")

func everybodys(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o002 == 0 || info.IsDir() && info.Mode()&fs.ModeSticky != 0 {
		return nil
	}
	return &config.Problem{
		Stage: "start", Err: fmt.Errorf("a program that starts by itself is not run from %s: %w (mode %#o)", path, errEverybodys, info.Mode().Perm()),
		Hints: []string{"copy the program to a folder of your own, and type this again with that", "or `chmod o-w " + shellWord(path) + "`"}, Exit: config.ExitConfig,
	}
}
