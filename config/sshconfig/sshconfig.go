// Package sshconfig reads OpenSSH client configuration: which hosts a person
// named there, and what one of them means.
//
// The two questions are answered differently, on purpose. [List] reads the files
// itself, line by line, and executes nothing: a list must not run `Match exec`
// commands or ask the DNS about every host. [Resolve] asks the system's own
// `ssh -G` about the one host a person chose, so that Match, canonicalisation,
// defaults and first-value-wins are exactly what a terminal would do; only
// without OpenSSH does it fall back to a library, which says what it had to
// leave out and refuses rather than guess a proxy or an identity.
//
// Nothing here opens a connection, reads a key, or keeps state.
package sshconfig

import (
	"os"
	"os/user"
	"path/filepath"
	"runtime"
)

// Options say which configuration to read and for whom. The zero value is what
// plain `ssh` would use.
type Options struct {
	// UserFile is read instead of ~/.ssh/config, as `ssh -F` does, and "none"
	// reads none. The system-wide file is then not read either, unless SystemFile
	// names it.
	UserFile string
	// SystemFile is read instead of /etc/ssh/ssh_config.
	SystemFile string
	// Home is the folder `~` and %d stand for. ssh takes it from the user
	// database, not from $HOME, and so does the default.
	Home string
	// User is the local user's name (%u), and the remote one where none is set.
	User string
	// Program is the ssh to ask: a path, or a name on the PATH. Empty is "ssh";
	// [NoProgram] asks none and uses the library.
	Program string
	// Getenv looks up ${VARIABLES}; nil is os.Getenv.
	Getenv func(string) string
}

// NoProgram as Options.Program resolves with the library only.
const NoProgram = "none"

// withDefaults fills in what the operating system knows.
func (o Options) withDefaults() Options {
	if o.Home == "" || o.User == "" {
		u, err := user.Current()
		if err == nil {
			o.Home, o.User = or(o.Home, u.HomeDir), or(o.User, localName(u.Username))
		} else if home, err := os.UserHomeDir(); err == nil {
			o.Home = or(o.Home, home)
		}
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	o.UserFile = userFileAbs(o.UserFile, o.Home)
	return o
}

// places is where this operating system keeps things.
func (o Options) places() places {
	return placesFor(runtime.GOOS, o.Home, o.Getenv)
}

// places are an operating system's rules for finding the files.
type places struct {
	windows              bool
	userDir, systemDir   string // what relative Includes are relative to
	userFile, systemFile string
}

// placesFor is a function of its arguments, so that Windows' rules are tested
// everywhere: there the home folder is %USERPROFILE% and the system-wide files
// are in %ProgramData%\ssh.
func placesFor(goos, home string, getenv func(string) string) places {
	if goos == "windows" {
		if home == "" {
			home = getenv("USERPROFILE")
		}
		data := or(getenv("ProgramData"), `C:\ProgramData`)
		p := places{windows: true, userDir: home + `\.ssh`, systemDir: data + `\ssh`}
		p.userFile, p.systemFile = p.userDir+`\config`, p.systemDir+`\ssh_config`
		return p
	}
	p := places{userDir: filepath.Join(home, ".ssh"), systemDir: "/etc/ssh"}
	p.userFile, p.systemFile = filepath.Join(p.userDir, "config"), "/etc/ssh/ssh_config"
	return p
}

// localName is a user name without Windows' domain.
func localName(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '\\' {
			return name[i+1:]
		}
	}
	return name
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
