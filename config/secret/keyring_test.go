//go:build !darwin && !windows

package secret

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"towline/config"
	"towline/config/secret/keyringtest"
)

func TestKeyringEntryIsCodexs(t *testing.T) {
	k := keyringtest.Start(t)
	s := store(t, KindKeyring, k.Env()...)
	if _, _, err := s.Load(bg(t)); !errors.Is(err, ErrNone) {
		t.Fatalf("nothing stored: %v", err)
	}
	plain := filepath.Join(s.o.CodexHome, "auth.json")
	write(t, plain, `{"auth_mode":"apikey","OPENAI_API_KEY":"sk-old"}`, 0o600)

	want := chatgpt("rt-1", time.Now())
	w := mustSave(t, s, want)
	user := "cli|" + homeHash(s.o.CodexHome)
	label := user + "@Codex Auth:default (keyring v3.6.3)"
	if w != (Where{Kind: KindKeyring, Path: label}) {
		t.Errorf("stored in %+v", w)
	}
	item := keyringtest.Item{Label: label, Secret: string(want.Compact()), Attributes: map[string]string{
		"service": "Codex Auth", "username": user, "target": "default", "application": "rust-keyring",
	}}
	if diff := cmp.Diff([]keyringtest.Item{item}, k.Items()); diff != "" {
		t.Error(diff)
	}
	if exists(plain) {
		t.Error("auth.json is still there")
	}
	if got, _ := mustLoad(t, s); got.id() != want.id() {
		t.Errorf("loaded %v", got)
	}

	next := chatgpt("rt-2", time.Now())
	mustSave(t, s, next)
	item.Secret = string(next.Compact())
	if diff := cmp.Diff([]keyringtest.Item{item}, k.Items()); diff != "" {
		t.Errorf("saved again: %s", diff)
	}
	if had, err := s.Delete(bg(t)); !had || err != nil || len(k.Items()) != 0 {
		t.Errorf("delete: %v %v, %d left", had, err, len(k.Items()))
	}
}

func TestTwinEntriesBecomeOne(t *testing.T) {
	k := keyringtest.Start(t)
	s := store(t, KindKeyring, k.Env()...)
	e := codexEntry(s.o.CodexHome)
	for _, target := range []string{"default", ""} { // an older keyring library wrote no target
		i := keyringtest.Item{Label: "x", Secret: `{"OPENAI_API_KEY":"sk-` + target + `"}`, Attributes: map[string]string{"service": e.service, "username": e.user}}
		if target != "" {
			i.Attributes["target"] = target
		}
		k.Put(i)
	}
	if a, _ := mustLoad(t, s); a.Mode != ModeAPIKey {
		t.Errorf("loaded %v", a)
	}
	mustSave(t, s, Auth{Mode: ModeAPIKey, APIKey: "sk-2"})
	if items := k.Items(); len(items) != 1 || !strings.Contains(items[0].Secret, "sk-2") {
		t.Errorf("%d entries", len(items))
	}
}

// TestAShutKeyringHangsNothing runs everything against keyrings that do not work.
func TestAShutKeyringHangsNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		env  func(t *testing.T) []string
		want error
		hint string
	}{
		"locked": {func(t *testing.T) []string {
			k := keyringtest.Start(t)
			t.Cleanup(func() {
				if n := k.Prompts(); n != 0 {
					t.Errorf("%d prompts wait for a person", n)
				}
			})
			k.Lock()
			return k.Env()
		}, ErrLocked, "unlock"},
		"hung service": {func(t *testing.T) []string {
			k := keyringtest.Bus(t)
			k.Hang(true)
			return k.Env()
		}, ErrTimeout, "keyring_timeout"},
		"deaf bus": {func(t *testing.T) []string {
			return []string{"DBUS_SESSION_BUS_ADDRESS=" + keyringtest.Deaf(t)}
		}, ErrTimeout, "keyring_timeout"},
		"bus without service": {func(t *testing.T) []string { return keyringtest.Bus(t).Env() }, ErrNoKeyring, "Secret Service"},
		"no bus":              {func(*testing.T) []string { return nil }, ErrNoKeyring, "Secret Service"},
		"dead bus": {func(t *testing.T) []string {
			return []string{"DBUS_SESSION_BUS_ADDRESS=unix:path=" + filepath.Join(t.TempDir(), "bus")}
		}, ErrNoKeyring, "Secret Service"},
		"bus over tcp":     {func(*testing.T) []string { return []string{"DBUS_SESSION_BUS_ADDRESS=tcp:host=127.0.0.1,port=1"} }, ErrNoKeyring, "Secret Service"},
		"bus of a command": {func(*testing.T) []string { return []string{"DBUS_SESSION_BUS_ADDRESS=unixexec:path=/bin/false"} }, ErrNoKeyring, "Secret Service"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := tc.env(t)
			dir := t.TempDir()
			o := Options{Kind: KindKeyring, CodexHome: filepath.Join(dir, "codex"), StateDir: filepath.Join(dir, "state"), KeyringTimeout: 300 * time.Millisecond}
			if tc.want == ErrLocked { //nolint:errorlint // the case's own
				o.KeyringTimeout = patience // it answers; how soon is not the question
			}
			s := storeAt(t, o, env...)
			a := chatgpt("rt-canary", time.Now())
			unlock, err := s.Lock(bg(t))
			if err != nil {
				t.Fatal(err)
			}
			_, _, loadErr := s.Load(bg(t))
			_, saveErr := s.Save(bg(t), a)
			_, deleteErr := s.Delete(bg(t))
			journalErr := s.Journal(bg(t), Auth{}, a)
			unlock()
			if tc.want != ErrLocked && !errors.Is(loadErr, tc.want) { //nolint:errorlint // the case's own
				t.Errorf("load: %v", loadErr)
			}
			for what, err := range map[string]error{"save": saveErr, "delete": deleteErr} {
				if tc.want == ErrLocked && what == "delete" { //nolint:errorlint // the case's own
					continue // an empty keyring says so even when locked
				}
				if !errors.Is(err, tc.want) || strings.Contains(err.Error(), "canary") {
					t.Errorf("%s: %v", what, err)
				} else if h := strings.Join(config.Hints(err), " "); !strings.Contains(h, tc.hint) {
					t.Errorf("%s: hints %q", what, h)
				}
			}
			if !errors.Is(journalErr, ErrNoKey) {
				t.Errorf("journal: %v", journalErr) // no key, so nothing in plain
			}
			if exists(filepath.Join(s.o.CodexHome, "auth.json")) || exists(s.journalPath()) {
				t.Error("under a keyring, a plain file was written")
			}

			auto := o
			auto.Kind = KindAuto
			s = storeAt(t, auto, env...)
			w := mustSave(t, s, a)
			if w.Kind != KindFile || !strings.Contains(w.Fallback, tc.want.Error()) {
				t.Errorf("auto stored in %+v", w)
			}
			got, w := mustLoad(t, s)
			if got.id() != a.id() || w.Kind != KindFile || tc.want != ErrLocked && w.Fallback == "" { //nolint:errorlint // the case's own
				t.Errorf("auto found %v in %+v", got, w)
			}
		})
	}
}

func TestALockedEntryIsNotTakenForNone(t *testing.T) {
	k := keyringtest.Start(t)
	s := store(t, KindAuto, k.Env()...)
	a := chatgpt("rt-1", time.Now())
	if w := mustSave(t, s, a); w.Kind != KindKeyring || w.Fallback != "" {
		t.Fatalf("stored in %+v", w)
	}
	k.Lock()
	if _, _, err := s.Load(bg(t)); !errors.Is(err, ErrLocked) {
		t.Errorf("locked: %v", err)
	}
	if p := places(t, s, KindKeyring); len(p) != 1 || !errors.Is(p[0].Err, ErrLocked) {
		t.Errorf("places: %+v", p)
	}
	if had, err := s.Delete(bg(t)); had || !errors.Is(err, ErrLocked) {
		t.Errorf("delete: %v %v", had, err)
	}
	if n := k.Prompts(); n != 0 {
		t.Errorf("%d prompts wait for a person", n)
	}

	// A refresh while it is locked falls back to the file; when it opens again,
	// the older tokens in it are not used.
	b := chatgpt("rt-2", time.Now().Add(time.Minute))
	if w := mustSave(t, s, b); w.Kind != KindFile {
		t.Errorf("stored in %+v", w)
	}
	k.Unlock()
	if got, w := mustLoad(t, s); got.id() != b.id() || w.Kind != KindFile || w.Fallback == "" {
		t.Errorf("loaded %v from %+v", got, w)
	}
	c := chatgpt("rt-3", time.Now().Add(2*time.Minute))
	if w := mustSave(t, s, c); w.Kind != KindKeyring || exists(filepath.Join(s.o.CodexHome, authFile)) {
		t.Errorf("stored in %+v", w)
	}
	if got, w := mustLoad(t, s); got.id() != c.id() || w.Kind != KindKeyring {
		t.Errorf("loaded %v from %+v", got, w)
	}
}

// TestAKeyringTooSmallKeepsAKey is the store of macOS and Windows, on the keyring
// there is here.
func TestAKeyringTooSmallKeepsAKey(t *testing.T) {
	k := keyringtest.Start(t)
	s := store(t, KindKeyring, k.Env()...)
	ring := boxed{systemKeyring(s.o.environ), patience}
	s.ring = wrappedPlace(ring, s.o.CodexHome, s.o.StateDir)
	a := chatgpt("rt-canary", time.Now())
	w := mustSave(t, s, a)
	if w.Kind != KindKeyring || !strings.HasPrefix(w.Path, s.o.StateDir) {
		t.Errorf("stored in %+v", w)
	}
	b, err := os.ReadFile(w.Path)
	if err != nil || strings.Contains(string(b), "canary") {
		t.Errorf("its file: %v", err)
	}
	if items := k.Items(); len(items) != 1 || len(items[0].Secret) != 2*keySize || items[0].Attributes["service"] != "Towline" {
		t.Errorf("entries: %+v", items)
	}
	s.ring = wrappedPlace(ring, s.o.CodexHome, s.o.StateDir) // as another process
	if got, _ := mustLoad(t, s); got.id() != a.id() {
		t.Errorf("loaded %v", got)
	}
	k.Lock()
	s.ring = wrappedPlace(ring, s.o.CodexHome, s.o.StateDir)
	if _, _, err := s.Load(bg(t)); !errors.Is(err, ErrLocked) || !strings.Contains(strings.Join(config.Hints(err), " "), "unlock") {
		t.Errorf("locked: %v", err)
	}
}
