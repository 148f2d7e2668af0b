package sshconfig

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

func fuzzHome(f *testing.F) Options {
	f.Helper()
	o := Options{Home: f.TempDir(), User: "me", Program: NoProgram, Getenv: func(string) string { return "" }}
	o.UserFile = filepath.Join(o.Home, "config")
	return o
}

var fuzzSeeds = []string{
	"Host a b *.c !d\n HostName %h.x\n Port=22\n",
	"Match host a,b exec \"x\" user=u\nProxyJump u@h:2,[::1]:3\n",
	"Host\ta\r\nUser \"x#y\"\r\nInclude config\n",
	"IdentityFile '~/a b' # c\nSetEnv A=1 B=\"2 3\"\nSendEnv -A\n",
	"\"Host\" = \"a\"\nProxyCommand nc \"%h %p\n\\\n=\n",
	"\x00\n\xff\nHost \x1b[2J\nHost -x $(y)\n",
	"Match !all final\nMatch\nHost\nMatch host\n",
}

// FuzzList: whatever the file holds, what is listed can be typed after ssh, and
// what is said can be shown.
func FuzzList(f *testing.F) {
	for _, s := range fuzzSeeds {
		f.Add(s)
	}
	o := fuzzHome(f)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 64<<10 {
			return
		}
		if err := os.WriteFile(o.UserFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l := List(o)
		seen := map[string]bool{}
		for _, a := range l.Aliases {
			if checkHost(a.Name) != nil || isPattern(a.Name) || seen[a.Name] || a.File != o.UserFile || a.Line < 1 || a.Port < 0 || a.Port > 65535 {
				t.Errorf("listed %+v", a)
			}
			seen[a.Name] = true
			showable(t, a.HostName, a.User)
		}
		for _, fault := range l.Faults {
			showable(t, fault.Text)
		}
		if again := List(o); !reflect.DeepEqual(l, again) {
			t.Error("two readings differ")
		}
	})
}

// FuzzDoubtfulMatch: nothing a block holds that only ssh can decide changes what
// is resolved without it.
func FuzzDoubtfulMatch(f *testing.F) {
	for _, s := range fuzzSeeds {
		f.Add("HostName x.example.com\n", s)
	}
	f.Add("ProxyJump gate\n", "ProxyCommand nc %h %p\nUser evil\nIdentityFile evil\n")
	o := fuzzHome(f)
	f.Fuzz(func(t *testing.T, certain, doubtful string) {
		if len(certain)+len(doubtful) > 16<<10 {
			return
		}
		certain, doubtful = options(certain), options(doubtful)
		resolve := func(text string) (Target, error) {
			if err := os.WriteFile(o.UserFile, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return Resolve(t.Context(), o, "dev")
		}
		with, err := resolve(certain + "Match exec \"true\"\n" + doubtful)
		if err != nil {
			return // refused, or not to be made sense of
		}
		without, err := resolve(certain)
		if err != nil {
			t.Fatalf("%v, but not with a doubtful block behind", err)
		}
		with.Warnings, without.Warnings = nil, nil
		if diff := cmp.Diff(without, with); diff != "" {
			t.Errorf("the block made a difference:\n%s", diff)
		}
	})
}

// options keeps the lines of a text that are options and open no block.
func options(text string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		l = strings.TrimRight(l, "\n")
		if p, err := parseLine(l); err == nil && p != nil && !slices.Contains([]string{"host", "match", "include"}, p.key) && !strings.Contains(l, "\x00") {
			b.WriteString(l + "\n")
		}
	}
	return b.String()
}

// FuzzOptions: whatever a program calling itself ssh prints, what comes out is
// bounded, can be shown, and names a host that can be dialled.
func FuzzOptions(f *testing.F) {
	f.Add("host a\nhostname a\nport 22\nuser u\nidentityfile ~/.ssh/%h\nproxyjump x@y:3\n")
	f.Add("hostname a\nport 22\nuser u\nuserknownhostsfile /a b /c\nforwardagent $X\nidentityagent ${Y}\n")
	f.Add("hostname a\nport 22\nuser u\nproxycommand nc %h %% %\ncontrolpath /x/%C\nsetenv =\nsetenv A=\n")
	f.Add("hostname -x\nport 0\nuser \n\x00")
	f.Add("hostname a\nport 22\nuser u\nremotecommand \x1b[2J\nconnecttimeout none\naddkeystoagent confirm 5\nlocalforward\n")
	o := Options{Home: "/h", User: "me", Getenv: func(string) string { return "" }}
	f.Fuzz(func(t *testing.T, out string) {
		parsed, err := parseOptions([]byte(out))
		if err != nil {
			showable(t, err.Error())
			return
		}
		for _, source := range []string{SourceSSH, SourceLibrary} {
			got := Target{Source: source}
			if err := got.fill(o, dest{host: "dev"}, parsed); err != nil {
				for l := range strings.Lines(err.Error()) {
					showable(t, strings.TrimRight(l, "\n"))
				}
				continue
			}
			if checkHost(got.HostName) != nil || checkUser(got.User) != nil || got.Port < 1 || got.Port > 65535 {
				t.Errorf("leads to %q@%q:%d", got.User, got.HostName, got.Port)
			}
			for _, h := range got.ProxyJump {
				if _, err := parseHop(h); err != nil {
					t.Errorf("hop %q: %v", h, err)
				}
			}
			showable(t, got.Ignored...)
			showable(t, got.NeedsSystem...)
			showable(t, got.Warnings...)
		}
	})
}

// showable checks that texts can be printed on a terminal.
func showable(t *testing.T, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if i := strings.IndexFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }); i >= 0 {
			t.Errorf("%q would reach a terminal", s)
		}
	}
}
