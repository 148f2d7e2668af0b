package secret

import (
	"context"
	"path/filepath"
	"testing"
	"time"
)

// TestAutoAsksOnlyWhenAPassphraseIsTheOnlyWay: a sealed file that is not the one in
// use is no reason to bother a person, least of all under a lock Codex waits for.
func TestAutoAsksOnlyWhenAPassphraseIsTheOnlyWay(t *testing.T) {
	dir := t.TempDir()
	asked := 0
	o := Options{
		Kind: KindAuto, CodexHome: filepath.Join(dir, "codex"), StateDir: filepath.Join(dir, "state"),
		Passphrase: func(context.Context) (string, error) { asked++; return "horse", nil },
	}
	a, b := chatgpt("1", time.Now()), chatgpt("2", time.Now().Add(time.Minute))
	if w := mustSave(t, storeAt(t, o), a); w.Kind != KindEncrypted || asked != 1 {
		t.Fatalf("stored in %+v, asked %d times", w, asked)
	}

	s := storeAt(t, o)
	s.ring = &memoryPlaceAs{memoryPlace{}, KindKeyring} // a keyring that took the login since
	if err := s.ring.save(bg(t), b); err != nil {
		t.Fatal(err)
	}
	if got, w := mustLoad(t, s); got.id() != b.id() || w.Kind != KindKeyring {
		t.Errorf("loaded %v from %+v", got, w)
	}
	unlock, err := s.Lock(bg(t))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	c := chatgpt("3", time.Now().Add(2*time.Minute))
	if w, err := s.Replace(bg(t), b, c); err != nil || w.Kind != KindKeyring {
		t.Errorf("%+v %v", w, err)
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	if exists(s.encrypted.path()) {
		t.Error("the older copy stays")
	}
}

// memoryPlaceAs is a place in memory under another kind's name.
type memoryPlaceAs struct {
	memoryPlace
	as Kind
}

func (p *memoryPlaceAs) kind() Kind { return p.as }
