package tui

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"towline/appserver/protocol"
)

// tree makes a fake answer fs/readDirectory from a set of folders.
func (f *fake) tree(dirs map[string][]string) {
	f.set("fs/readDirectory", func(p json.RawMessage) (any, error) {
		names, ok := dirs[field(p, "path")]
		if !ok {
			return nil, protocol.Errorf("No such file or directory (os error 2)")
		}
		entries := []any{obj{"fileName": "README.md", "isDirectory": false, "isFile": true}}
		for _, n := range names {
			entries = append(entries, obj{"fileName": n, "isDirectory": true, "isFile": false})
		}
		return obj{"entries": entries}, nil
	})
}

var homeTree = map[string][]string{
	"/":                   {"home", "srv"},
	"/home":               {"ana"},
	"/home/ana":           {"src", ".config", "notes"},
	"/home/ana/src":       {"shop", "infra", "Shop-old"},
	"/home/ana/src/infra": {},
	"/home/ana/src/shop":  {"web"},
	"/srv":                {},
}

// chosen collects what Opened.Chosen hears.
type chosen struct {
	mu   sync.Mutex
	dirs []string
}

func (c *chosen) hear(dir string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirs = append(c.dirs, dir)
}

func (c *chosen) last() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.dirs) == 0 {
		return ""
	}
	return c.dirs[len(c.dirs)-1]
}

// projects starts a client on a host where nothing is known but these.
func projects(t *testing.T, f *fake, change func(o *Opened)) (*tty, *chosen) {
	t.Helper()
	l, c := newLaunch(f), new(chosen)
	l.opened.Project, l.opened.Chosen = "", c.hear
	change(&l.opened)
	return start(t, f, 80, 24, l.config), c
}

func TestFolderIsChosenFromRecentOnes(t *testing.T) {
	f := remoteFake(t)
	f.tree(homeTree)
	s, c := projects(t, f, func(o *Opened) { o.Recent = []string{"/home/ana/src/shop", "~/src/infra"} })
	s.sees("where to work", "› ~/src/shop", "recent", "~/src/infra", "this folder", "src/")
	s.not("README.md", ".config")
	s.keys("<down>", "<enter>")
	if p := f.wait("thread/start", 1); field(p, "cwd") != "/home/ana/src/infra" {
		t.Errorf("thread/start %s", p)
	}
	s.sees("○ new")
	if c.last() != "/home/ana/src/infra" {
		t.Errorf("remembered %q", c.last())
	}
}

func TestFoldersAreBrowsedAndNarrowed(t *testing.T) {
	f := remoteFake(t)
	f.tree(homeTree)
	s, c := projects(t, f, func(*Opened) {})
	s.sees("this folder", "notes/", "src/")
	s.keys("sr")
	s.sees("› sr", "src/")
	s.not("notes/")
	s.keys("\x1b[C") // right: look into it
	s.sees("~/src", "infra/", "shop/", "Shop-old/")
	s.keys("\x1b[D")
	s.sees("notes/")
	s.keys("sr", "\x1b[C")
	s.sees("infra/")
	s.keys("inf", "<enter>")
	if p := f.wait("thread/start", 1); field(p, "cwd") != "/home/ana/src/infra" {
		t.Errorf("thread/start %s", p)
	}
	s.sees("○ new")
	if c.last() != "/home/ana/src/infra" {
		t.Errorf("remembered %q", c.last())
	}
}

func TestAbsentProjectIsLookedForNearby(t *testing.T) {
	f := remoteFake(t)
	f.tree(homeTree)
	s, c := projects(t, f, func(o *Opened) { o.Project, o.ProjectAsked = "~/src/gone/deep", true })
	s.sees("where to work", "~/src/gone/deep: there is no such folder", "infra/", "shop/")
	s.keys("~/sr")
	s.sees("this path")
	s.keys("x", "<enter>")
	s.sees("~/srx: there is no such folder")
	s.keys("<bs>", "c/shop", "<enter>")
	if p := f.wait("thread/start", 1); field(p, "cwd") != "/home/ana/src/shop" {
		t.Errorf("thread/start %s", p)
	}
	if s.sees("○ new"); c.last() != "/home/ana/src/shop" {
		t.Errorf("remembered %q", c.last())
	}
}

func TestNamedProjectShowsItsThreads(t *testing.T) {
	f := remoteFake(t)
	f.tree(homeTree)
	here, there := listed("t-7", "of this shop", "idle"), listed("t-8", "of elsewhere", "idle")
	there["cwd"] = "/srv"
	here["cwd"] = "/home/ana/src/shop"
	f.reply("thread/list", obj{"data": []any{here, there}})
	s, _ := projects(t, f, func(o *Opened) { o.Project, o.ProjectAsked = "~/src/shop", true })
	s.sees("threads in ~/src/shop", "of this shop")
	s.not("of elsewhere")
	s.keys("f")
	s.sees("of elsewhere")
	s.keys("n")
	if p := f.wait("thread/start", 1); field(p, "cwd") != "/home/ana/src/shop" {
		t.Errorf("thread/start %s", p)
	}
}

func TestProjectCommand(t *testing.T) {
	f := remoteFake(t)
	f.tree(homeTree)
	s, c := projects(t, f, func(o *Opened) { o.Project = "/home/ana/src/shop" })
	s.sees("○ new")
	s.keys("/project ~/src/nowhere", "<enter>")
	s.sees("~/src/nowhere: there is no such folder", "infra/")
	s.keys("<esc>")
	s.sees("○ new")
	s.keys("/project ~/src/infra", "<enter>")
	s.sees("new threads are begun in ~/src/infra")
	if p := f.wait("thread/start", 2); field(p, "cwd") != "/home/ana/src/infra" || c.last() != "/home/ana/src/infra" {
		t.Errorf("thread/start %s, remembered %q", p, c.last())
	}
}

func TestHostThatListsNoFoldersTakesTheProjectAsItIs(t *testing.T) {
	f := remoteFake(t)
	f.refuse("fs/readDirectory", "Invalid request: unknown variant `fs/readDirectory`")
	s, c := projects(t, f, func(o *Opened) { o.Project = "/srv/app" })
	if p := f.wait("thread/start", 1); field(p, "cwd") != "/srv/app" {
		t.Errorf("thread/start %s", p)
	}
	s.sees("○ new")
	if c.last() != "" {
		t.Errorf("remembered %q, which nobody has seen", c.last())
	}
}

func TestFolderNamesFromTheHostAreCleaned(t *testing.T) {
	f := remoteFake(t)
	const evil = "a\x1b[2Jb"
	f.tree(map[string][]string{"/home/ana": {evil}, "/home/ana/" + evil: {}})
	s, _ := projects(t, f, func(*Opened) {})
	s.sees("ab/")
	s.keys("<down>", "<down>", "<enter>")
	if p := f.wait("thread/start", 1); field(p, "cwd") != "/home/ana/"+evil {
		t.Errorf("thread/start %s", p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Contains(s.raw.String(), evil) {
		t.Error("a control sequence of the host's reached the terminal")
	}
}

func TestWithoutConnectTheHostChoosesTheFolder(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	if p := f.wait("thread/start", 1); protocol.Field(p, "cwd") != nil {
		t.Errorf("thread/start %s", p)
	}
}

func TestExpand(t *testing.T) {
	p := project{home: "/home/ana"}
	for in, want := range map[string]string{"~": "/home/ana", "~/x/../y": "/home/ana/y", "x": "/home/ana/x", "/a//b/": "/a/b", "": "", "~bob/x": "~bob/x"} {
		if got := p.expand(in); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
	if got := (&project{}).expand("~/x"); got != "~/x" {
		t.Errorf("without a home: %q", got)
	}
}
