package secret

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The other processes of these tests. Their standard output is for the parent,
// a line at a time.

// hold takes the refresh lock until its input ends.
func hold(s *Store) error {
	unlock, err := s.Lock(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// spend refreshes the login it finds first, unless another did by the time it has
// the lock.
func spend(s *Store) error {
	ctx := context.Background()
	first, _, err := s.Load(ctx)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	unlock, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	was, _, err := s.Load(ctx)
	if err != nil {
		return err
	}
	if was.id() != first.id() {
		return nil // adopted
	}
	res, err := http.Get(os.Getenv("ISSUER") + "?rt=" + was.Tokens.RefreshToken) //nolint:noctx // a test's short life
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	next, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("issuer: %s %w", res.Status, err)
	}
	_, err = s.Replace(ctx, was, chatgpt(string(next), time.Now()))
	return err
}

// refreshForever receives login after login, numbered, and says which one is in
// its journal; with PAUSE set it stops there.
func refreshForever(s *Store) error {
	ctx := context.Background()
	for {
		unlock, err := s.Lock(ctx)
		if err != nil {
			return err
		}
		was, _, err := s.Load(ctx)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(was.Tokens.RefreshToken)
		if err != nil {
			return err
		}
		now := chatgpt(strconv.Itoa(n+1), time.Now())
		if err := s.Journal(ctx, was, now); err != nil {
			return err
		}
		fmt.Println(n + 1)
		if os.Getenv("PAUSE") != "" {
			_, _ = io.Copy(io.Discard, os.Stdin)
		}
		if _, err := s.Save(ctx, now); err != nil {
			return err
		}
		unlock()
	}
}

// running is another process with its output.
type running struct {
	cmd   *exec.Cmd
	in    io.Closer
	lines *bufio.Scanner
	errs  *strings.Builder
}

func start(t *testing.T, cmd *exec.Cmd) *running {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{cmd: cmd, in: in, lines: bufio.NewScanner(out), errs: &strings.Builder{}}
	cmd.Stderr = r.errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return r
}

func (r *running) line(t *testing.T) string {
	t.Helper()
	if !r.lines.Scan() {
		_ = r.cmd.Wait()
		t.Fatalf("the other process ended: %s", r.errs)
	}
	return r.lines.Text()
}

// kill ends it with SIGKILL and gives the last line it said.
func (r *running) kill() (last string) {
	_ = r.cmd.Process.Kill()
	for r.lines.Scan() {
		last = r.lines.Text()
	}
	_ = r.cmd.Wait()
	return last
}

func TestTheRefreshLockIsOneProcesss(t *testing.T) {
	s := store(t, KindFile)
	p := start(t, other(t, s, "hold"))
	p.line(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(ctx); !errors.Is(err, ErrBusy) {
		t.Fatalf("while another has it: %v", err)
	}
	p.kill() // no lock outlives its process
	unlock, err := s.Lock(bg(t))
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	unlock()
	again, err := s.Lock(bg(t))
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestTheRefreshLockIsOneStores(t *testing.T) {
	for _, kind := range []Kind{KindFile, KindEphemeral} {
		s := store(t, kind)
		unlock, err := s.Lock(bg(t))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := s.Lock(ctx); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: %v", kind, err)
		}
		cancel()
		got := make(chan func(), 1)
		go func() {
			u, err := s.Lock(bg(t))
			if err != nil {
				t.Error(err)
				u = func() {}
			}
			got <- u
		}()
		unlock()
		(<-got)()
		if kind == KindEphemeral && exists(s.o.CodexHome) {
			t.Error("something was written")
		}
	}
}

func TestProcessesRefreshingAtOnceSpendATokenOnce(t *testing.T) {
	s := store(t, KindFile)
	mustSave(t, s, chatgpt("rt-1", time.Now()))
	var mu sync.Mutex
	spent := map[string]int{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rt := r.FormValue("rt")
		mu.Lock()
		defer mu.Unlock()
		if spent[rt]++; spent[rt] > 1 {
			http.Error(w, "refresh_token_reused", http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, rt+"-next")
	}))
	defer srv.Close()
	var all []*running
	for range 5 {
		all = append(all, start(t, other(t, s, "spend", "ISSUER="+srv.URL)))
	}
	for _, p := range all {
		p.line(t)
	}
	for _, p := range all {
		_ = p.in.Close() // go
	}
	for _, p := range all {
		if p.lines.Scan(); p.cmd.Wait() != nil {
			t.Errorf("a refresher failed: %s", p.errs)
		}
	}
	if len(spent) != 1 || spent["rt-1"] != 1 {
		t.Errorf("spent: %v", spent)
	}
	if a, _ := mustLoad(t, s); a.Tokens.RefreshToken != "rt-1-next" {
		t.Errorf("stored: %s", a.Tokens.RefreshToken)
	}
}

// survives kills a refresher in the middle of its work and asks the store what it
// still has.
func survives(t *testing.T, s *Store, kills int, env ...string) {
	t.Helper()
	mustSave(t, s, chatgpt("0", time.Now()))
	for i := range kills {
		before, _ := mustLoad(t, s)
		paused := i == 0 // at the worst moment for certain, then at random ones
		if paused {
			env = append(env, "PAUSE=1")
		}
		p := start(t, other(t, s, "refresh", env...))
		journaled := p.line(t)
		if paused {
			env = env[:len(env)-1]
			if !exists(s.journalPath()) {
				t.Fatal("no journal")
			}
		} else {
			time.Sleep(time.Duration(rand.IntN(20000)) * time.Microsecond) // the random moment
		}
		if last := p.kill(); last != "" {
			journaled = last
		}
		after, _ := mustLoad(t, s)
		want, err := strconv.Atoi(journaled)
		if err != nil {
			t.Fatalf("%q: %s", journaled, p.errs)
		}
		got, err := strconv.Atoi(after.Tokens.RefreshToken)
		if err != nil || got < want {
			t.Fatalf("login %d was journaled, and %q is what is left (%s before)", want, after.Tokens.RefreshToken, before.Tokens.RefreshToken)
		}
		if exists(s.journalPath()) {
			t.Error("the journal stays after it was adopted")
		}
	}
}

func TestAKillNeverLosesALogin(t *testing.T) {
	t.Run("file", func(t *testing.T) { survives(t, store(t, KindFile), 15) })
	t.Run("encrypted", func(t *testing.T) {
		env := "CREDENTIALS_DIRECTORY=" + systemdCredential(t, random(keySize))
		survives(t, store(t, KindEncrypted, env), 10, env)
	})
}

func TestReadersSeeWholeFilesWhileOthersWrite(t *testing.T) {
	s := store(t, KindFile)
	mustSave(t, s, chatgpt("0", time.Now()))
	var all []*running
	for range 2 {
		p := start(t, other(t, s, "refresh"))
		p.line(t)
		all = append(all, p)
	}
	seen := -1
	for range 300 {
		b, err := os.ReadFile(s.file.path()) // as Codex does: without a lock
		if err != nil {
			t.Fatal(err)
		}
		a, err := Parse(b)
		if err != nil {
			t.Fatalf("torn: %v", err)
		}
		n, err := strconv.Atoi(a.Tokens.RefreshToken)
		if err != nil || n < seen {
			t.Fatalf("login %q after %d", a.Tokens.RefreshToken, seen)
		}
		seen = n
	}
	for _, p := range all {
		p.kill()
	}
	if seen < 1 {
		t.Error("nobody wrote")
	}
}

func TestAJournalOfTheWrongMomentIsDropped(t *testing.T) {
	for name, tc := range map[string]struct {
		stored Auth // since the journal was written
		want   string
	}{
		"stored, not removed": {chatgpt("2", time.Unix(1, 0)), "2"},
		"another login":       {chatgpt("other", time.Unix(1, 0)), "other"},
		"logged out":          {Auth{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := store(t, KindFile)
			was, now := chatgpt("1", time.Unix(1, 0)), chatgpt("2", time.Unix(1, 0))
			mustSave(t, s, was)
			if err := s.Journal(bg(t), was, now); err != nil {
				t.Fatal(err)
			}
			if tc.stored.Empty() {
				if err := os.Remove(s.file.path()); err != nil { // as Codex does it
					t.Fatal(err)
				}
			} else if err := s.file.save(bg(t), tc.stored); err != nil {
				t.Fatal(err)
			}
			a, _, err := s.Load(bg(t))
			if tc.want == "" && !errors.Is(err, ErrNone) || tc.want != "" && (err != nil || a.Tokens.RefreshToken != tc.want) {
				t.Errorf("loaded %v %v", a, err)
			}
			if exists(s.journalPath()) {
				t.Error("the journal stays")
			}
		})
	}
}

func TestATornJournalIsDropped(t *testing.T) {
	s := store(t, KindFile)
	was, now := chatgpt("1", time.Unix(1, 0)), chatgpt("2", time.Unix(1, 0))
	mustSave(t, s, was)
	if err := s.Journal(bg(t), was, now); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(s.journalPath())
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(whole); n += 1 + len(whole)/60 {
		write(t, s.journalPath(), string(whole[:n]), 0o600)
		if a, _ := mustLoad(t, s); a.Tokens.RefreshToken != "1" {
			t.Fatalf("cut at %d: loaded %s", n, a.Tokens.RefreshToken)
		}
		if exists(s.journalPath()) {
			t.Fatalf("cut at %d: it stays", n)
		}
	}
	write(t, s.journalPath(), string(whole), 0o600)
	if a, _ := mustLoad(t, s); a.Tokens.RefreshToken != "2" {
		t.Errorf("whole: loaded %s", a.Tokens.RefreshToken)
	}
}

// TestALiveRefreshIsNotMeddledWith: a journal whose writer is alive and holds the
// lock is his.
func TestALiveRefreshIsNotMeddledWith(t *testing.T) {
	s := store(t, KindFile)
	mustSave(t, s, chatgpt("0", time.Now()))
	p := start(t, other(t, s, "refresh", "PAUSE=1"))
	p.line(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if a, _, err := s.Load(ctx); err == nil {
		t.Errorf("loaded %v, past one who refreshes", a)
	}
	if !exists(s.journalPath()) {
		t.Error("his journal is gone")
	}
	p.kill()
	if a, _ := mustLoad(t, s); a.Tokens.RefreshToken != "1" {
		t.Errorf("loaded %s", a.Tokens.RefreshToken)
	}
}

func TestReplaceRespectsWhatCameBetween(t *testing.T) {
	s := store(t, KindFile)
	was, now := chatgpt("1", time.Now()), chatgpt("2", time.Now())
	mustSave(t, s, was)
	if w, err := s.Replace(bg(t), was, now); err != nil || w.Kind != KindFile {
		t.Fatalf("%+v %v", w, err)
	}
	mustSave(t, s, Auth{Mode: ModeAPIKey, APIKey: "sk-1"}) // a new login meanwhile
	if _, err := s.Replace(bg(t), now, chatgpt("3", time.Now())); !errors.Is(err, ErrChanged) {
		t.Errorf("after another login: %v", err)
	}
	if a, _ := mustLoad(t, s); a.APIKey != "sk-1" {
		t.Errorf("it is %v now", a)
	}
	if _, err := s.Delete(bg(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Replace(bg(t), now, chatgpt("3", time.Now())); !errors.Is(err, ErrChanged) {
		t.Errorf("after a logout: %v", err)
	}
	if _, _, err := s.Load(bg(t)); !errors.Is(err, ErrNone) || exists(s.journalPath()) {
		t.Errorf("after a logout: %v", err)
	}
	if _, err := s.Replace(bg(t), Auth{}, now); err != nil {
		t.Errorf("a first login: %v", err)
	}
}

func TestManyGoroutinesShareAStore(t *testing.T) {
	s := store(t, KindFile)
	mustSave(t, s, chatgpt("x", time.Now()))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if _, err := s.Save(bg(t), chatgpt("x", time.Now())); err != nil {
					t.Error(err)
				}
				if a, _, err := s.Load(bg(t)); err != nil || a.Tokens.RefreshToken != "x" {
					t.Error(a, err)
				}
				s.Places(bg(t))
			}
		})
	}
	wg.Wait()
}

func TestTheJournalHasItsKeyWhereTheLoginHasIts(t *testing.T) {
	s := store(t, KindEncrypted, "CREDENTIALS_DIRECTORY="+systemdCredential(t, random(keySize)))
	was, now := chatgpt("1", time.Now()), chatgpt("rt-canary", time.Now())
	mustSave(t, s, was)
	if err := s.Journal(bg(t), was, now); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.journalPath())
	if err != nil || strings.Contains(string(b), "canary") || !strings.HasPrefix(string(b), sealMagic) {
		t.Errorf("the journal: %v", err)
	}
	var h header
	if err := json.Unmarshal([]byte(strings.Split(string(b), "\n")[1]), &h); err != nil || h.Key != "systemd" || h.Purpose != forJournal {
		t.Errorf("its header: %+v %v", h, err)
	}
	if p := places(t, s, KindJournal); len(p) != 1 || p[0].Auth.id() != now.id() || p[0].Plain {
		t.Errorf("places: %+v", p)
	}
	if a, _ := mustLoad(t, s); a.id() != now.id() {
		t.Errorf("loaded %v", a)
	}
}
