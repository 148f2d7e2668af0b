//go:build !darwin && !windows

package secret

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
				nobodyIsAsked(t, k)
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

func TestASilentKeyringIsLeftAloneForAWhile(t *testing.T) {
	k := keyringtest.Start(t)
	s := store(t, KindKeyring, k.Env()...)
	mustSave(t, s, chatgpt("rt-1", time.Now()))
	k.Hang(true)
	ring := box(systemKeyring(s.o.environ), 100*time.Millisecond)
	e := codexEntry(s.o.CodexHome)
	if _, err := ring.get(bg(t), e); !errors.Is(err, ErrTimeout) {
		t.Fatalf("hung: %v", err)
	}
	k.Serve()
	ring.limit = patience // it would answer now, and is not asked
	if _, err := ring.get(bg(t), e); !errors.Is(err, ErrTimeout) {
		t.Errorf("at once: %v", err)
	}
	ring.rest.Store(time.Now().Add(-time.Second).UnixNano())
	if _, err := ring.get(bg(t), e); err != nil {
		t.Errorf("later: %v", err)
	}
}

// nobodyIsAsked waits until the service has dropped what was withdrawn, which it
// does in its own time.
func nobodyIsAsked(t *testing.T, k *keyringtest.Keyring) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); k.Prompts() != 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d prompts wait for a person", k.Prompts())
			return
		}
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
	nobodyIsAsked(t, k)

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
	ring := box(systemKeyring(s.o.environ), patience)
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

func TestAKillNeverLosesALoginInTheKeyring(t *testing.T) {
	for _, kind := range []Kind{KindKeyring, KindAuto} {
		t.Run(string(kind), func(t *testing.T) {
			k := keyringtest.Start(t)
			survives(t, store(t, kind, k.Env()...), 6, k.Env()...)
			for _, i := range k.Items() { // the credential, and the journal's key
				if n := i.Attributes["service"]; n != "Codex Auth" && n != "Towline" {
					t.Errorf("an entry of %q", n)
				}
			}
		})
	}
}

// TestTheJournalOutlivesAKeyringThatHangs: the keyring stops answering just when
// tokens were received. They are kept, in no file that could be read, until it
// answers again.
func TestTheJournalOutlivesAKeyringThatHangs(t *testing.T) {
	memory, err := os.MkdirTemp("/dev/shm", "run")
	if err != nil || !inMemory(memory) {
		t.Skipf("no folder in memory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(memory) })
	for name, tc := range map[string]struct {
		early bool // the keyring hangs before the lock is taken already
		key   string
	}{"key from the keyring": {false, "keyring"}, "key in memory": {true, "runtime"}} {
		t.Run(name, func(t *testing.T) {
			k := keyringtest.Start(t)
			dir := t.TempDir()
			o := Options{Kind: KindKeyring, CodexHome: filepath.Join(dir, "codex"), StateDir: filepath.Join(dir, "state")}
			env := append([]string{"XDG_RUNTIME_DIR=" + memory}, k.Env()...)
			was, now := chatgpt("1", time.Now()), chatgpt("rt-canary", time.Now())
			mustSave(t, storeAt(t, o, env...), was)

			hasty := o
			hasty.KeyringTimeout = 200 * time.Millisecond
			s := storeAt(t, hasty, env...)
			if tc.early {
				k.Hang(true)
			}
			unlock, err := s.Lock(bg(t))
			if err != nil {
				t.Fatal(err)
			}
			k.Hang(true)
			if _, err := s.Replace(bg(t), was, now); !errors.Is(err, ErrTimeout) {
				t.Errorf("replace: %v", err)
			}
			unlock()
			b, err := os.ReadFile(s.journalPath())
			if err != nil || strings.Contains(string(b), "canary") || !strings.Contains(string(b), `"key":"`+tc.key+`"`) {
				t.Errorf("the journal: %v", err)
			}
			if _, _, err := s.Load(bg(t)); !errors.Is(err, ErrTimeout) {
				t.Errorf("load while it hangs: %v", err)
			}
			k.Serve()
			if got, _ := mustLoad(t, storeAt(t, o, env...)); got.id() != now.id() {
				t.Errorf("loaded %v", got)
			}
			if exists(s.journalPath()) {
				t.Error("the journal stays")
			}
		})
	}
}

func TestMigrate(t *testing.T) {
	cred := systemdCredential(t, random(keySize))
	fixture := func(t *testing.T, kind Kind) (*keyringtest.Keyring, *Store) {
		k := keyringtest.Start(t)
		return k, store(t, kind, append(k.Env(), "CREDENTIALS_DIRECTORY="+cred)...)
	}
	a := chatgpt("rt-1", time.Now())
	for _, way := range [][2]Kind{
		{KindFile, KindKeyring},
		{KindKeyring, KindFile},
		{KindFile, KindEncrypted},
		{KindEncrypted, KindKeyring},
		{KindKeyring, KindEncrypted},
		{KindEncrypted, KindFile},
		{KindFile, KindAuto},
		{KindKeyring, KindKeyring},
	} {
		t.Run(string(way[0])+" to "+string(way[1]), func(t *testing.T) {
			_, s := fixture(t, way[0])
			mustSave(t, s, a)
			if err := s.Migrate(bg(t), way[1]); err != nil {
				t.Fatal(err)
			}
			p := s.Places(bg(t))
			want := way[1]
			if want == KindAuto {
				want = KindKeyring
			}
			if len(p) != 1 || p[0].Kind != want || p[0].Auth.id() != a.id() || p[0].Plain != (want == KindFile) {
				t.Errorf("places: %+v", p)
			}
		})
	}
	t.Run("plain file under a mandate", func(t *testing.T) {
		_, s := fixture(t, KindKeyring)
		write(t, s.file.path(), string(a.File()), 0o600)
		if p := s.Places(bg(t)); len(p) != 1 || !p[0].Plain || p[0].Used {
			t.Errorf("places: %+v", p)
		}
		if err := s.Migrate(bg(t), KindKeyring); err != nil {
			t.Fatal(err)
		}
		if got, w := mustLoad(t, s); got.id() != a.id() || w.Kind != KindKeyring || exists(s.file.path()) {
			t.Errorf("%v in %+v", got, w)
		}
	})
	t.Run("the later state of one login", func(t *testing.T) {
		_, s := fixture(t, KindKeyring)
		later := chatgpt("rt-2", time.Now().Add(time.Minute))
		mustSave(t, s, a)
		write(t, s.file.path(), string(later.File()), 0o600)
		if err := s.Migrate(bg(t), KindKeyring); err != nil {
			t.Fatal(err)
		}
		if got, _ := mustLoad(t, s); got.id() != later.id() || exists(s.file.path()) {
			t.Errorf("loaded %v", got)
		}
	})
	t.Run("two different ones", func(t *testing.T) {
		_, s := fixture(t, KindKeyring)
		mustSave(t, s, a)
		write(t, s.file.path(), `{"auth_mode":"apikey","OPENAI_API_KEY":"sk-canary"}`, 0o600)
		err := s.Migrate(bg(t), KindKeyring)
		if !errors.Is(err, ErrConflict) || strings.Contains(err.Error(), "canary") {
			t.Errorf("migrate: %v", err)
		}
		if p := s.Places(bg(t)); len(p) != 2 {
			t.Errorf("places: %+v", p)
		}
	})
	t.Run("into a locked keyring", func(t *testing.T) {
		k, s := fixture(t, KindFile)
		mustSave(t, s, a)
		k.Lock()
		if err := s.Migrate(bg(t), KindKeyring); !errors.Is(err, ErrLocked) {
			t.Errorf("migrate: %v", err)
		}
		if got, _ := mustLoad(t, s); got.id() != a.id() {
			t.Errorf("after that, loaded %v", got)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		_, s := fixture(t, KindFile)
		if err := s.Migrate(bg(t), KindKeyring); !errors.Is(err, ErrNone) {
			t.Errorf("migrate: %v", err)
		}
		if err := s.Migrate(bg(t), KindEphemeral); err == nil {
			t.Error("migrated into memory")
		}
	})
}

// TestNothingOfASecretIsEverShown walks the ways things go wrong, with secrets
// that are easy to find, and looks for them in every error, hint, log line and
// listing, and in every file that others may read or that is not the store's.
func TestNothingOfASecretIsEverShown(t *testing.T) {
	shown, l := &logs{}, &logs{}
	note := func(err error) {
		if err != nil {
			fmt.Fprintf(shown, "%s%v %+v %#v\n", config.Explain(err), err, err, err)
		}
	}
	passphrase := func(context.Context) (string, error) {
		return "passphrase-canary", errors.New("typed passphrase-canary")
	}
	spoil := map[string]func(t *testing.T, k *keyringtest.Keyring, s *Store){
		"as it is": func(*testing.T, *keyringtest.Keyring, *Store) {},
		"locked":   func(_ *testing.T, k *keyringtest.Keyring, _ *Store) { k.Lock() },
		"hung":     func(_ *testing.T, k *keyringtest.Keyring, _ *Store) { k.Hang(true) },
		"absent":   func(_ *testing.T, k *keyringtest.Keyring, _ *Store) { k.Absent() },
		"loose": func(t *testing.T, _ *keyringtest.Keyring, s *Store) {
			each(t, s, func(p string) error { return os.Chmod(p, 0o640) })
		},
		"cut short": func(t *testing.T, _ *keyringtest.Keyring, s *Store) {
			each(t, s, func(p string) error { return os.Truncate(p, 40) })
		},
		"no folder": func(t *testing.T, _ *keyringtest.Keyring, s *Store) {
			for _, d := range []string{s.o.CodexHome, s.o.StateDir} {
				if err := errors.Join(os.RemoveAll(d), os.WriteFile(d, nil, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"entry no JSON": func(_ *testing.T, k *keyringtest.Keyring, s *Store) {
			e := codexEntry(s.o.CodexHome)
			k.Put(keyringtest.Item{Label: "x", Secret: `{"OPENAI_API_KEY":"sk-canary`, Attributes: map[string]string{"service": e.service, "username": e.user}})
		},
	}
	t.Run("all", func(t *testing.T) { // ends when all in it have
		for name, spoil := range spoil {
			for _, kind := range Kinds() {
				t.Run(name+" "+string(kind), func(t *testing.T) {
					t.Parallel()
					k := keyringtest.Start(t)
					dir, limit := t.TempDir(), patience
					if name == "hung" {
						limit = 100 * time.Millisecond
					}
					s := storeAt(t, Options{
						Kind: kind, CodexHome: filepath.Join(dir, "codex"), StateDir: filepath.Join(dir, "state"), KeyringTimeout: limit,
						Passphrase: passphrase, Log: slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})),
					}, append(k.Env(), "CREDENTIALS_DIRECTORY="+systemdCredential(t, []byte("systemd-canary-systemd-canary-systemd-canary")))...)
					a, b := chatgpt("rt-canary", time.Now()), chatgpt("rt2-canary", time.Now())
					a.APIKey, b.PersonalAccessToken = "sk-canary", "at-canary"
					_, err := s.Save(bg(t), a)
					note(err)
					note(s.Journal(bg(t), a, b))
					spoil(t, k, s)
					_, _, err = s.Load(bg(t))
					note(err)
					note(s.Journal(bg(t), a, b))
					_, err = s.Replace(bg(t), b, a)
					note(err)
					_, err = s.Save(bg(t), b)
					note(err)
					for _, to := range Kinds() {
						note(s.Migrate(bg(t), to))
					}
					fmt.Fprintf(shown, "%+v", s.Places(bg(t)))
					_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, _ error) error {
						if d != nil && d.Type().IsRegular() {
							looseOnPurpose := name == "loose"
							text, _ := os.ReadFile(p)
							info, _ := d.Info()
							plain := p == s.file.path() || p == s.journalPath() && s.plainJournal()
							if strings.Contains(string(text), "canary") && (!plain || info.Mode().Perm()&0o077 != 0 && !looseOnPurpose) {
								t.Errorf("%s (mode %#o) holds a secret in plain", p, info.Mode().Perm())
							}
						}
						return nil
					})
					_, err = s.Delete(bg(t))
					note(err)
				})
			}
		}
	})
	for _, text := range []string{shown.String(), l.String()} {
		if i := strings.Index(text, "canary"); i >= 0 {
			t.Errorf("a secret is shown: …%s…", text[max(0, i-200):min(len(text), i+50)])
		}
	}
	if len(shown.String()) < 5000 {
		t.Errorf("only %d bytes of errors were made: the test walks no error paths", len(shown.String()))
	}
}

// each does something to every file a store has made.
func each(t *testing.T, s *Store, do func(path string) error) {
	t.Helper()
	for _, dir := range []string{s.o.CodexHome, s.o.StateDir} {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range files {
			if err := do(p); err != nil {
				t.Fatal(err)
			}
		}
	}
}
