package thread_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
)

// clock advances a second at each look, so that every record has its own time.
func clock() func() time.Time {
	var n atomic.Int64
	return func() time.Time { return time.Unix(1_800_000_000+n.Add(1), 0) }
}

func open(t *testing.T, dir string) *thread.Store {
	t.Helper()
	st, err := thread.Open(dir, thread.Options{Clock: clock()})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func create(t *testing.T, st *thread.Store, cwd string) *thread.Log {
	t.Helper()
	l, err := st.Create(thread.Meta{Provider: "test", CLIVersion: "1", Source: "vscode", HistoryMode: "paginated"},
		thread.Settings{Cwd: cwd, Model: "m", Approval: json.RawMessage(`"never"`), Sandbox: protocol.SandboxPolicy{Type: protocol.PolicyReadOnly}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func user(id, text string) protocol.Item {
	return protocol.Item{ID: id, Body: &protocol.UserMessage{Content: []protocol.UserInput{protocol.Text(text)}}}
}

func agent(id, text string) protocol.Item {
	return protocol.Item{ID: id, Body: &protocol.AgentMessage{Text: text}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// say records one whole turn.
func say(t *testing.T, l *thread.Log, turn, ask, answer string) {
	t.Helper()
	must(t, l.Append(thread.TurnStarted(turn), thread.ItemDone(turn, user(turn+"-u", ask)), thread.Input(json.RawMessage(`{"role":"user"}`))))
	must(t, l.Append(thread.ItemDone(turn, agent(turn+"-a", answer)), thread.Input(json.RawMessage(`{"role":"assistant"}`))))
	must(t, l.Append(thread.TurnEnded(turn, protocol.TurnCompleted, nil)))
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	st := open(t, filepath.Join(t.TempDir(), "threads"))
	l := create(t, st, "/p")
	id := l.Head().ID
	say(t, l, "t1", "hello <b>\nworld", "hi")
	must(t, l.Append(thread.Named("greeting"), thread.UsageNow(protocol.ThreadTokenUsage{Total: protocol.TokenUsage{TotalTokens: 7}}),
		thread.SetQueue([]thread.Queued{{ID: "q", Input: []protocol.UserInput{protocol.Text("later")}}})))
	h, err := st.Read(id)
	must(t, err)
	if len(h.Turns) != 1 || h.Turns[0].Status != protocol.TurnCompleted || len(h.Turns[0].Items) != 2 || *h.Turns[0].DurationMs <= 0 {
		t.Errorf("turns = %+v", h.Turns)
	}
	if got := h.Turns[0].Items[0].Body.(*protocol.UserMessage).Content[0].Text; got != "hello <b>\nworld" {
		t.Errorf("user said %q", got)
	}
	if len(h.Input) != 2 || h.Usage == nil || h.Usage.Total.TotalTokens != 7 || len(h.Queue) != 1 || h.Head.Title() != "greeting" || h.Head.Settings.Cwd != "/p" {
		t.Errorf("history = %+v", h)
	}
	if fi, err := os.Stat(st.Path(id)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("file mode %v, %v", fi.Mode(), err)
	}
	must(t, l.Append(thread.Replaced([]json.RawMessage{json.RawMessage(`{"role":"developer"}`)})))
	if h, err = st.Read(id); err != nil || len(h.Input) != 1 {
		t.Errorf("after compaction input = %s, %v", h.Input, err)
	}
}

// A crash may stop the writer at any byte. Whatever is left must be readable,
// contain a prefix of what was written, and take new records.
func TestCutAtEveryByte(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "threads")
	st := open(t, dir)
	l := create(t, st, "/p")
	id := l.Head().ID
	say(t, l, "t1", "one", "eins")
	must(t, l.Append(thread.TurnStarted("t2"), thread.ItemDone("t2", user("t2-u", "zwei ünï"))))
	must(t, l.Close())
	whole, err := os.ReadFile(st.Path(id))
	must(t, err)
	first := bytes.IndexByte(whole, '\n') + 1
	items := func(h *thread.History) (n int) {
		for _, tn := range h.Turns {
			n += len(tn.Items)
		}
		return n
	}
	before := 0
	for cut := first - 1; cut <= len(whole); cut++ {
		must(t, os.WriteFile(st.Path(id), whole[:cut], 0o600))
		read, err := st.Read(id)
		if err != nil {
			t.Fatalf("cut at %d: read: %v", cut, err)
		}
		if n := items(read); n < before || read.Skipped != 0 {
			t.Fatalf("cut at %d: %d items after %d, %d skipped", cut, n, before, read.Skipped)
		} else {
			before = n
		}
		l, h, err := st.Open(id)
		if err != nil {
			t.Fatalf("cut at %d: open: %v", cut, err)
		}
		if items(h) != items(read) {
			t.Fatalf("cut at %d: reading sees %d items, writing %d", cut, items(read), items(h))
		}
		for _, tn := range h.Turns {
			if tn.Status == protocol.TurnInProgress {
				t.Fatalf("cut at %d: turn %s is in progress after a crash", cut, tn.ID)
			}
		}
		must(t, l.Append(thread.TurnStarted("t9"), thread.ItemDone("t9", user("t9-u", "after"))))
		must(t, l.Close())
		h, err = st.Read(id)
		if err != nil || h.Skipped != 0 || h.Turns[len(h.Turns)-1].ID != "t9" || items(h) != items(read)+1 {
			t.Fatalf("cut at %d: after the repair %+v, %v", cut, h, err)
		}
	}
	if before != 3 {
		t.Errorf("%d items in the whole file", before)
	}
}

func TestGarbageLinesAreSkipped(t *testing.T) {
	st := open(t, filepath.Join(t.TempDir(), "threads"))
	l := create(t, st, "/p")
	id := l.Head().ID
	say(t, l, "t1", "one", "eins")
	must(t, l.Close())
	b, err := os.ReadFile(st.Path(id))
	must(t, err)
	lines := bytes.SplitAfter(b, []byte("\n"))
	lines[3] = append(bytes.Repeat([]byte{0}, 100), '\n')
	must(t, os.WriteFile(st.Path(id), bytes.Join(lines, nil), 0o600))
	h, err := st.Read(id)
	must(t, err)
	if h.Skipped != 1 || len(h.Turns) != 1 || len(h.Turns[0].Items) != 1 {
		t.Errorf("skipped %d, turns %+v", h.Skipped, h.Turns)
	}
}

func TestOneWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "threads")
	st := open(t, dir)
	l := create(t, st, "/p")
	id := l.Head().ID
	_, _, err := open(t, dir).Open(id) // another process looks the same
	var busy *thread.BusyError
	if !errors.As(err, &busy) || err.Error() != "thread "+string(id)+" already has an active writer" {
		t.Errorf("second writer: %v", err)
	}
	if err := st.Delete(id); !errors.As(err, &busy) {
		t.Errorf("delete of an open thread: %v", err)
	}
	if _, err := open(t, dir).Read(id); err != nil {
		t.Errorf("reading next to a writer: %v", err)
	}
	must(t, l.Close())
	must(t, l.Close())
	if err := l.Append(thread.Named("x")); !errors.Is(err, thread.ErrLogClosed) {
		t.Errorf("append after close: %v", err)
	}
	must(t, st.Update(id, thread.Named("later")))
	must(t, st.Delete(id))
	if _, err := st.Read(id); !errors.Is(err, thread.ErrNotFound) {
		t.Errorf("read after delete: %v", err)
	}
}

func TestOpenRefusesALooseDirectory(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	if _, err := thread.Open(dir, thread.Options{}); err == nil {
		t.Error("a directory anyone may read was accepted")
	}
}

func TestNamesOutsideTheStoreAreNotThreads(t *testing.T) {
	st := open(t, filepath.Join(t.TempDir(), "threads"))
	for _, id := range []protocol.ThreadID{"", "../x", "a/b", "00000000-0000-0000-0000-00000000000G", "{0192e4a0-0000-7000-8000-000000000000}"} {
		if _, err := st.Read(id); !errors.Is(err, thread.ErrNotFound) {
			t.Errorf("Read(%q) = %v", id, err)
		}
		if err := st.Delete(id); !errors.Is(err, thread.ErrNotFound) {
			t.Errorf("Delete(%q) = %v", id, err)
		}
	}
}

func titles(p thread.Page) (out []string) {
	for i := range p.Heads {
		out = append(out, p.Heads[i].Title())
	}
	return out
}

func TestList(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "threads")
	st := open(t, dir)
	var logs []*thread.Log
	for i := range 5 {
		l := create(t, st, fmt.Sprintf("/p%d", i%2))
		say(t, l, fmt.Sprintf("t%d", i), fmt.Sprintf("Message %d", i), "ok")
		logs = append(logs, l)
	}
	create(t, st, "/p0") // never used
	must(t, logs[1].Append(thread.SetArchived(true)))
	say(t, logs[0], "again", "x", "y")
	must(t, logs[4].Append(thread.Named("last")))

	for name, tc := range map[string]struct {
		q    thread.Query
		want []string
	}{
		"newest first":     {thread.Query{}, []string{"last", "Message 3", "Message 2", "Message 0"}},
		"archived":         {thread.Query{Archived: true}, []string{"Message 1"}},
		"by recency":       {thread.Query{Sort: thread.ByRecency}, []string{"Message 0", "last", "Message 3", "Message 2"}},
		"by update":        {thread.Query{Sort: thread.ByUpdated, Ascending: true}, []string{"Message 2", "Message 3", "Message 0", "last"}},
		"one folder":       {thread.Query{Cwds: []string{"/p1"}}, []string{"Message 3"}},
		"no folder":        {thread.Query{Cwds: []string{}}, nil},
		"title, any case":  {thread.Query{Search: "MESSAGE"}, []string{"Message 3", "Message 2", "Message 0"}},
		"other provider":   {thread.Query{Providers: []string{"else"}}, nil},
		"excluded":         {thread.Query{Exclude: []protocol.ThreadID{logs[4].Head().ID}}, []string{"Message 3", "Message 2", "Message 0"}},
		"with the unused":  {thread.Query{Empty: true}, []string{"", "last", "Message 3", "Message 2", "Message 0"}},
		"source vscode":    {thread.Query{Sources: []string{"vscode"}, Limit: 1}, []string{"last"}},
		"source elsewhere": {thread.Query{Sources: []string{"exec"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := st.List(tc.q)
			must(t, err)
			if d := cmp.Diff(tc.want, titles(p)); d != "" {
				t.Error(d)
			}
		})
	}
	t.Run("pages", func(t *testing.T) {
		var got []string
		q := thread.Query{Limit: 3}
		for range 5 {
			p, err := st.List(q)
			must(t, err)
			got = append(got, titles(p)...)
			if q.Cursor = p.Next; q.Cursor == "" {
				break
			}
		}
		if d := cmp.Diff([]string{"last", "Message 3", "Message 2", "Message 0"}, got); d != "" {
			t.Error(d)
		}
		if _, err := st.List(thread.Query{Cursor: "x"}); !errors.Is(err, thread.ErrCursor) {
			t.Errorf("bad cursor: %v", err)
		}
	})
	t.Run("the cache and a fresh scan agree", func(t *testing.T) {
		must(t, st.Save())
		warm, err := open(t, dir).List(thread.Query{Empty: true})
		must(t, err)
		must(t, os.Remove(filepath.Join(dir, "index.json")))
		cold, err := open(t, dir).List(thread.Query{Empty: true})
		must(t, err)
		own, err := st.List(thread.Query{Empty: true})
		must(t, err)
		norm := func(p thread.Page) string { b, _ := json.Marshal(p); return string(b) }
		if norm(warm) != norm(cold) || norm(own) != norm(cold) {
			t.Errorf("own  %s\nwarm %s\ncold %s", norm(own), norm(warm), norm(cold))
		}
	})
	t.Run("another process's writing is seen", func(t *testing.T) {
		other := open(t, dir)
		_, err := other.List(thread.Query{})
		must(t, err)
		must(t, logs[2].Append(thread.Named("renamed")))
		p, err := other.List(thread.Query{Search: "renamed"}) // its clock moves a second a look
		must(t, err)
		if len(p.Heads) != 1 {
			t.Errorf("heads = %v", titles(p))
		}
	})
}

func TestSearch(t *testing.T) {
	st := open(t, filepath.Join(t.TempDir(), "threads"))
	a, b := create(t, st, "/p"), create(t, st, "/p")
	say(t, a, "t1", "where is the pump", "in the\nboiler ROOM, left\nof the door")
	say(t, b, "t1", "boiler plate", "fine")
	found, next, err := st.Search(t.Context(), "Boiler", thread.Query{})
	must(t, err)
	if len(found) != 2 || found[0].Snippet != "boiler plate" || found[1].Snippet != "boiler ROOM, left" || next != "" {
		t.Errorf("found %+v, next %q", found, next)
	}
	found, next, err = st.Search(t.Context(), "boiler", thread.Query{Limit: 1})
	must(t, err)
	if len(found) != 1 || next == "" {
		t.Fatalf("found %d, next %q", len(found), next)
	}
	found, next, err = st.Search(t.Context(), "boiler", thread.Query{Limit: 1, Cursor: next})
	must(t, err)
	if len(found) != 1 || found[0].Head.ID != a.Head().ID || next != "" {
		t.Errorf("second page: %+v, %q", found, next)
	}
}

func TestForkContinuesFromATurn(t *testing.T) {
	st := open(t, filepath.Join(t.TempDir(), "threads"))
	l := create(t, st, "/p")
	id := l.Head().ID
	for _, turn := range []string{"t1", "t2", "t3"} {
		say(t, l, turn, "ask "+turn, "answer "+turn)
	}
	for name, tc := range map[string]struct {
		last, before string
		turns        int
	}{
		"all": {"", "", 3}, "to the second": {"t2", "", 2}, "before the second": {"", "t2", 1}, "to the last": {"t3", "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := st.ReadTurns(id, tc.last, tc.before)
			must(t, err)
			f, err := st.Create(thread.Meta{ForkedFrom: &id, Source: "vscode"}, h.Head.Settings, h.Records()...)
			must(t, err)
			defer func() { must(t, f.Close()) }()
			got, err := st.Read(f.Head().ID)
			must(t, err)
			if d := cmp.Diff(asJSON(t, h.Turns), asJSON(t, got.Turns)); d != "" || len(got.Turns) != tc.turns || len(got.Input) != 2*tc.turns {
				t.Errorf("%d turns, %d inputs: %s", len(got.Turns), len(got.Input), d)
			}
		})
	}
	if _, err := st.ReadTurns(id, "t9", ""); !errors.Is(err, thread.ErrNotFound) {
		t.Errorf("unknown turn: %v", err)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	must(t, err)
	return string(b)
}

func TestSweepRemovesWhatNobodyUsed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "threads")
	at := time.Unix(1_800_000_000, 0)
	st, err := thread.Open(dir, thread.Options{Clock: func() time.Time { return at }})
	must(t, err)
	unused, used := create(t, st, "/p"), create(t, st, "/p")
	say(t, used, "t1", "a", "b")
	must(t, unused.Close())
	must(t, st.Sweep())
	if _, err := st.Head(unused.Head().ID); err != nil {
		t.Errorf("a young thread was swept: %v", err)
	}
	at = at.Add(8 * 24 * time.Hour)
	must(t, st.Sweep())
	if _, err := st.Read(unused.Head().ID); !errors.Is(err, thread.ErrNotFound) {
		t.Errorf("unused thread: %v", err)
	}
	if _, err := st.Read(used.Head().ID); err != nil {
		t.Errorf("used thread: %v", err)
	}
}

func TestARecordThatIsTooLargeLeavesNothingBehind(t *testing.T) {
	st, err := thread.Open(filepath.Join(t.TempDir(), "threads"), thread.Options{Clock: clock(), MaxRecord: 4096})
	must(t, err)
	l := create(t, st, "/p")
	id := l.Head().ID
	before, err := os.ReadFile(st.Path(id))
	must(t, err)
	if err := l.Append(thread.Named("kept out"), thread.Input(json.RawMessage(`"`+strings.Repeat("x", 4096)+`"`))); err == nil {
		t.Fatal("a record beyond the limit was accepted")
	}
	after, err := os.ReadFile(st.Path(id))
	must(t, err)
	if !bytes.Equal(before, after) || l.Head().Name != nil {
		t.Error("a refused append left something behind")
	}
	// A longer line from elsewhere is passed over, what follows it is read.
	must(t, l.Close())
	must(t, os.WriteFile(st.Path(id), append(append(before, bytes.Repeat([]byte("y"), 100_000)...), '\n'), 0o600))
	must(t, st.Update(id, thread.Named("after")))
	h, err := st.Read(id)
	must(t, err)
	if h.Skipped != 1 || h.Head.Title() != "after" {
		t.Errorf("skipped %d, title %q", h.Skipped, h.Head.Title())
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"type":"turn","at":1,"turnId":"t"}` + "\n" + `{"type":"item","at":2,"turnId":"t","item":{"type":"agentMessage","id":"a","text":"x"}}`))
	f.Add([]byte(`{"type":"thread","at":1,"thread":{"id":"x"}}` + "\n"))
	f.Add([]byte("{\"type\":\"name\",\"at\":99999999999999999999,\"name\":null}\n\x00\x00"))
	f.Add([]byte(`{"type":"history","at":1,"history":[{},null]}` + "\n" + `{"type":"end","at":1,"turnId":"q","status":"completed"}`))
	dir := filepath.Join(f.TempDir(), "threads")
	st, err := thread.Open(dir, thread.Options{Clock: clock()})
	if err != nil {
		f.Fatal(err)
	}
	l, err := st.Create(thread.Meta{Source: "vscode"}, thread.Settings{Cwd: "/p"})
	if err != nil {
		f.Fatal(err)
	}
	id := l.Head().ID
	_ = l.Close()
	head, err := os.ReadFile(st.Path(id))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, tail []byte) {
		if err := os.WriteFile(st.Path(id), append(bytes.Clone(head), tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		seen, err := st.Read(id)
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		if _, err := st.List(thread.Query{Empty: true}); err != nil {
			t.Fatalf("list: %v", err)
		}
		l, h, err := st.Open(id)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		if len(h.Turns) != len(seen.Turns) || len(h.Input) != len(seen.Input) {
			t.Fatalf("reading saw %d turns and %d inputs, opening %d and %d", len(seen.Turns), len(seen.Input), len(h.Turns), len(h.Input))
		}
		if err := l.Append(thread.TurnStarted("after")); err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		again, err := st.Read(id)
		if err != nil || again.Turns[len(again.Turns)-1].ID != "after" && len(seen.Turns) == 0 {
			t.Fatalf("after the repair: %v", err)
		}
	})
}

// A first page out of two thousand threads: from nothing, from the cache, and
// once the index is in memory.
func BenchmarkList(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "threads")
	st, err := thread.Open(dir, thread.Options{})
	if err != nil {
		b.Fatal(err)
	}
	h := thread.NewHistory(thread.Meta{}, thread.Settings{}, thread.TurnStarted("t"), thread.ItemDone("t", user("u", "hello")))
	for range 50 {
		h.Add(thread.ItemDone("t", agent(thread.NewID(), strings.Repeat("words ", 300))))
	}
	seed, err := st.Create(thread.Meta{Source: "vscode"}, thread.Settings{Cwd: "/p"}, h.Records()...)
	if err != nil {
		b.Fatal(err)
	}
	_ = seed.Close()
	text, err := os.ReadFile(st.Path(seed.Head().ID))
	if err != nil {
		b.Fatal(err)
	}
	for range 2000 {
		id := thread.NewID()
		copied := bytes.Replace(text, []byte(seed.Head().ID), []byte(id), 1)
		if err := os.WriteFile(filepath.Join(dir, id+".jsonl"), copied, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	list := func(b *testing.B, st *thread.Store) {
		p, err := st.List(thread.Query{Limit: 25})
		if err != nil || len(p.Heads) != 25 {
			b.Fatalf("%d heads, %v", len(p.Heads), err)
		}
	}
	fresh := func(b *testing.B) *thread.Store {
		st, err := thread.Open(dir, thread.Options{})
		if err != nil {
			b.Fatal(err)
		}
		return st
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			list(b, fresh(b))
		}
	})
	b.Run("cached", func(b *testing.B) {
		s := fresh(b)
		list(b, s)
		if err := s.Save(); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			list(b, fresh(b))
		}
	})
	b.Run("warm", func(b *testing.B) {
		s := fresh(b)
		for b.Loop() {
			list(b, s)
		}
	})
}
