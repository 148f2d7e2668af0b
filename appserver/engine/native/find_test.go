package native_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"towline/appserver/protocol"
)

func TestOccurrencesWithinAThread(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	first := c.say(id, "hello 😀 Zebra and zEBRA "+strings.Repeat("x", 200)+" zebra")
	c.finish(first)
	second := c.say(id, "hello zebra")
	c.finish(second)
	type found struct {
		Data []struct {
			ItemID, TurnID, TurnCursor, Snippet string
			Match                               struct{ Start, End int } `json:"snippetMatchRange"`
		}
		NextCursor *string
	}
	find := func(p map[string]any) (out found) {
		t.Helper()
		p["threadId"] = id
		c.read(c.call("thread/searchOccurrences", p), &out)
		return out
	}
	all := find(map[string]any{"searchTerm": "ZEBRA"})
	if len(all.Data) < 4 || all.NextCursor != nil || all.Data[0].TurnID != first {
		t.Fatalf("found %+v", all)
	}
	for _, o := range all.Data {
		units := utf16.Encode([]rune(o.Snippet))
		if got := string(utf16.Decode(units[o.Match.Start:o.Match.End])); !strings.EqualFold(got, "zebra") {
			t.Errorf("%q is marked in %q", got, o.Snippet)
		}
		var page protocol.TurnsPage
		c.read(c.call("thread/turns/list", map[string]any{"threadId": id, "cursor": o.TurnCursor, "limit": 1}), &page)
		if len(page.Data) != 1 || page.Data[0].ID != o.TurnID {
			t.Errorf("the cursor leads to %+v, not %s", page.Data, o.TurnID)
		}
	}
	// Pages add up to the whole.
	var paged int
	p := map[string]any{"searchTerm": "zebra", "limit": 3}
	for {
		got := find(p)
		paged += len(got.Data)
		if got.NextCursor == nil {
			break
		}
		p["cursor"] = *got.NextCursor
	}
	if paged != len(all.Data) {
		t.Errorf("%d in pages, %d at once", paged, len(all.Data))
	}
	if got := find(map[string]any{"searchTerm": "giraffe"}); len(got.Data) != 0 {
		t.Errorf("found %+v", got)
	}
	c.refused("thread/searchOccurrences", map[string]any{"threadId": id, "searchTerm": " "}, "non-empty searchTerm")
	c.refused("thread/searchOccurrences", map[string]any{"threadId": id, "searchTerm": "a", "cursor": "-1"}, "invalid cursor")

	var list, read struct{ Data []protocol.ItemEntry }
	c.read(c.call("thread/items/list", map[string]any{"threadId": id, "turnId": second}), &list)
	ids := []string{list.Data[len(list.Data)-1].Item.ID, "nope", list.Data[0].Item.ID}
	c.read(c.call("thread/items/read", map[string]any{"threadId": id, "turnId": second, "itemIds": ids}), &read)
	if len(read.Data) != 2 || read.Data[0].Item.ID != ids[2] || read.Data[1].Item.ID != ids[0] {
		t.Errorf("read %+v", read.Data)
	}
	c.refused("thread/items/read", map[string]any{"threadId": id, "turnId": second, "itemIds": []string{}}, "1 to 100")
	c.read(c.call("thread/items/read", map[string]any{"threadId": id, "turnId": "nope", "itemIds": ids}), &read)
	if len(read.Data) != 0 {
		t.Errorf("items of a turn that is not: %+v", read.Data)
	}
}

func TestMetadataOfAThread(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	c.finish(c.say(id, "hello"))
	update := func(git map[string]any) *protocol.GitInfo {
		t.Helper()
		var out struct{ Thread protocol.Thread }
		c.read(c.call("thread/metadata/update", map[string]any{"threadId": id, "gitInfo": git}), &out)
		return out.Thread.GitInfo
	}
	if g := update(map[string]any{"branch": "b", "sha": "abc"}); *g.Branch != "b" || *g.SHA != "abc" {
		t.Errorf("git = %+v", g)
	}
	if g := update(map[string]any{"branch": nil}); g.Branch != nil || *g.SHA != "abc" {
		t.Errorf("git = %+v", g)
	}
	for text, p := range map[string]map[string]any{
		"at least one field":    {"gitInfo": map[string]any{}},
		"must include at least": {},
		"project not found: p":  {"projectId": "p"},
		"1 to 4096 bytes":       {"gitInfo": map[string]any{"sha": ""}},
		"is not kept":           {"daybreakEnabled": true},
	} {
		p["threadId"] = id
		c.refused("thread/metadata/update", p, text)
	}
	h.stop()
	c = restart(t, h).connect()
	var out struct{ Thread protocol.Thread }
	c.read(c.call("thread/read", map[string]any{"threadId": id}), &out)
	if g := out.Thread.GitInfo; g == nil || g.Branch != nil || *g.SHA != "abc" {
		t.Errorf("after a restart git = %+v", g)
	}
}

func TestWatchingFiles(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	file := filepath.Join(h.cwd, "a.txt")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(file, "1")
	for watch, path := range map[string]string{"dir": h.cwd, "file": file, "missing": filepath.Join(h.cwd, "new.txt")} {
		if raw := c.call("fs/watch", map[string]any{"watchId": watch, "path": path}); protocol.StringField(raw, "path") != path {
			t.Errorf("fs/watch = %s", raw)
		}
	}
	c.refused("fs/watch", map[string]any{"watchId": "dir", "path": h.cwd}, "watchId already exists: dir")
	c.refused("fs/watch", map[string]any{"watchId": "rel", "path": "a.txt"}, "without a base path")
	changed := func(from int, watch string, want ...string) {
		t.Helper()
		left := slices.Clone(want)
		c.wait(from, watch+" changes", func(n note) bool {
			if n.Method != "fs/changed" || protocol.StringField(n.Params, "watchId") != watch {
				return false
			}
			var p struct{ ChangedPaths []string }
			c.read(n.Params, &p)
			left = slices.DeleteFunc(left, func(path string) bool { return slices.Contains(p.ChangedPaths, path) })
			return len(left) == 0
		})
	}
	from := c.mark()
	write(file, "changed")
	write(filepath.Join(h.cwd, "new.txt"), "new")
	changed(from, "dir", file, filepath.Join(h.cwd, "new.txt"))
	changed(from, "file", file)
	changed(from, "missing", filepath.Join(h.cwd, "new.txt"))
	from = c.mark()
	if err := os.Remove(filepath.Join(h.cwd, "new.txt")); err != nil {
		t.Fatal(err)
	}
	changed(from, "dir", filepath.Join(h.cwd, "new.txt"))
	changed(from, "missing", filepath.Join(h.cwd, "new.txt"))

	// Nothing more comes of a watch that ended; another one proves that time passed.
	c.call("fs/unwatch", map[string]any{"watchId": "dir"})
	c.call("fs/unwatch", map[string]any{"watchId": "dir"})
	from = c.mark()
	for i := range 3 {
		mark := c.mark()
		write(file, strings.Repeat("x", i+10))
		changed(mark, "file", file)
	}
	c.mu.Lock()
	for _, n := range c.notes[from:] {
		if protocol.StringField(n.Params, "watchId") == "dir" {
			t.Errorf("told after fs/unwatch: %s", n.Params)
		}
	}
	c.mu.Unlock()

	for i := range 40 {
		_, err := c.try("fs/watch", map[string]any{"watchId": strings.Repeat("w", i+1), "path": h.cwd})
		if i == 39 && (err == nil || !strings.Contains(err.Error(), "watched already")) {
			t.Errorf("a connection may watch any number of paths: %v", err)
		}
	}
}

func TestAccountsAreTheHosts(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	c.refused("account/login/start", map[string]any{"type": "apiKey", "apiKey": "sk-secret"}, "api_key_env")
	c.refused("account/login/cancel", map[string]any{"loginId": "x"}, "invalid login id: x")
	c.refused("account/usage/read", nil, "authentication required")
	from := c.mark()
	c.call("account/logout", nil)
	c.method(from, "account/updated")
}
