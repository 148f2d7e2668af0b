package secret

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// systemdCredential makes the folder systemd would give a service.
func systemdCredential(t testing.TB, key []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, SystemdCredential), key, 0o400); err != nil {
		t.Fatal(err)
	}
	return dir
}

func testHeader() header {
	return header{Purpose: forCredential, Home: "0123456789abcdef", Key: "systemd", Salt: bytes.Repeat([]byte{7}, saltSize)}
}

func TestSealedFileNamesWhatIsWrongWithIt(t *testing.T) {
	key := bytes.Repeat([]byte{1}, keySize)
	content := []byte(`{"OPENAI_API_KEY":"sk-canary"}`)
	whole, err := seal(testHeader(), key, content)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(whole, []byte("canary")) {
		t.Error("not sealed at all")
	}
	open := func(b, key []byte) error {
		got, err := unseal(b, key, forCredential, testHeader().Home)
		if err == nil && !bytes.Equal(got, content) {
			t.Fatalf("opened to %q", got)
		}
		return err
	}
	if err := open(whole, key); err != nil {
		t.Fatal(err)
	}
	if err := open(whole, bytes.Repeat([]byte{2}, keySize)); !errors.Is(err, ErrWrongKey) || errors.Is(err, ErrDamaged) {
		t.Errorf("another key: %v", err)
	}
	for i := range whole { // damage
		bad := bytes.Clone(whole)
		bad[i] ^= 1
		if err := open(bad, key); !errors.Is(err, ErrDamaged) || errors.Is(err, ErrWrongKey) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		if err := open(whole[:i], key); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	rehash := func(b []byte) []byte { // a change made with care
		b = b[:len(b)-sha256.Size]
		sum := sha256.Sum256(b)
		return append(b, sum[:]...)
	}
	bad := bytes.Clone(whole)
	bad[len(bad)-sha256.Size-1] ^= 1
	if err := open(rehash(bad), key); !errors.Is(err, ErrDamaged) {
		t.Errorf("content changed: %v", err)
	}
	for was, is := range map[string]string{
		`"key":"systemd"`: `"key":"kernel!"`, `"home":"0123456789abcdef"`: `"home":"fedcba9876543210"`, `"purpose":"credential"`: `"purpose":"journal"`,
	} {
		if err := open(rehash(bytes.Replace(whole, []byte(was), []byte(is), 1)), key); err == nil {
			t.Errorf("header changed to %s: no error", is)
		}
	}
	if _, err := unseal(whole, key, forJournal, testHeader().Home); err == nil {
		t.Error("a credential was taken for a journal")
	}
	if again, err := seal(testHeader(), key, content); err != nil || bytes.Equal(again, whole) {
		t.Errorf("sealed twice the same: %v", err)
	}
}

func TestCostsOfAFileAreBounded(t *testing.T) {
	for name, c := range map[string]argonCost{
		"no time": {0, 64 << 10, 1}, "much time": {11, 64 << 10, 1}, "little memory": {1, 1 << 10, 1},
		"all memory": {1, 1 << 30, 1}, "no threads": {1, 64 << 10, 0}, "many threads": {1, 64 << 10, 17},
	} {
		h := testHeader()
		h.Argon = &c
		b, err := seal(h, []byte("k"), []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := split(b); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEncryptedStoreOpensWithItsPassphraseOnly(t *testing.T) {
	dir := t.TempDir()
	asked := 0
	o := Options{Kind: KindEncrypted, CodexHome: filepath.Join(dir, "codex"), StateDir: filepath.Join(dir, "state")}
	with := func(pass string) *Store {
		o := o
		if pass != "" {
			o.Passphrase = func(context.Context) (string, error) { asked++; return pass, nil }
		}
		return storeAt(t, o)
	}
	a := chatgpt("rt-canary", time.Now())
	s := with("correct horse")
	w := mustSave(t, s, a)
	if w.Kind != KindEncrypted {
		t.Fatalf("stored in %+v", w)
	}
	b, err := os.ReadFile(w.Path)
	if err != nil || bytes.Contains(b, []byte("canary")) {
		t.Errorf("its file: %v", err)
	}
	if info, err := os.Stat(w.Path); err != nil || info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		t.Errorf("its mode: %v %v", info.Mode(), err)
	}
	mustSave(t, s, a)
	mustLoad(t, s)
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	if got, _ := mustLoad(t, with("correct horse")); got.id() != a.id() {
		t.Errorf("loaded %v", got)
	}

	wrong := with("canary wrong")
	if _, _, err := wrong.Load(bg(t)); !errors.Is(err, ErrWrongKey) || strings.Contains(err.Error(), "canary") {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, err := wrong.Save(bg(t), chatgpt("rt-2", time.Now())); !errors.Is(err, ErrWrongKey) {
		t.Errorf("saved with a mistyped passphrase: %v", err)
	}
	if got, _ := mustLoad(t, with("correct horse")); got.id() != a.id() {
		t.Errorf("after that, loaded %v", got)
	}
	nobody := with("")
	if _, _, err := nobody.Load(bg(t)); !errors.Is(err, ErrNoKey) {
		t.Errorf("nobody to ask: %v", err)
	}
	if p := places(t, with("correct horse"), KindEncrypted); len(p) != 1 || !errors.Is(p[0].Err, ErrNoKey) || asked != 5 {
		t.Errorf("a listing asked (%d): %+v", asked, p)
	}
	write(t, w.Path, string(b[:len(b)-1]), 0o600)
	if _, _, err := with("correct horse").Load(bg(t)); !errors.Is(err, ErrDamaged) || errors.Is(err, ErrWrongKey) {
		t.Errorf("damaged: %v", err)
	}
	if had, err := nobody.Delete(bg(t)); !had || err != nil || exists(w.Path) {
		t.Errorf("delete without the key: %v %v", had, err)
	}
}

func TestEncryptedStoreWithASystemdCredential(t *testing.T) {
	dir := t.TempDir()
	o := Options{Kind: KindAuto, CodexHome: filepath.Join(dir, "codex"), StateDir: filepath.Join(dir, "state")}
	cred := "CREDENTIALS_DIRECTORY=" + systemdCredential(t, random(48))
	a := chatgpt("rt-1", time.Now())
	w := mustSave(t, storeAt(t, o, cred), a)
	if w.Kind != KindEncrypted || !strings.Contains(w.Fallback, ErrNoKeyring.Error()) {
		t.Errorf("auto stored in %+v", w)
	}
	if got, w := mustLoad(t, storeAt(t, o, cred)); got.id() != a.id() || w.Kind != KindEncrypted || w.Fallback == "" {
		t.Errorf("loaded %v from %+v", got, w)
	}
	for name, env := range map[string]string{
		"another machine's": "CREDENTIALS_DIRECTORY=" + systemdCredential(t, random(48)),
		"too short":         "CREDENTIALS_DIRECTORY=" + systemdCredential(t, random(31)),
		"empty folder":      "CREDENTIALS_DIRECTORY=" + t.TempDir(),
		"outside a service": "X=1",
	} {
		want := ErrNoKey
		if name == "another machine's" {
			want = ErrWrongKey
		}
		if _, _, err := storeAt(t, o, env).Load(bg(t)); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Without its key, auto stores in the file, and finds that again.
	s := storeAt(t, o, "X=1")
	b := chatgpt("rt-2", time.Now().Add(time.Minute))
	if w := mustSave(t, s, b); w.Kind != KindFile {
		t.Errorf("stored in %+v", w)
	}
	if got, _ := mustLoad(t, storeAt(t, o, cred)); got.id() != b.id() {
		t.Errorf("loaded %v", got)
	}
}

func TestEncryptedStoreWithTheKernelsKey(t *testing.T) {
	s := store(t, KindEncrypted)
	a := chatgpt("rt-1", time.Now())
	w, err := s.Save(bg(t), a)
	if errors.Is(err, ErrNoKey) {
		t.Skipf("the kernel keeps no keys for us here: %v", err)
	}
	if err != nil || w.Kind != KindEncrypted {
		t.Fatalf("%+v %v", w, err)
	}
	t.Cleanup(func() { forgetKernelKey(t, s.home) })
	if got, _ := mustLoad(t, storeAt(t, s.o)); got.id() != a.id() {
		t.Errorf("loaded %v", got)
	}
	forgetKernelKey(t, s.home) // a reboot
	if _, _, err := s.Load(bg(t)); !errors.Is(err, ErrNoKey) {
		t.Errorf("after a reboot: %v", err)
	}
	b := chatgpt("rt-2", time.Now())
	mustSave(t, s, b)
	if got, _ := mustLoad(t, storeAt(t, s.o)); got.id() != b.id() {
		t.Errorf("after logging in again: %v", got)
	}

	auto := s.o
	auto.Kind = KindAuto
	auto.CodexHome = filepath.Join(t.TempDir(), "codex")
	if w := mustSave(t, storeAt(t, auto), a); w.Kind != KindFile {
		t.Errorf("auto took a key that ends with a reboot: %+v", w)
	}
}
