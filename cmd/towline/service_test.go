//go:build unix

package main

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// awkward is a definition with everything in it that means something to a manager.
var awkward = serviceDefinition{
	Program: `/opt/my $tools/100% "sure"/towline`, Dir: "/home/ana & co", Log: "/home/ana & co/towline.log",
	EnvFile: "/home/ana & co/.config/towline/environment",
	Env:     map[string]string{"PATH": `/usr/bin:/opt/50%/bin:/a "b"\c`, "TOWLINE_HOME": "/srv/<t>"},
}

func TestUnitMeansWhatItSays(t *testing.T) {
	text, err := systemd{title: "towline.service"}.define(awkward)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`ExecStart="/opt/my $$tools/100%% \"sure\"/towline" supervise --program "/opt/my $$tools/100%% \"sure\"/towline" --backend systemd`,
		`Environment="PATH=/usr/bin:/opt/50%%/bin:/a \"b\"\\c"`,
		"WorkingDirectory=/home/ana & co\n", "StartLimitIntervalSec=0\n", "Restart=on-failure\n", "RestartPreventExitStatus=2 3 5\n",
		"EnvironmentFile=-/home/ana & co/.config/towline/environment\n", "WantedBy=default.target\n", "KillMode=mixed\n", "OOMPolicy=continue\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, hardenedMark) {
		t.Error("sudo fails in what somebody approves")
	}
	hard := awkward
	hard.Hardened = true
	if text, err = (systemd{}).define(hard); err != nil || !strings.Contains(text, hardenedMark) {
		t.Errorf("--hardened changes nothing: %v", err)
	}
}

// The judge is systemd's own parser, where there is one.
func TestUnitIsGoodToSystemd(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed: the unit is not verified")
	}
	dir := t.TempDir()
	d := serviceDefinition{
		Program: "/bin/true", Dir: dir, EnvFile: filepath.Join(dir, "environment"),
		Env: map[string]string{"PATH": `/usr/bin:/opt/50%/bin:/a "b"`},
	}
	for _, d.Hardened = range []bool{false, true} {
		s := newSystemd(dir, "")
		text, err := s.define(d)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "towline.service")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "systemd-analyze", "--user", "verify", "--man=no", file)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "HOME="+dir)
		if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "towline.service") {
			t.Errorf("%v: %s\n%s", err, out, text)
		}
	}
}

func TestPropertyListMeansWhatItSays(t *testing.T) {
	l := newLaunchd("/Users/ana", "-1234")
	if l.file() != "/Users/ana/Library/LaunchAgents/towline-1234.plist" {
		t.Error(l.file())
	}
	text, err := l.define(awkward)
	if err != nil {
		t.Fatal(err)
	}
	got := readPlist(t, text)
	args, _ := got["ProgramArguments"].([]any)
	env, _ := got["EnvironmentVariables"].(map[string]any)
	keep, _ := got["KeepAlive"].(map[string]any)
	switch {
	case len(args) != 6 || args[0] != awkward.Program || args[1] != superviseCommand || args[3] != awkward.Program || args[5] != backendLaunchd:
		t.Errorf("arguments: %q", args)
	case env["PATH"] != awkward.Env["PATH"] || env["TOWLINE_HOME"] != "/srv/<t>":
		t.Errorf("environment: %q", env)
	case got["Label"] != "towline-1234" || got["RunAtLoad"] != true || keep["SuccessfulExit"] != false:
		t.Errorf("%v", got)
	case got["WorkingDirectory"] != awkward.Dir || got["StandardErrorPath"] != awkward.Log:
		t.Errorf("%v", got)
	}
	hard := awkward
	hard.Hardened = true
	if _, err := l.define(hard); err == nil {
		t.Error("--hardened is taken, and does nothing")
	}
}

// readPlist reads the one dictionary of a property list.
func readPlist(t *testing.T, text string) map[string]any {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	var value func(el xml.StartElement) any
	next := func() xml.Token {
		for {
			tok, err := d.Token()
			if err != nil {
				if errors.Is(err, io.EOF) {
					t.Fatal("the list ends in the middle")
				}
				t.Fatal(err)
			}
			switch tok.(type) {
			case xml.StartElement, xml.EndElement:
				return tok
			}
		}
	}
	text1 := func(el xml.StartElement) string {
		var s string
		if err := d.DecodeElement(&s, &el); err != nil {
			t.Fatal(err)
		}
		return s
	}
	value = func(el xml.StartElement) any {
		switch el.Name.Local {
		case "true", "false":
			_ = d.Skip()
			return el.Name.Local == "true"
		case "array":
			var out []any
			for tok := next(); ; tok = next() {
				if el, ok := tok.(xml.StartElement); ok {
					out = append(out, value(el))
					continue
				}
				return out
			}
		case "dict":
			out := map[string]any{}
			for tok := next(); ; tok = next() {
				el, ok := tok.(xml.StartElement)
				if !ok {
					return out
				}
				key := text1(el)
				el, ok = next().(xml.StartElement)
				if !ok {
					t.Fatalf("%s has no value", key)
				}
				out[key] = value(el)
			}
		}
		return text1(el)
	}
	for {
		if el, ok := next().(xml.StartElement); ok && el.Name.Local == "dict" {
			out, _ := value(el).(map[string]any)
			return out
		}
	}
}

func TestTheProgramIsNamedAsItWillBeAfterAnUpgrade(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "towline")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	was := os.Args[0]
	t.Cleanup(func() { os.Args[0] = was })
	for name, tc := range map[string]struct{ typed, path, want string }{
		"a link, by path":  {typed: link, want: link},
		"a link, by PATH":  {typed: "towline", path: dir, want: link},
		"another program":  {typed: "/bin/sh", want: self},
		"nothing to find":  {typed: "no-such-program", path: dir, want: self},
		"a file now gone":  {typed: filepath.Join(dir, "gone"), want: self},
		"the program":      {typed: self, want: self},
		"relative, by dir": {typed: "./towline", want: self}, // there is none here
	} {
		t.Run(name, func(t *testing.T) {
			os.Args[0] = tc.typed
			if tc.path != "" {
				t.Setenv("PATH", tc.path)
			}
			if got, err := programPath(); err != nil || got != tc.want {
				t.Errorf("programPath() = %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestManagerHasABoundAndItsWords(t *testing.T) {
	_, err := runManager(context.Background(), os.Environ(), "sh", "-c", "echo 'Failed to connect: \x1b[31mno bus' >&2; exit 1")
	if err == nil || !strings.HasSuffix(err.Error(), ": Failed to connect: [31mno bus") {
		t.Error(err)
	}
}
