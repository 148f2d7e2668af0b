package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"towline/config/osfile"
)

// Paths says where everything lives. All paths are absolute.
//
// With $TOWLINE_HOME set, all of it is in that one folder, so that several
// hosts can run side by side and a trial leaves nothing behind. Without it the
// XDG directories are used: what people edit under the config directory, what
// the program keeps under the state directory, sockets under the runtime one.
type Paths struct {
	Config  string // config.toml, authorized_keys
	State   string // database, threads, audit log, host key
	Runtime string // sockets
}

// Locate finds the paths for an environment, given as a lookup such as
// os.Getenv. It touches no file.
func Locate(getenv func(string) string) (Paths, error) {
	if home := getenv("TOWLINE_HOME"); home != "" {
		abs, err := filepath.Abs(home)
		if err != nil {
			return Paths{}, fmt.Errorf("resolve TOWLINE_HOME: %w", err)
		}
		return Paths{Config: abs, State: abs, Runtime: filepath.Join(abs, "run")}, nil
	}
	home := getenv("HOME")
	dir := func(env, fallback string) (string, error) {
		if v := getenv(env); filepath.IsAbs(v) { // the XDG rules ignore relative values
			return filepath.Join(v, "towline"), nil
		}
		if !filepath.IsAbs(home) {
			return "", &Problem{
				Stage: "config", Err: fmt.Errorf("neither TOWLINE_HOME, %s nor HOME names a folder", env),
				Hints: []string{"set TOWLINE_HOME to a folder of yours"}, Exit: ExitConfig,
			}
		}
		return filepath.Join(home, fallback, "towline"), nil
	}
	var p Paths
	var err error
	if p.Config, err = dir("XDG_CONFIG_HOME", ".config"); err != nil {
		return Paths{}, err
	}
	if p.State, err = dir("XDG_STATE_HOME", filepath.Join(".local", "state")); err != nil {
		return Paths{}, err
	}
	p.Runtime = filepath.Join(p.State, "run")
	if v := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(v) {
		p.Runtime = filepath.Join(v, "towline")
	}
	return p, nil
}

// Home is the folder reported as this host's home.
func (p Paths) Home() string { return p.State }

// ConfigFile is where people configure the host.
func (p Paths) ConfigFile() string { return filepath.Join(p.Config, "config.toml") }

// AuthorizedKeys lists who may come in by SSH.
func (p Paths) AuthorizedKeys() string { return filepath.Join(p.Config, "authorized_keys") }

// HostKey is the SSH host key, made on first use.
func (p Paths) HostKey() string { return filepath.Join(p.State, "host_ed25519") }

// Database holds approvals and what each person left open.
func (p Paths) Database() string { return filepath.Join(p.State, "towline.db") }

// ACME is where certificates of an authority are kept.
func (p Paths) ACME() string { return filepath.Join(p.State, "acme") }

// Threads holds the native engine's histories.
func (p Paths) Threads() string { return filepath.Join(p.State, "threads") }

// Audit is the hash-chained log.
func (p Paths) Audit() string { return filepath.Join(p.State, "audit.jsonl") }

// ClientToken is an access token of another Towline, put here by `towline
// credentials put --towline-token`: what this machine shows as that one's client.
func (p Paths) ClientToken() string { return filepath.Join(p.State, "client_token") }

// Moving says that the login of this machine is on its way to another, and keeps
// it aside until that has proved to have it; see package custody.
func (p Paths) Moving() string { return filepath.Join(p.State, "moving.json") }

// Moves is a host's memory of the logins that were moved to it; no secret is in it.
func (p Paths) Moves() string { return filepath.Join(p.State, "moves") }

// Log is where the daemon writes what it does.
func (p Paths) Log() string { return filepath.Join(p.State, "towline.log") }

// Socket is the daemon's own unix socket.
func (p Paths) Socket() string { return filepath.Join(p.Runtime, "towline.sock") }

// Ensure makes the folders that are missing (0700), closes those others could
// read, and refuses those others could write or own. On a file system that is
// read-only the configuration folder may be missing: there is none, then.
func (p Paths) Ensure() error {
	for _, dir := range []string{p.Config, p.State, p.Threads(), p.Runtime} {
		err := PrivateDir(dir)
		if err != nil && !(dir == p.Config && dir != p.State && errors.Is(err, syscall.EROFS)) {
			return err // the others lie beside it or in it
		}
	}
	return nil
}

// PrivateDir makes dir private to this user (0700). A folder that others could
// have written to is refused, because what is in it may not be ours; one they
// could only read is closed to them.
func PrivateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &Problem{
			Stage: "state", Err: err, Exit: ExitConfig,
			Hints: []string{"set TOWLINE_HOME to a folder you may write to, or make that one writable"},
		}
	}
	if err := private(dir, 0o022, "chmod 700 "); err != nil {
		return err
	}
	if info, err := os.Stat(dir); err == nil && osfile.ModesMean && info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a folder needs its x bit
			return &Problem{Stage: "state", Err: err, Exit: ExitConfig}
		}
	}
	return nil
}

// PrivateFile refuses a file that others can read or write. A missing file is
// no error.
func PrivateFile(path string) error {
	err := private(path, 0o077, "chmod 600 ")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func private(path string, forbidden fs.FileMode, cure string) error {
	info, err := os.Stat(path)
	if err != nil {
		return &Problem{Stage: "state", Err: err, Exit: ExitConfig}
	}
	if uid, ok := osfile.Owner(info); ok && uid != os.Getuid() {
		return &Problem{
			Stage: "state", Err: fmt.Errorf("%s belongs to uid %d, not to you", path, uid),
			Hints: []string{"set TOWLINE_HOME to a folder of your own"}, Exit: ExitConfig,
		}
	}
	if osfile.ModesMean && info.Mode().Perm()&forbidden != 0 {
		return &Problem{
			Stage: "state", Err: fmt.Errorf("%s is open to others (mode %#o)", path, info.Mode().Perm()),
			Hints: []string{"run `" + cure + path + "`"}, Exit: ExitConfig,
		}
	}
	return nil
}
