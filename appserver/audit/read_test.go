package audit

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

func TestEntriesAreFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{MaxSize: 700})
	bot := access.Principal{Kind: access.KindToken, ID: "k3", Name: "ci", Role: protocol.RoleOperator, Scope: &access.Scope{Exec: true}}
	began := time.Now()
	for range 5 {
		l.Record("turn", ana, slog.String("thread", "t1"))
		l.Record("turn", bot, slog.String("thread", "t2"))
		l.Record("token.create", ana)
	}
	for name, tc := range map[string]struct {
		f    Filter
		want int
	}{
		"all":          {Filter{}, 15},
		"an event":     {Filter{Event: "turn"}, 10},
		"a kind of":    {Filter{Event: "token."}, 5},
		"by name":      {Filter{Who: "ci"}, 5},
		"by id":        {Filter{Who: "k3"}, 5},
		"a thread":     {Filter{Thread: "t1", Who: "ana"}, 5},
		"none":         {Filter{Thread: "t1", Who: "ci"}, 0},
		"since":        {Filter{Since: began}, 15},
		"since later":  {Filter{Since: began.Add(time.Hour)}, 0},
		"until before": {Filter{Until: began}, 0},
	} {
		n, last := 0, int64(0)
		err := Read(path, tc.f, func(e Entry) error {
			if e.Seq <= last || e.At.IsZero() || len(e.Raw) == 0 || e.Who.Name == "ci" && e.Who.Scope != "exec" {
				t.Errorf("%s: %+v", name, e)
			}
			n, last = n+1, e.Seq
			return nil
		})
		if err != nil || n != tc.want {
			t.Errorf("%s: %d entries, %v, want %d", name, n, err, tc.want)
		}
	}
}

// Whoever follows sees every entry once and in order, through new files.
func TestAFollowerMissesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{MaxSize: 2000})
	l.Record("before", ana)
	const most = 300
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range most {
			l.Record("event", ana, slog.Int("n", i))
			if i%20 == 0 {
				time.Sleep(time.Millisecond) // so that files change between two looks as well as in one
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	enough := errors.New("enough")
	next := int64(2)
	err := Follow(ctx, path, Filter{}, 1, func(e Entry) error {
		if e.Seq != next {
			t.Errorf("entry %d, want %d", e.Seq, next)
			return enough
		}
		if next++; e.Seq == most+1 {
			return enough
		}
		return nil
	})
	writer.Wait()
	if !errors.Is(err, enough) {
		t.Errorf("%v, at %d", err, next)
	}
}
