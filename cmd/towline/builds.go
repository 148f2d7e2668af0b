package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"

	"towline/config"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// builds finds the binaries that can be put on hosts: this program itself for
// machines like this one, and for others what `make builds` made.
type builds struct {
	self  string   // this program's file
	where []string // folders with towline-OS-ARCH in them
}

func findBuilds(paths config.Paths) (builds, error) {
	self, err := os.Executable()
	if err != nil {
		return builds{}, err
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	dir := filepath.Dir(self)
	b := builds{self: self, where: []string{dir, filepath.Join(dir, "..", "share", "towline"), filepath.Join(paths.State, "builds")}}
	if runtime.GOOS == "linux" {
		b.self = "/proc/self/exe" // right even when an upgrade replaced the file
	}
	return b, nil
}

// platformWord is what a system or a processor may be called in a file's name. It
// is the host that says what it is.
var platformWord = regexp.MustCompile(`^[a-z0-9_]{1,32}$`)

// find is a launcher.Config's Build.
func (b builds) find(goos, arch string) (bootstrap.Build, error) {
	if goos == runtime.GOOS && arch == runtime.GOARCH {
		return describeBuild(b.self, goos, arch)
	}
	if !platformWord.MatchString(goos) || !platformWord.MatchString(arch) {
		return bootstrap.Build{}, &config.Problem{
			Stage: remote.StageInstall, Exit: config.ExitUnavailable,
			Err:   fmt.Errorf("the host calls itself %s/%s, which is no system Towline knows", printable(goos), printable(arch)),
			Hints: []string{"see what it is with `uname -sm` there"},
		}
	}
	name := "towline-" + goos + "-" + arch
	for _, dir := range b.where {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return describeBuild(path, goos, arch)
		}
	}
	hint := fmt.Sprintf("build it: `make builds`, or put it at %s", filepath.Join(b.where[len(b.where)-1], name))
	if goos == "windows" {
		hint = "use WSL there, or another machine: Towline's hosts are Linux"
	}
	return bootstrap.Build{}, &config.Problem{
		Stage: remote.StageInstall, Exit: config.ExitUnavailable,
		Err:   fmt.Errorf("there is no towline for %s/%s here", printable(goos), printable(arch)),
		Hints: []string{hint},
	}
}

// fileBuild is a launcher.Config's Build that knows one binary.
func fileBuild(path string) func(goos, arch string) (bootstrap.Build, error) {
	return func(goos, arch string) (bootstrap.Build, error) { return describeBuild(path, goos, arch) }
}

// describeBuild reads what has to be known of a binary. Its version is in it.
func describeBuild(path, goos, arch string) (bootstrap.Build, error) {
	fail := func(err error) (bootstrap.Build, error) {
		return bootstrap.Build{}, &config.Problem{
			Stage: remote.StageInstall, Err: fmt.Errorf("read the build for %s/%s: %w", goos, arch, err),
			Hints: []string{"build it again: `make builds`"}, Exit: config.ExitUnavailable,
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = f.Close() }() // read-only
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fail(err)
	}
	info, err := buildinfo.Read(f)
	if err != nil {
		return fail(err)
	}
	for _, s := range info.Settings {
		if s.Key == "GOOS" && s.Value != goos || s.Key == "GOARCH" && s.Value != arch {
			return fail(fmt.Errorf("%s is for %s=%s", path, s.Key, s.Value))
		}
	}
	v := release // the builds of a release are made together
	if v == "" {
		v = versionOf(info)
	}
	return bootstrap.Build{
		Open: func() (io.ReadCloser, error) { return os.Open(path) },
		Size: n, SHA256: hex.EncodeToString(h.Sum(nil)), Version: v, OS: goos, Arch: arch,
	}, nil
}
