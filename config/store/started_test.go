package store

import (
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestStartedThreadsAreThePrincipalsOwn(t *testing.T) {
	now := time.Unix(1000, 0)
	s, err := open(t.Context(), filepath.Join(t.TempDir(), "state", "towline.db"), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, add := range [][2]string{{"token:a", "t1"}, {"token:b", "t2"}, {"token:a", "t3"}, {"token:a", "t1"}} {
		now = now.Add(time.Second)
		if err := s.AddStarted(t.Context(), add[0], add[1]); err != nil {
			t.Fatal(err)
		}
	}
	for who, want := range map[string][]string{"token:a": {"t1", "t3"}, "token:b": {"t2"}, "token:c": nil} {
		got, err := s.Started(t.Context(), who)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s started %v, err %v; want %v", who, got, err, want)
		}
	}
	if err := s.ForgetStarted(t.Context(), "t1"); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Started(t.Context(), "token:a"); !slices.Equal(got, []string{"t3"}) {
		t.Errorf("after t1 was deleted: %v", got)
	}
	if err := s.pruneStarted(t.Context()); err != nil {
		t.Error(err)
	}
	if got, _ := s.Started(t.Context(), "token:b"); !slices.Equal(got, []string{"t2"}) {
		t.Errorf("pruning took %v", got)
	}
}
