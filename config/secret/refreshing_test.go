package secret

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRefreshingIsSeenAndMakesNothing(t *testing.T) {
	for _, kind := range []Kind{KindFile, KindEphemeral} {
		t.Run(string(kind), func(t *testing.T) {
			home := filepath.Join(t.TempDir(), "codex")
			open := func() *Store {
				s, err := Open(Options{CodexHome: home, Kind: kind, StateDir: t.TempDir(), Environ: func(string) string { return "" }})
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			holder := open()
			looker := open()
			if kind == KindEphemeral { // nobody else could see that one
				looker = holder
			}
			look := func(want bool) {
				t.Helper()
				if got, err := looker.Refreshing(); got != want || err != nil {
					t.Errorf("got %v, %v; want %v", got, err, want)
				}
			}
			look(false)
			if _, err := os.Stat(home); err == nil {
				t.Error("looking made the folder")
			}
			unlock, err := holder.Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			look(true)
			unlock()
			look(false)
		})
	}
}
