package tui

import (
	"path"
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/edit"
	"towline/appserver/tui/text"
)

// folders is the screen where a folder of the host is chosen: those worked in
// lately, then what is there, folder by folder. Letters narrow it down, a path
// goes anywhere.
type folders struct {
	msg   string // why it is shown, or what went wrong
	dir   string // the one looked into, "" before the first
	in    []string
	busy  bool
	seq   int // of the newest request
	find  edit.Buffer
	sel   int
	room  int
	under screen
	then  func(m *model, dir string) tea.Cmd
}

// folderRow is one line of it.
type folderRow struct {
	path, label, about string
	here               bool // the folder that is looked into
}

// maxRecentShown is how many remembered folders are on offer.
const maxRecentShown = 8

// chooseFolder asks for a folder and goes on with then. It looks into dir, or
// into the nearest folder above it that is there; "" is the home.
func (m *model) chooseFolder(dir, msg string, then func(m *model, dir string) tea.Cmd) tea.Cmd {
	f := m.folderScreen(msg, then)
	m.screen, m.landing, m.sendWhenOpen = f, false, false
	if dir == "" {
		dir = m.project.home
	}
	if dir == "" && m.session != nil {
		dir = m.session.Project
	}
	if dir = m.project.expand(dir); !path.IsAbs(dir) {
		dir = "/"
	}
	return f.look(m, dir, true)
}

func (m *model) folderScreen(msg string, then func(m *model, dir string) tea.Cmd) *folders {
	f := &folders{msg: msg, then: then, under: m.screen}
	if _, again := f.under.(*folders); again {
		f.under = nil
	}
	return f
}

// look reads a folder of the host; climb goes up when it is not there.
func (f *folders) look(m *model, dir string, climb bool) tea.Cmd {
	if m.conn.state != connUp {
		f.msg = "not now: " + m.away()
		return nil
	}
	f.seq++
	f.busy = true
	seq := f.seq
	return call(m.link, "fs/readDirectory", map[string]any{"path": dir}, func(m *model, v dirEntries, err error) tea.Cmd {
		if f.seq != seq {
			return nil
		}
		f.busy = false
		pe, no := refused(err)
		switch {
		case err == nil:
			f.dir, f.in, f.sel = dir, v.folders(), 0
			f.find.Reset()
		case no && unknownMethod(pe):
			f.msg = "this host does not list folders: type the whole path"
		case no && climb && dir != "/":
			return f.look(m, path.Dir(dir), true)
		case no:
			f.msg = m.project.short(dir) + ": " + whyNot(pe)
		default:
			f.msg = text.CleanLine(err.Error())
		}
		return nil
	})
}

// pick takes dir after a look whether it is there.
func (f *folders) pick(m *model, dir string) tea.Cmd {
	if !path.IsAbs(dir) {
		f.msg = "where " + text.CleanLine(dir) + " is, is not known here: begin with /"
		return nil
	}
	if m.conn.state != connUp {
		f.msg = "not now: " + m.away()
		return nil
	}
	f.seq++
	f.busy = true
	seq := f.seq
	return call(m.link, "fs/readDirectory", map[string]any{"path": dir}, func(m *model, _ dirEntries, err error) tea.Cmd {
		if f.seq != seq || m.screen != screen(f) {
			return nil
		}
		f.busy = false
		if pe, no := refused(err); err != nil && (!no || folderMissing(pe)) {
			f.msg = m.project.short(dir) + ": "
			if !no {
				f.msg += text.CleanLine(err.Error())
				return nil
			}
			f.msg += whyNot(pe)
			if f.dir == "" {
				return f.look(m, path.Dir(dir), true)
			}
			return nil
		}
		m.useFolder(dir)
		m.screen = f.under
		return f.then(m, dir)
	})
}

// rows is what can be chosen now.
func (f *folders) rows(m *model) (out []folderRow) {
	p := &m.project
	q := strings.TrimSpace(f.find.Text())
	if strings.HasPrefix(q, "/") || strings.HasPrefix(q, "~") {
		return []folderRow{{path: p.expand(q), label: text.CleanLine(q), about: "this path"}}
	}
	fits := func(s string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(q)) }
	for _, r := range p.recent {
		dir := p.expand(r)
		if dup := slices.ContainsFunc(out, func(o folderRow) bool { return o.path == dir }); !dup && fits(r) && len(out) < maxRecentShown {
			out = append(out, folderRow{path: dir, label: p.short(dir), about: "recent"})
		}
	}
	if f.dir == "" {
		return out
	}
	if q == "" {
		out = append(out, folderRow{path: f.dir, label: p.short(f.dir), about: "this folder", here: true})
		if f.dir != "/" {
			out = append(out, folderRow{path: path.Dir(f.dir), label: "..", about: "up"})
		}
	}
	var rest []folderRow
	for _, name := range f.in {
		hidden := strings.HasPrefix(name, ".") && !strings.HasPrefix(q, ".")
		if hidden || !fits(name) {
			continue
		}
		r := folderRow{path: path.Join(f.dir, name), label: text.CleanLine(name) + "/"}
		if strings.HasPrefix(strings.ToLower(name), strings.ToLower(q)) {
			out = append(out, r)
		} else {
			rest = append(rest, r)
		}
	}
	return append(out, rest...)
}

func (f *folders) key(m *model, k tea.KeyPressMsg) tea.Cmd {
	rows := f.rows(m)
	f.sel = max(0, min(f.sel, len(rows)-1))
	var at folderRow
	if len(rows) > 0 {
		at = rows[f.sel]
	}
	switch k.String() {
	case "up", "ctrl+p":
		f.sel--
	case "down", "ctrl+n":
		f.sel++
	case "pgup":
		f.sel -= max(f.room-1, 1)
	case "pgdown":
		f.sel += max(f.room-1, 1)
	case "enter":
		switch {
		case at.path == "":
		case at.label == "..":
			return f.look(m, at.path, false)
		default:
			f.msg = ""
			return f.pick(m, at.path)
		}
	case "right", "tab":
		if at.path != "" && !at.here {
			f.msg = ""
			return f.look(m, at.path, false)
		}
	case "left":
		if f.dir != "" && f.dir != "/" {
			return f.look(m, path.Dir(f.dir), false)
		}
	case "esc":
		switch {
		case !f.find.Empty():
			f.find.Reset()
		case f.under != nil:
			m.screen = f.under
		case m.cur.id != "":
			m.screen = nil
		default:
			return m.openPicker()
		}
	case "ctrl+d":
		return m.detach()
	default:
		if f.find.Key(k) {
			f.sel = 0
		}
		return nil
	}
	f.sel = max(0, min(f.sel, len(rows)-1))
	return nil
}

func (f *folders) paste(_ *model, s string) {
	f.find.Insert(strings.ReplaceAll(strings.TrimSpace(s), "\n", ""))
	f.sel = 0
}

func (f *folders) wheel(m *model, n int) {
	f.sel = max(0, min(f.sel+n/3, len(f.rows(m))-1))
}

func (f *folders) render(m *model, w, h int) (lines []string, x, y int) {
	th := m.th
	x = -1
	lines = append(lines, text.Between(th.Header.Render(" "+m.host()+" · where to work"), th.Dim.Render("type a name or /path "), w))
	if !f.find.Empty() {
		rows, cx, _ := f.find.Layout(max(w-4, 4))
		lines = append(lines, th.User.Render(" › ")+rows[0])
		x, y = 3+cx, 1
	} else if h > 6 {
		lines = append(lines, th.Border.Render(strings.Repeat("─", w)))
	}
	if f.msg != "" {
		for _, l := range text.Wrap(text.CleanLine(f.msg), max(w-2, 8)) {
			lines = append(lines, " "+th.Warn.Render(l))
		}
	}
	rows := f.rows(m)
	f.room = max(h-len(lines)-1, 1)
	f.sel = max(0, min(f.sel, len(rows)-1))
	first := max(0, min(f.sel-f.room/2, len(rows)-f.room))
	for i, r := range rows[min(first, len(rows)):min(first+f.room, len(rows))] {
		if first+i == f.sel {
			lines = append(lines, th.Selection.Render(text.Between("› "+r.label, r.about+" ", w)))
			continue
		}
		lines = append(lines, text.Between("  "+r.label, th.Dim.Render(r.about)+" ", w))
	}
	if len(rows) == 0 {
		s := " nothing fits"
		if f.busy {
			s = " reading"
		}
		lines = append(lines, th.Dim.Render(s))
	}
	lines = fill(lines, max(h-1, 1))
	if y >= h {
		x, y = -1, 0
	}
	keys := " enter work there   → look into   ← up   esc back"
	if w < 50 {
		keys = " enter choose  → in  ← up  esc"
	}
	return append(lines, th.Dim.Render(text.Truncate(keys, w, "…"))), x, y
}
