package audit

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// whole verifies a log that must hold.
func whole(t *testing.T, path string) Report {
	t.Helper()
	r, err := Verify(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t *testing.T, path string, o Options) *Log {
	t.Helper()
	l, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestLinesCutOffTheEndAreMissed(t *testing.T) {
	cut := func(t *testing.T, path string, lines int) {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		l := strings.SplitAfter(string(raw), "\n")
		if err := os.WriteFile(path, []byte(strings.Join(l[:len(l)-1-lines], "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := auditFile(t, 5)
	whole(t, path)
	cut(t, path, 2)
	if _, err := Verify(path); err == nil || !strings.Contains(err.Error(), "ends at entry 3, and 5 were written") {
		t.Fatalf("before the next start: %v", err)
	}
	// The next start must not cover it up.
	l := open(t, path, Options{})
	l.Record("after", ana)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(path); err == nil || !strings.Contains(err.Error(), "entries up to 5 had been written and were gone") {
		t.Fatalf("after it: %v", err)
	}
	// All of it.
	path = auditFile(t, 2)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(path); err == nil {
		t.Error("an empty log holds")
	}
	// Entry 3 written anew, by somebody who knows how.
	path = auditFile(t, 3)
	head, err := os.ReadFile(headPath(path))
	if err != nil {
		t.Fatal(err)
	}
	cut(t, path, 1)
	l = open(t, path, Options{})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(headPath(path), head, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(path); err == nil {
		t.Error("another last entry holds")
	}
}

func TestAMissingHeadIsOnRecord(t *testing.T) {
	path := auditFile(t, 2)
	if err := os.Remove(headPath(path)); err != nil {
		t.Fatal(err)
	}
	open(t, path, Options{})
	raw, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(raw), `"event":"audit.head"`) {
		t.Errorf("%v\n%s", err, raw)
	}
	if r := whole(t, path); r.Entries != 3 {
		t.Errorf("%d entries", r.Entries)
	}
}

func TestTheChainGoesThroughNewFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{MaxSize: 1000})
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for i := range 25 {
				l.Record("event", ana, slog.Int("n", i))
			}
		})
	}
	for range 20 { // while it is written to
		if _, err := Verify(path); err != nil && !strings.Contains(err.Error(), "incomplete") {
			t.Fatal(err)
		}
	}
	writers.Wait()
	r := whole(t, path)
	if r.Entries != 100 || r.First != 1 || len(r.Files) < 10 {
		t.Fatalf("%+v", r)
	}
	// A start with an empty file, as between two renames, goes on where it was.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, filepath.Join(filepath.Dir(path), fmt.Sprintf("audit-%012d.jsonl", 100))); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, Options{})
	l.Record("after", ana)
	if r := whole(t, path); r.Entries != 101 {
		t.Fatalf("%+v", r)
	}
	// A full file is part of the chain.
	files, err := Files(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(files[3]); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(path); err == nil || !strings.Contains(err.Error(), filepath.Base(files[4])) {
		t.Errorf("a file less: %v", err)
	}
}

func TestOldFilesGoAsConfiguredAndNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{MaxSize: 1000, Keep: 2})
	for i := range 60 {
		l.Record("event", ana, slog.Int("n", i))
	}
	files, err := Files(path)
	if err != nil || len(files) != 3 {
		t.Fatalf("%q, %v", files, err)
	}
	if r := whole(t, path); r.First < 10 || r.Last <= 60 {
		t.Fatalf("%+v", r)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(path); err == nil || !strings.Contains(err.Error(), "are missing") {
		t.Errorf("one more deleted: %v", err)
	}
}

// A full disk is that of a file whose writes fail: a descriptor that is not open
// for writing does.
func TestWhatCannotBeWrittenIsWrittenLater(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		var log bytes.Buffer
		l := open(t, path, Options{Refuse: refuse, Log: slog.New(slog.NewTextHandler(&log, nil))})
		l.Record("before", ana)
		good := l.f
		deaf, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		l.f = deaf
		l.Record("approval answered", ana, slog.String("decision", "accept"))
		l.Record("turn", ana)
		if !strings.Contains(log.String(), "decision") {
			t.Error("the log does not say what was not written")
		}
		trouble := l.Trouble()
		if trouble == nil || trouble.Waiting != 2 || trouble.Err == nil {
			t.Fatalf("%+v", trouble)
		}
		if err := l.Ready(); (err != nil) != refuse {
			t.Errorf("refuse %v: %v", refuse, err)
		}
		l.f = good
		_ = deaf.Close()
		l.tried = l.tried.Add(-2 * retryEvery)
		if err := l.Ready(); err != nil || l.Trouble() != nil {
			t.Fatalf("%v %+v", err, l.Trouble())
		}
		if r := whole(t, path); r.Entries != 4 { // before, the note, and the two
			t.Fatalf("%+v", r)
		}
		raw, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(raw), `"event":"audit.late"`) || !strings.Contains(string(raw), `"decision":"accept"`) {
			t.Errorf("%v\n%s", err, raw)
		}
	}
}

func TestNobodyNamesAMemberOfTheLogsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{})
	l.Record("note", ana, slog.String("Prev", "x"), slog.Int("SEQ", 9), slog.String("hash", "y"), slog.Any("err", errors.New("z")))
	if r := whole(t, path); r.Last != 1 {
		t.Errorf("%+v", r)
	}
}
