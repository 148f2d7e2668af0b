package tui

import (
	"path"
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
)

// project is the folder that new threads are begun in. Without one the host's
// own choice is good, or, on a host reached through Connect, the person is asked.
type project struct {
	dir    string
	asked  bool // the person named it for this run
	ask    bool // no dir: ask before a thread is begun
	known  bool // the host has shown that it is there
	recent []string
	home   string
	chosen func(dir string)
}

// take learns what a connection knows of folders; what was chosen since stays.
func (p *project) take(o Opened) {
	dir, asked, known := p.dir, p.asked, p.known
	*p = project{asked: o.ProjectAsked, ask: true, recent: o.Recent, home: o.Home, chosen: o.Chosen}
	p.dir = p.expand(o.Project)
	if known {
		p.dir, p.asked, p.known = dir, asked, true
	}
}

// expand makes a path absolute, as far as it can be known here.
func (p *project) expand(dir string) string {
	dir = strings.TrimSpace(dir)
	if rest, ok := strings.CutPrefix(dir, "~"); ok && p.home != "" && (rest == "" || rest[0] == '/') {
		dir = p.home + rest
	}
	if path.IsAbs(dir) {
		return path.Clean(dir)
	}
	if dir != "" && p.home != "" && dir[0] != '~' {
		return path.Join(p.home, dir) // as ssh and scp read it
	}
	return dir
}

// short writes a path as people do.
func (p *project) short(dir string) string {
	if rest, ok := strings.CutPrefix(dir, p.home); ok && p.home != "" && p.home != "/" && (rest == "" || rest[0] == '/') {
		return text.CleanLine("~" + rest)
	}
	return text.CleanLine(tilde(dir))
}

// entries answers fs/readDirectory.
type dirEntries struct {
	Entries []struct {
		FileName    string `json:"fileName"`
		IsDirectory bool   `json:"isDirectory"`
		IsFile      bool   `json:"isFile"`
	} `json:"entries"`
}

// maxFolders bounds what is kept of one folder.
const maxFolders = 5000

// folders are the folders in a listing, sorted as people read them. What is
// neither folder nor file, a link, may be one.
func (d *dirEntries) folders() (out []string) {
	for _, e := range d.Entries {
		if (e.IsDirectory || !e.IsFile) && e.FileName != "" && !strings.Contains(e.FileName, "/") && len(out) < maxFolders {
			out = append(out, e.FileName)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	return out
}

// inProject begins something in the project's folder: at once when it is known
// to be there, after a look otherwise, after a question when there is none.
func (m *model) inProject(then func(m *model, dir string) tea.Cmd) tea.Cmd {
	p := &m.project
	switch {
	case p.dir == "" && !p.ask:
		return then(m, "")
	case p.dir == "":
		return m.chooseFolder("", "", then)
	case p.known || m.conn.state != connUp:
		return then(m, p.dir)
	}
	m.landing = true // nothing is begun twice meanwhile
	dir := p.dir
	return call(m.link, "fs/readDirectory", map[string]any{"path": dir}, func(m *model, _ dirEntries, err error) tea.Cmd {
		m.landing = false
		pe, no := refused(err)
		switch {
		case err == nil:
			m.useFolder(dir)
		case !no:
			m.fail("look for the folder", err)
			return nil
		case folderMissing(pe):
			return m.chooseFolder(dir, m.project.short(dir)+": "+whyNot(pe), then)
		}
		return then(m, dir)
	})
}

// folderMissing tells a folder that is not there, or not for us, from a host that
// does not want to be asked.
func folderMissing(pe *protocol.Error) bool {
	l := strings.ToLower(pe.Message)
	for _, s := range []string{"os error", "no such file", "not exist", "not a directory", "permission denied"} {
		if strings.Contains(l, s) {
			return true
		}
	}
	return false
}

// whyNot is a refusal for one line, without the path that everybody knows.
func whyNot(pe *protocol.Error) string {
	s := text.CleanLine(pe.Message)
	if l := strings.ToLower(s); strings.Contains(l, "no such file") || strings.Contains(l, "not found") || strings.Contains(l, "not exist") {
		return "there is no such folder"
	}
	return s
}

// useFolder makes dir, which is there, the project.
func (m *model) useFolder(dir string) {
	p := &m.project
	p.dir, p.known = dir, true
	p.recent = slices.Insert(slices.DeleteFunc(slices.Clone(p.recent), func(s string) bool { return p.expand(s) == dir }), 0, dir)
	m.cfg.Project = dir
	if p.chosen != nil {
		p.chosen(dir)
	}
}

// landInProject shows the threads of the folder the person named, or begins the
// first one there.
func (m *model) landInProject() tea.Cmd {
	m.landing = true
	return call(m.link, "thread/list", listParams(nil, false), func(m *model, l protocol.ThreadList, err error) tea.Cmd {
		if !m.landing {
			return nil
		}
		m.landing = false
		dir := m.project.dir
		if err == nil && slices.ContainsFunc(l.Data, func(t protocol.Thread) bool { return t.Cwd == dir }) {
			m.list.take(m, l, false)
			if m.screen == nil && m.cur.id == "" {
				m.screen, m.sendWhenOpen = &picker{folder: dir}, false
			}
			return m.list.outcomes(m)
		}
		return m.newThread(nil)
	})
}

func slashProject(m *model, args string) tea.Cmd {
	begin := func(m *model, dir string) tea.Cmd {
		return m.open(openRequest{cwd: dir, then: func(m *model) tea.Cmd {
			m.say("new threads are begun in %s", m.project.short(dir))
			return nil
		}})
	}
	if !m.sendable() {
		return nil
	}
	if args == "" {
		return m.chooseFolder(m.cur.cwd, "", begin)
	}
	f := m.folderScreen("", begin)
	m.screen = f
	return f.pick(m, m.project.expand(args))
}
