package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openTest(t *testing.T, path string, now func() time.Time) *Store {
	t.Helper()
	s, err := open(t.Context(), path, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func approval(n int, state string, closed time.Time) Approval {
	a := Approval{
		ID: fmt.Sprint("a", n), Identity: fmt.Sprint("i", n), ThreadID: fmt.Sprint("t", n%2), TurnID: "turn", ItemID: "item",
		RequestID: json.RawMessage(`7`), Method: "m", Params: json.RawMessage(`{"x":1}`), State: state, OpenedAt: int64(n),
	}
	if state != StateOpen {
		a.ClosedAt, a.By, a.Result = closed.UnixMilli(), json.RawMessage(`{"name":"ana"}`), json.RawMessage(`{"decision":"accept"}`)
	}
	return a
}

func TestApprovalsSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "towline.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	open1, answered := approval(1, StateOpen, time.Time{}), approval(2, "answered", time.Now())
	answered.Item = json.RawMessage(`{"type":"fileChange"}`)
	for _, a := range []Approval{open1, answered} {
		if err := s.PutApproval(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, path, time.Now)
	for name, tc := range map[string]struct {
		f    ApprovalFilter
		want []string
	}{
		"all, open first": {ApprovalFilter{}, []string{"a1", "a2"}},
		"open":            {ApprovalFilter{State: StateOpen}, []string{"a1"}},
		"one thread":      {ApprovalFilter{ThreadID: "t0"}, []string{"a2"}},
		"limited":         {ApprovalFilter{Limit: 1}, []string{"a1"}},
		"none":            {ApprovalFilter{ThreadID: "t9"}, nil},
	} {
		got, err := s.Approvals(t.Context(), tc.f)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, a := range got {
			ids = append(ids, a.ID)
		}
		if fmt.Sprint(ids) != fmt.Sprint(tc.want) {
			t.Errorf("%s: %v, want %v", name, ids, tc.want)
		}
	}
	got, _ := s.Approvals(t.Context(), ApprovalFilter{State: "answered"})
	if fmt.Sprintf("%+v", got[0]) != fmt.Sprintf("%+v", answered) {
		t.Errorf("read %+v, wrote %+v", got[0], answered)
	}
	open1.State, open1.Result = "answered", json.RawMessage(`{}`)
	if err := s.PutApproval(t.Context(), open1); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Approvals(t.Context(), ApprovalFilter{State: StateOpen}); len(got) != 0 {
		t.Errorf("%d still open after it was answered", len(got))
	}
}

func TestPruning(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "state", "towline.db")
	s := openTest(t, path, func() time.Time { return now })
	for i, a := range []Approval{
		approval(1, StateOpen, time.Time{}),
		approval(2, "answered", now.Add(-KeepAnswered-time.Hour)),
		approval(3, "gone", now.Add(-KeepAnswered-time.Hour)),
		approval(4, "answered", now.Add(-KeepAnswered+time.Hour)),
	} {
		if err := s.PutApproval(t.Context(), a); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, _ := s.Approvals(t.Context(), ApprovalFilter{})
	if len(got) != 2 || got[0].ID != "a1" || got[1].ID != "a4" {
		t.Errorf("kept %+v, want the open one and the young one", got)
	}

	// Too many: the ones closed longest ago go, in bulk here.
	tx, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range MaxAnswered + 5 {
		if _, err := tx.ExecContext(t.Context(), `INSERT INTO approvals VALUES (?,'','','','','','','',NULL,'answered',1,?,NULL,NULL)`,
			fmt.Sprint("n", i), now.UnixMilli()+int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	var n, old int
	row := s.db.QueryRowContext(t.Context(), `SELECT count(*), sum(id IN ('n0','n4','a4')) FROM approvals WHERE state <> 'open'`)
	if err := row.Scan(&n, &old); err != nil || n != MaxAnswered || old != 0 {
		t.Errorf("%d closed kept, %d of the oldest, err %v", n, old, err)
	}
}

func TestLastThread(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, filepath.Join(t.TempDir(), "state", "towline.db"), time.Now)
	if got, err := s.LastThread(ctx, "key:a"); got != "" || err != nil {
		t.Errorf("a stranger was at %q, %v", got, err)
	}
	for _, set := range [][2]string{{"key:a", "t1"}, {"key:b", "t1"}, {"key:a", "t2"}} {
		if err := s.SetLastThread(ctx, set[0], set[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.ForgetThread(ctx, "t1"); err != nil {
		t.Fatal(err)
	}
	for who, want := range map[string]string{"key:a": "t2", "key:b": ""} {
		if got, err := s.LastThread(ctx, who); got != want || err != nil {
			t.Errorf("%s was at %q, %v; want %q", who, got, err, want)
		}
	}
}

func TestFilesArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	path := filepath.Join(dir, "towline.db")
	s := openTest(t, path, time.Now)
	if err := s.SetLastThread(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]os.FileMode{dir: 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600} {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != want {
			t.Errorf("%s has mode %#o, want %#o", filepath.Base(p), st.Mode().Perm(), want)
		}
	}
	for name, loosen := range map[string]func(dir, path string) error{
		"directory": func(dir, _ string) error { return os.Chmod(dir, 0o750) },
		"file":      func(_, path string) error { return os.Chmod(path, 0o640) },
		"wal":       func(_, path string) error { return os.WriteFile(path+"-wal", nil, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			path := filepath.Join(dir, "towline.db")
			s, err := Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := loosen(dir, path); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), path); !errors.Is(err, ErrLoose) {
				t.Errorf("opened: %v, want ErrLoose", err)
			}
		})
	}
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "towline.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.ExecContext(t.Context(), `INSERT INTO version VALUES (999, 1)`); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path); !errors.Is(err, ErrNewer) {
		t.Errorf("opened: %v, want ErrNewer", err)
	}
}
