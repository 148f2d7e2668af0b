package diffview

import (
	"strconv"
	"strings"

	"github.com/bluekeyes/go-gitdiff/gitdiff"

	"towline/appserver/protocol"
)

// op is what happens to a line; it indexes pen.sides.
type op uint8

const (
	context op = iota
	added
	removed
)

// file is a change as it is drawn.
type file struct {
	verb  string // "Add", "Delete", "Edit", "Move", "Copy"
	path  string
	from  string // where it was, for moves and copies
	notes []string
	hunks []hunk
}

type hunk struct {
	oldLine, newLine int    // numbers of its first lines; 0: unknown
	section          string // what git says the hunk is in
	lines            []line
}

type line struct {
	op   op
	text string
	bare bool // the file ends here without a newline
}

func (f file) counts() (c Counts) {
	for _, h := range f.hunks {
		for _, l := range h.lines {
			switch l.op {
			case added:
				c.Added++
			case removed:
				c.Removed++
			}
		}
	}
	return c
}

// parseUpdate reads Codex's forms: the whole content for add and delete, hunks
// without file headers for update, with a "Moved to:" line behind a move.
func parseUpdate(u protocol.FileUpdate) file {
	f := file{path: u.Path}
	switch u.Kind.Type {
	case "add":
		f.verb = "Add"
		f.hunks = whole(u.Diff, added)
	case "delete":
		f.verb = "Delete"
		f.hunks = whole(u.Diff, removed)
	default:
		f.verb = "Edit"
		diff := u.Diff
		if to := u.Kind.MovePath; to != nil && *to != "" {
			f.verb, f.from, f.path = "Move", u.Path, *to
			if i := strings.LastIndex(diff, "\nMoved to:"); i >= 0 {
				diff = strings.TrimRight(diff[:i], "\n")
			}
		}
		f.hunks = parseHunks(diff)
	}
	return f
}

// whole makes one hunk of a file's content.
func whole(content string, o op) []hunk {
	if content == "" {
		return nil
	}
	h := hunk{oldLine: 1, newLine: 1}
	body, ended := strings.CutSuffix(content, "\n")
	for l := range strings.SplitSeq(body, "\n") {
		h.lines = append(h.lines, line{op: o, text: l})
	}
	h.lines[len(h.lines)-1].bare = !ended
	return []hunk{h}
}

// parseHunks reads hunks. Their headers are believed about where they start, not
// about how long they are: every line up to the next header belongs to them.
func parseHunks(diff string) []hunk {
	var out []hunk
	body := strings.TrimSuffix(diff, "\n")
	if body == "" {
		return nil
	}
	for l := range strings.SplitSeq(body, "\n") {
		if h, ok := hunkHeader(l); ok {
			out = append(out, h)
			continue
		}
		if len(out) == 0 {
			if strings.HasPrefix(l, "--- ") || strings.HasPrefix(l, "+++ ") {
				continue // headers, should somebody send them after all
			}
			out = append(out, hunk{})
		}
		h := &out[len(out)-1]
		switch {
		case strings.HasPrefix(l, "+"):
			h.lines = append(h.lines, line{op: added, text: l[1:]})
		case strings.HasPrefix(l, "-"):
			h.lines = append(h.lines, line{op: removed, text: l[1:]})
		case strings.HasPrefix(l, `\`):
			if n := len(h.lines); n > 0 {
				h.lines[n-1].bare = true
			}
		default:
			h.lines = append(h.lines, line{text: strings.TrimPrefix(l, " ")})
		}
	}
	return out
}

// hunkHeader reads "@@ -1,2 +3,4 @@ section", or "@@" alone.
func hunkHeader(l string) (hunk, bool) {
	rest, ok := strings.CutPrefix(l, "@@")
	if !ok {
		return hunk{}, false
	}
	ranges, section, found := strings.Cut(rest, "@@")
	if !found {
		return hunk{section: strings.TrimSpace(rest)}, true
	}
	h := hunk{section: strings.TrimSpace(section)}
	for _, r := range strings.Fields(ranges) {
		n, _, _ := strings.Cut(r[1:], ",")
		at, err := strconv.Atoi(n)
		if err != nil || at < 0 {
			continue
		}
		switch r[0] {
		case '-':
			h.oldLine = at
		case '+':
			h.newLine = at
		}
	}
	return h, true
}

// parseUnified reads a git-style diff.
func parseUnified(diff string) ([]file, error) {
	parsed, _, err := gitdiff.Parse(strings.NewReader(diff))
	if err != nil {
		return nil, err
	}
	var out []file
	for _, g := range parsed {
		f := file{verb: "Edit", path: g.NewName}
		switch {
		case g.IsNew:
			f.verb = "Add"
		case g.IsDelete:
			f.verb, f.path = "Delete", g.OldName
		case g.IsRename:
			f.verb, f.from = "Move", g.OldName
		case g.IsCopy:
			f.verb, f.from = "Copy", g.OldName
		}
		if f.path == "" {
			f.path = g.OldName
		}
		if g.IsBinary {
			f.notes = append(f.notes, "binary file")
		}
		if g.OldMode != 0 && g.NewMode != 0 && g.OldMode != g.NewMode {
			f.notes = append(f.notes, "mode "+strconv.FormatUint(uint64(g.OldMode), 8)+" to "+strconv.FormatUint(uint64(g.NewMode), 8))
		}
		for _, t := range g.TextFragments {
			h := hunk{oldLine: int(t.OldPosition), newLine: int(t.NewPosition), section: t.Comment}
			for _, l := range t.Lines {
				o := context
				switch l.Op {
				case gitdiff.OpAdd:
					o = added
				case gitdiff.OpDelete:
					o = removed
				}
				h.lines = append(h.lines, line{op: o, text: strings.TrimSuffix(l.Line, "\n"), bare: l.NoEOL()})
			}
			f.hunks = append(f.hunks, h)
		}
		out = append(out, f)
	}
	return out, nil
}
