//go:build unix

package managed

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"towline/config/osfile"
)

// sources are the managed files, in the order they are merged.
func sources() []source {
	return []source{
		{"/etc/towline/requirements.toml", false, readTowline},
		{"/etc/codex/requirements.toml", true, readRequirements},
		{"/etc/codex/managed_config.toml", true, readManagedConfig},
	}
}

// trusted refuses a file somebody else than an administrator may have written:
// whoever may write it, or the folder it lies in, decides what is mandated.
func trusted(path string, info fs.FileInfo, mine bool) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("it is no regular file")
	}
	if err := administrators(info, mine); err != nil {
		return err
	}
	// Both the folder of the link and that of the file it leads to.
	dirs := []string{filepath.Dir(path)}
	if real, err := filepath.EvalSymlinks(path); err == nil && filepath.Dir(real) != dirs[0] {
		dirs = append(dirs, filepath.Dir(real))
	}
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if err := administrators(info, mine); err != nil && !readOnly(dir) {
			return fmt.Errorf("its folder %s: %w", dir, err)
		}
	}
	return nil
}

func administrators(info fs.FileInfo, mine bool) error {
	uid, ok := osfile.Owner(info)
	if ok && uid != 0 && !(mine && uid == os.Getuid()) && !unmappedRoot(uid) {
		return fmt.Errorf("it belongs to uid %d, not to root", uid)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others than root can write to it (mode %#o)", info.Mode().Perm())
	}
	return nil
}
