package tui

import (
	"path"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/composer"
	"towline/appserver/tui/text"
)

// maxFiles bounds the files offered for an @.
const maxFiles = 50

// fileSearch is the @ completion. A server that cannot search is asked for the
// directory instead.
type fileSearch struct {
	seq     int
	listing bool // the server cannot search
	off     bool // nor list
}

// find offers files for a query, a moment after the last key.
func (f *fileSearch) find(m *model, query string) tea.Cmd {
	if f.off || !m.live() || m.cur.cwd == "" {
		return nil
	}
	f.seq++
	seq := f.seq
	return m.link.after(80*time.Millisecond, func(m *model) tea.Cmd {
		if m.files.seq != seq {
			return nil // more was typed
		}
		if m.files.listing || query == "" || strings.HasSuffix(query, "/") {
			return m.files.list(m, query)
		}
		return m.files.search(m, query)
	})
}

func (f *fileSearch) search(m *model, query string) tea.Cmd {
	params := map[string]any{"query": query, "roots": []string{m.cur.cwd}, "cancellationToken": "towline-at"}
	type found struct {
		Files []struct {
			Path      string `json:"path"`
			MatchType string `json:"match_type"`
		} `json:"files"`
	}
	return call(m.link, "fuzzyFileSearch", params, func(m *model, v found, err error) tea.Cmd {
		if _, no := refused(err); no {
			m.files.listing = true
			return m.files.list(m, query)
		}
		var cs []composer.Choice
		for _, f := range v.Files[:min(len(v.Files), maxFiles)] {
			cs = append(cs, fileChoice(f.Path, f.MatchType == "directory"))
		}
		m.comp.Offer(composer.File, query, cs)
		return nil
	})
}

// list offers what is in the directory the query names.
func (f *fileSearch) list(m *model, query string) tea.Cmd {
	dir, prefix := path.Split(query)
	abs := path.Join(m.cur.cwd, dir)
	if path.IsAbs(dir) {
		abs = path.Clean(dir)
	}
	type entries struct {
		Entries []struct {
			FileName    string `json:"fileName"`
			IsDirectory bool   `json:"isDirectory"`
		} `json:"entries"`
	}
	return call(m.link, "fs/readDirectory", map[string]any{"path": abs}, func(m *model, v entries, err error) tea.Cmd {
		if pe, no := refused(err); no {
			m.files.off = unknownMethod(pe)
			return nil
		}
		var cs []composer.Choice
		for _, e := range v.Entries {
			hidden := strings.HasPrefix(e.FileName, ".") && !strings.HasPrefix(prefix, ".")
			if hidden || !strings.HasPrefix(strings.ToLower(e.FileName), strings.ToLower(prefix)) || len(cs) == maxFiles {
				continue
			}
			cs = append(cs, fileChoice(dir+e.FileName, e.IsDirectory))
		}
		m.comp.Offer(composer.File, query, cs)
		return nil
	})
}

func fileChoice(p string, dir bool) composer.Choice {
	p = text.CleanLine(p)
	if dir {
		return composer.Choice{Label: p + "/", Insert: "@" + p + "/"}
	}
	return composer.Choice{Label: p, Insert: p + " "}
}
