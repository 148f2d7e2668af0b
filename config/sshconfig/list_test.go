package sshconfig

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func names(l Listing) []string {
	var out []string
	for _, a := range l.Aliases {
		out = append(out, a.Name)
	}
	return out
}

func TestIncludesAreRelativeToTheirFolder(t *testing.T) {
	o := home(t, map[string]string{
		".ssh/config":        "Include conf.d/* ~/elsewhere\nInclude ${SET}/x\nHost own\n",
		".ssh/conf.d/b":      "Host second\n",
		".ssh/conf.d/a":      "Include nested\nHost first\n",
		".ssh/nested":        "Host nested\n", // relative to ~/.ssh wherever the line stands
		".ssh/value/x":       "Host variable\n",
		"elsewhere":          "Host tilde\n",
		".ssh/conf.d/.c.swp": "Host editor\n",
		"system":             "Host systemwide\n",
	})
	o.SystemFile = filepath.Join(o.Home, "system")
	l := List(o)
	want := []string{"nested", "first", "second", "tilde", "variable", "own", "systemwide"}
	if got := names(l); !slices.Equal(got, want) || len(l.Faults) != 0 {
		t.Errorf("got %q with %v, want %q", got, l.Faults, want)
	}
	if a := l.Aliases[0]; a.File != filepath.Join(o.Home, ".ssh/nested") || a.Line != 1 || a.Location() != a.File+":1" {
		t.Errorf("nested stands at %s", a.Location())
	}
}

// glob(3) goes by $HOME, the rest of ssh by the user database; the list follows.
func TestIncludesGoByTheVariableHOME(t *testing.T) {
	needSSH(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{".ssh/relative": "Host relative\nPort 3\n", "tilde": "Host tilde\nPort 4\n", "config": "Include relative ~/tilde\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", dir)
	o := Options{UserFile: filepath.Join(dir, "config")}
	if got := names(List(o)); !slices.Equal(got, []string{"relative", "tilde"}) {
		t.Errorf("listed %q", got)
	}
	for name, port := range map[string]int{"relative": 3, "tilde": 4} {
		if got, err := Resolve(t.Context(), o, name); err != nil || got.Port != port {
			t.Errorf("ssh has port %d for %s, %v", got.Port, name, err)
		}
	}
}

// What is wrong costs the line or file it is in, and is said with its place.
func TestFaultsCostOnlyThemselves(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  []string // hosts
		fault string   // FILE:LINE: text, FILE without the folder
	}{
		"open quote":       {map[string]string{"config": "Host a\nHostName \"x\nHost b\n"}, []string{"a", "b"}, `config:2: a quote is not closed: HostName "x`},
		"nothing follows":  {map[string]string{"config": "Host\nHost b\n"}, []string{"b"}, "config:1: nothing follows the keyword"},
		"bad Match":        {map[string]string{"config": "Match host\nPort 3\nHost b\n"}, []string{"b"}, "config:1: a Match condition lacks"},
		"unknown option":   {map[string]string{"config": "Host b\nProxyJmp x\n"}, []string{"b"}, "config:2: ssh may not know the option proxyjmp, did you mean ProxyJump?"},
		"commas":           {map[string]string{"config": "Host a,c\nHost b\n"}, []string{"b"}, "config:1: Host a,c: names are separated by blanks"},
		"an option's name": {map[string]string{"config": "Host \"-oProxyCommand=x\" b\n"}, []string{"b"}, "config:1: the host name begins with -"},
		"a shell's signs":  {map[string]string{"config": "Host \"$(reboot)\" b\n"}, []string{"b"}, `config:1: the host name holds '$'`},
		"a blank":          {map[string]string{"config": "Host \"a c\" b\n"}, []string{"b"}, "config:1: the host name holds a blank"},
		"a zero byte":      {map[string]string{"config": "Host a\nUser x\x00y\nHost b\n"}, []string{"a", "b"}, "config:2: holds a zero byte"},
		"a folder":         {map[string]string{"config": "Include sub/d*\nHost b\n", "sub/d/x": ""}, []string{"b"}, "sub/d: not read: it is a folder"},
		"nobody's home":    {map[string]string{"config": "Include ~nobody-of-that-name/x\nHost b\n"}, []string{"b"}, "config:1: Include ~nobody-of-that-name/x: ~nobody-of-that-name is nobody's home"},
		"unset variable":   {map[string]string{"config": "Include ${NOT_SET}/x\nHost b\n"}, []string{"b"}, "config:1: Include ${NOT_SET}/x: the variable ${NOT_SET} is not set"},
		"a cycle":          {map[string]string{"config": "Include one\nHost b\n", "one": "Include config\nHost a\n"}, []string{"a", "b"}, "config: includes itself"},
		"a long line":      {map[string]string{"config": "Host a\nUser " + strings.Repeat("x", maxLine) + "\nHost b\n"}, []string{"a", "b"}, "config:2: the line has"},
		"a huge file":      {map[string]string{"config": "Include big\nHost b\n", "big": strings.Repeat("#\n", maxFile)}, []string{"b"}, "big: not read: it has more than"},
		"escape sequences": {map[string]string{"config": "Host b\n\"\x1b]0;owned\x07\n"}, []string{"b"}, `config:2: a quote is not closed: "]0;owned`},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{}
			for f, text := range tc.files {
				files[".ssh/"+f] = text
			}
			o := home(t, files)
			l := List(o)
			if got := names(l); !slices.Equal(got, tc.want) {
				t.Errorf("hosts %q, want %q", got, tc.want)
			}
			if len(l.Faults) != 1 {
				t.Fatalf("faults: %v", l.Faults)
			}
			got, _ := strings.CutPrefix(l.Faults[0].String(), filepath.Join(o.Home, ".ssh")+"/")
			if !strings.HasPrefix(got, tc.fault) || strings.ContainsAny(got, "\x00\x1b\x07\n") {
				t.Errorf("fault %q, want %q", got, tc.fault)
			}
		})
	}
}

func TestUnreadableFileIsAFault(t *testing.T) {
	if os.Getuid() == 0 {
		// A file nobody may read, that root cannot read either: a link to itself.
		o := home(t, map[string]string{".ssh/config": "Include loop\nHost b\n"})
		if err := os.Symlink("loop", filepath.Join(o.Home, ".ssh/loop")); err != nil {
			t.Fatal(err)
		}
		l := List(o)
		if len(l.Aliases) != 1 || len(l.Faults) != 1 || !strings.Contains(l.Faults[0].Text, "not read: too many levels of symbolic links") {
			t.Errorf("got %+v", l)
		}
		return
	}
	o := home(t, map[string]string{".ssh/config": "Include secret\nHost b\n", ".ssh/secret": "Host a\n"})
	if err := os.Chmod(filepath.Join(o.Home, ".ssh/secret"), 0); err != nil {
		t.Fatal(err)
	}
	if l := List(o); len(l.Aliases) != 1 || len(l.Faults) != 1 || !strings.Contains(l.Faults[0].Text, "not read: permission denied") {
		t.Errorf("got %+v", l)
	}
}

func TestDepthAndSizeAreBounded(t *testing.T) {
	files := map[string]string{".ssh/config": "Include f0\nHost last\n"}
	for i := range 20 {
		files[fmt.Sprintf(".ssh/f%d", i)] = fmt.Sprintf("Include f%d\nHost h%d\n", i+1, i)
	}
	l := List(home(t, files))
	if got := names(l); len(got) != 16 || got[0] != "h14" || got[15] != "last" || len(l.Faults) != 1 || !strings.Contains(l.Faults[0].Text, "more than 16 deep") {
		t.Errorf("got %q, %v", got, l.Faults)
	}

	// Each file includes the next one twice: 2^15 readings, if nothing stopped it.
	files = map[string]string{".ssh/config": "Include f0\nHost last\n", ".ssh/f14": "Host h\n"}
	for i := range 14 {
		files[fmt.Sprintf(".ssh/f%d", i)] = fmt.Sprintf("Include f%d f%d\n", i+1, i+1)
	}
	o := home(t, files)
	w := newWalker(o.withDefaults(), func(*section, *line) {})
	w.run()
	if w.files > maxFiles || len(w.faults) == 0 || !strings.Contains(w.faults[0].Text, "too much is included") {
		t.Errorf("%d files were read: %v", w.files, w.faults)
	}

	// A binary file is one mistake, not one a line.
	o = home(t, map[string]string{".ssh/config": "Include key\nHost b\n", ".ssh/key": strings.Repeat("gibberish\n", 500)})
	if l := List(o); len(l.Faults) != perFile || l.Faults[perFile-1].Text != "more is wrong here; is it a configuration file?" || len(l.Aliases) != 1 {
		t.Errorf("%d faults, the last %+v", len(l.Faults), l.Faults[len(l.Faults)-1])
	}
}

// A wildcard over many folders ends.
func TestGlobIsBounded(t *testing.T) {
	top := t.TempDir()
	for i := range 30 {
		dir := filepath.Join(top, fmt.Sprint(i))
		for j := range 800 {
			if err := os.MkdirAll(filepath.Join(dir, fmt.Sprint(j)), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	if found, complete := glob(top+"/*/*", false); complete || len(found) > maxGlob {
		t.Errorf("%d found, complete %v", len(found), complete)
	}
}

func TestListRunsNothing(t *testing.T) {
	o := home(t, nil)
	proof := filepath.Join(o.Home, "ran")
	text := "Match exec \"touch " + proof + "\"\nUser x\nMatch host a exec \"touch " + proof + "\"\nProxyCommand touch " + proof + "\nInclude `touch " + proof + "`\n"
	o = Options{UserFile: filepath.Join(o.Home, "config"), Home: o.Home, User: "me"}
	if err := os.WriteFile(o.UserFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := names(List(o)); !slices.Equal(got, []string{"a"}) {
		t.Errorf("got %q", got)
	}
	o.Program = NoProgram
	_, _ = Resolve(t.Context(), o, "b") // only what it leaves behind matters
	if exists(proof) {
		t.Error("a command was run")
	}
}

func TestNoFilesIsNoFault(t *testing.T) {
	if l := List(home(t, nil)); len(l.Aliases)+len(l.Faults) != 0 {
		t.Errorf("got %+v", l)
	}
	// Unless somebody named one.
	o := home(t, nil)
	o.UserFile = filepath.Join(o.Home, "typo")
	if l := List(o); len(l.Faults) != 1 || l.Faults[0].String() != o.UserFile+": there is no such file" {
		t.Errorf("got %+v", l)
	}
	o.UserFile, o.SystemFile = "none", ""
	if l := List(o); len(l.Aliases)+len(l.Faults) != 0 {
		t.Errorf("none: %+v", l)
	}
}

func TestWindowsPlaces(t *testing.T) {
	env := map[string]string{"USERPROFILE": `C:\Users\Jane Doe`, "ProgramData": `D:\ProgramData`}
	p := placesFor("windows", "", func(k string) string { return env[k] })
	if p.userFile != `C:\Users\Jane Doe\.ssh\config` || p.systemFile != `D:\ProgramData\ssh\ssh_config` {
		t.Errorf("files %s, %s", p.userFile, p.systemFile)
	}
	if p := placesFor("windows", `C:\Users\x`, func(string) string { return "" }); p.systemDir != `C:\ProgramData\ssh` || p.userDir != `C:\Users\x\.ssh` {
		t.Errorf("without variables: %+v", p)
	}
	for path, abs := range map[string]bool{
		`C:\x`: true, `c:/x`: true, `\\server\share\x`: true, "/x": true, "x": false, `conf.d\*`: false, "C:x": false,
	} {
		if p.abs(path) != abs {
			t.Errorf("%s: absolute is %v", path, !abs)
		}
	}
	// Names with blanks, as ssh -G prints them there.
	got := p.splitPaths(`C:\\Users\\Jane Doe/.ssh/known_hosts C:\\Users\\Jane Doe/.ssh/known_hosts2 __PROGRAMDATA__\ssh/ssh_known_hosts`)
	if len(got) != 3 || got[2] != `D:\ProgramData\ssh/ssh_known_hosts` || got[0] != `C:\\Users\\Jane Doe/.ssh/known_hosts` {
		t.Errorf("split into %q", got)
	}
	unix := placesFor("linux", "/home/a", os.Getenv)
	if got := unix.splitPaths("/a b/c ~/x none"); !slices.Equal(got, []string{"/a b/c", "~/x"}) {
		t.Errorf("split into %q", got)
	}
	if localName(`CORP\jane`) != "jane" || localName("jane") != "jane" {
		t.Error("user names")
	}
}

func TestNearest(t *testing.T) {
	l := Listing{Aliases: []Alias{{Name: "dev-server"}, {Name: "db"}, {Name: "Bastion"}}}
	for name, want := range map[string]string{"dev-sever": "dev-server", "dev-srever": "dev-server", "bastoin": "Bastion", "dc": "", "d": "", "": "", "prod": "", "example.com": ""} {
		if got := l.Nearest(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
