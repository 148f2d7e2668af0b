package custody

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/config"
	"towline/config/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shelf is a Host that keeps things in memory; the real one is tested with an
// issuer in cmd/towline.
type shelf struct {
	puts    []string
	adopted *secret.Auth
	refuse  error
	verdict Verdict
}

func (s *shelf) Put(_ context.Context, kind Kind, value secret.String, replace bool) (Stored, error) {
	if s.refuse != nil {
		return Stored{}, s.refuse
	}
	s.puts = append(s.puts, fmt.Sprint(kind, " ", value.Reveal(), " ", replace))
	return Stored{Mode: "apikey", Store: "file", Path: "/x/auth.json", Fingerprint: "f-" + value.Reveal()[:2]}, nil
}

func (s *shelf) Consider(context.Context, secret.Auth, bool) error { return s.refuse }

func (s *shelf) Adopt(_ context.Context, a secret.Auth, _ bool) error { s.adopted = &a; return nil }

func (s *shelf) Prove(context.Context, Mark) (Stored, Verdict, error) {
	return Stored{Store: "file"}, s.verdict, nil
}

func (s *shelf) Drop(context.Context, Mark) error { s.adopted = nil; return nil }

// served is a receiver on the other end of what it returns, and how it ended.
func served(t *testing.T, h Host, dir string) (io.ReadWriteCloser, <-chan error) {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		err := Serve(context.Background(), far, h, Records{Dir: dir}, About{Version: "1", Name: "h"})
		_ = far.Close()
		done <- err
	}()
	t.Cleanup(func() { _ = near.Close() })
	return near, done
}

func TestPut(t *testing.T) {
	h := &shelf{}
	rw, done := served(t, h, t.TempDir())
	st, err := Put(t.Context(), rw, "dev", KindAPIKey, "sk-key", "f-sk", true)
	must(t, err)
	must(t, <-done)
	if st.Store != "file" || len(h.puts) != 1 || h.puts[0] != "api-key sk-key true" {
		t.Errorf("%+v, %q", st, h.puts)
	}

	t.Run("another fingerprint", func(t *testing.T) {
		rw, done := served(t, &shelf{}, t.TempDir())
		_, err := Put(t.Context(), rw, "dev", KindAPIKey, "sk-key", "f-xx", false)
		if err == nil || !strings.Contains(err.Error(), "something else than was sent") {
			t.Errorf("%v", err)
		}
		must(t, <-done)
	})
	t.Run("a refusal keeps its stage, hints and status, and no escape sequence", func(t *testing.T) {
		rw, done := served(t, &shelf{refuse: &config.Problem{
			Stage: "policy", Err: errors.New("not\x1b[31m here\nset by /etc/x"), Hints: []string{"ask\x07 root"}, Exit: config.ExitDenied,
		}}, t.TempDir())
		_, err := Put(t.Context(), rw, "dev", KindAPIKey, "sk-key", "f", false)
		var p *config.Problem
		if !errors.As(err, &p) || p.Stage != "policy" || p.Exit != config.ExitDenied || err.Error() != "policy: dev: not[31m here set by /etc/x" {
			t.Errorf("%q", err)
		}
		if hints := config.Hints(err); len(hints) != 1 || hints[0] != "on dev: ask root" {
			t.Errorf("%q", hints)
		}
		if <-done == nil {
			t.Error("the receiver ended well")
		}
	})
}

const ready = mark + `{"event":"ready","v":1}` + "\n"

func TestPutToWhatIsNoReceiver(t *testing.T) {
	for name, tc := range map[string]struct{ says, want string }{
		"nothing":            {"", "does not know how to receive"},
		"only rc noise":      {strings.Repeat("Welcome!\n", 100), "does not know how to receive"},
		"noise without end":  {strings.Repeat("x", maxNoise+maxLine), "prints without end"},
		"another version":    {mark + `{"event":"ready","v":2}` + "\n", "another version"},
		"no JSON":            {mark + "ready\n", "does not speak this protocol"},
		"an odd answer":      {"motd\n> " + ready + mark + `{"event":"held"}` + "\n", `answered with "held"`},
		"no answer":          {ready, "the link was cut"},
		"stored, of nothing": {ready + mark + `{"event":"stored"}` + "\n", "something else"},
		"failed, of nothing": {ready + mark + `{"event":"failed"}` + "\n", "does not say why"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Put(t.Context(), stdio{strings.NewReader(tc.says), io.Discard}, "dev", KindAPIKey, "sk-secret", "f", false)
			var p *config.Problem
			if !errors.As(err, &p) || p.Stage == "" || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v", err)
			}
			if strings.Contains(fmt.Sprint(err, config.Hints(err)), "sk-secret") {
				t.Errorf("the secret is in %v", err)
			}
		})
	}
}

func order(m message, payload []byte, damage func(*message)) []byte {
	sum := sha256.Sum256(payload)
	m.Bytes, m.SHA256 = len(payload), hex.EncodeToString(sum[:])
	if damage != nil {
		damage(&m)
	}
	head, _ := json.Marshal(m)
	return append(append(append([]byte(mark), head...), '\n'), payload...)
}

// tell gives a receiver raw bytes and their end, and returns what it says.
func tell(t *testing.T, h Host, raw []byte) (said string, err error) {
	t.Helper()
	var out bytes.Buffer
	err = Serve(t.Context(), stdio{bytes.NewReader(raw), &out}, h, Records{Dir: t.TempDir()}, About{Version: "1", Name: "h"})
	return out.String(), err
}

func TestReceiverStoresAllOrNothing(t *testing.T) {
	key := []byte("sk-0123456789")
	whole := order(message{Op: "put", Kind: KindAPIKey}, key, nil)
	for n := range whole {
		h := &shelf{}
		if _, err := tell(t, h, whole[:n]); err == nil || len(h.puts) != 0 {
			t.Fatalf("after %d of %d bytes: %v, %q", n, len(whole), err, h.puts)
		}
	}
	for name, damage := range map[string]func(*message){
		"another checksum": func(m *message) { m.SHA256 = strings.Repeat("0", 64) },
		"no checksum":      func(m *message) { m.SHA256 = "" },
		"a short checksum": func(m *message) { m.SHA256 = m.SHA256[:8] },
		"fewer bytes":      func(m *message) { m.Bytes-- },
		"no bytes":         func(m *message) { m.Bytes = 0 },
		"too many bytes":   func(m *message) { m.Bytes = MaxPayload + 1 },
		"negative":         func(m *message) { m.Bytes = -1 },
	} {
		h := &shelf{}
		said, err := tell(t, h, order(message{Op: "put", Kind: KindAPIKey}, key, damage))
		if err == nil || len(h.puts) != 0 || strings.Contains(said, string(key)) {
			t.Errorf("%s: %v, %q, %q", name, err, h.puts, said)
		}
	}
}

func chatgpt() secret.Auth {
	return secret.Auth{Mode: secret.ModeChatGPT, Tokens: &secret.Tokens{IDToken: "i", AccessToken: "a", RefreshToken: "rt-secret", AccountID: "acct"}}
}

func TestReceiverHoldsALoginOnlyAfterCommit(t *testing.T) {
	id := strings.Repeat("ab", 16)
	offer := order(message{Op: "move", ID: id}, chatgpt().Compact(), nil)
	for name, then := range map[string]string{
		"nothing":            "",
		"noise":              "yes\n",
		"another id":         mark + `{"op":"commit","id":"` + strings.Repeat("cd", 16) + `"}` + "\n",
		"another order":      mark + `{"op":"resolve","id":"` + id + `"}` + "\n",
		"half of a commit":   mark + `{"op":"commit","id":"` + id,
		"commit, no newline": mark + `{"op":"commit","id":"` + id + `"}`,
	} {
		h := &shelf{verdict: Works}
		if _, err := tell(t, h, append(bytes.Clone(offer), then...)); err == nil || h.adopted != nil {
			t.Errorf("%s: %v, adopted %v", name, err, h.adopted != nil)
		}
	}
	h := &shelf{verdict: Works}
	said, err := tell(t, h, append(bytes.Clone(offer), mark+`{"op":"commit","id":"`+id+`"}`+"\n"...))
	if err != nil || h.adopted == nil || !strings.Contains(said, `"outcome":"proved"`) {
		t.Errorf("%v, %q", err, said)
	}
	if strings.Contains(said, "rt-secret") {
		t.Error("it says the secret")
	}
	for name, raw := range map[string][]byte{
		"an id that is a path": order(message{Op: "move", ID: "../../../../../../etc/cron.d/x"}, chatgpt().Compact(), nil),
		"an id in capitals":    order(message{Op: "move", ID: strings.ToUpper(id)}, chatgpt().Compact(), nil),
		"a key":                order(message{Op: "move", ID: id}, secret.Auth{Mode: secret.ModeAPIKey, APIKey: "sk"}.Compact(), nil),
		"no credential":        order(message{Op: "move", ID: id}, []byte("{"), nil),
		"no refresh token":     order(message{Op: "move", ID: id}, []byte(`{"tokens":{"id_token":"","access_token":"","refresh_token":""}}`), nil),
		"resolve of a path":    []byte(mark + `{"op":"resolve","id":"../x"}` + "\n"),
		"an unknown order":     []byte(mark + `{"op":"format"}` + "\n"),
	} {
		h := &shelf{verdict: Works}
		if _, err := tell(t, h, raw); err == nil || h.adopted != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRecordsRememberAndForget(t *testing.T) {
	now := time.Now()
	r := Records{Dir: filepath.Join(t.TempDir(), "moves"), Now: func() time.Time { return now }}
	h := &shelf{verdict: Works}
	id := func(n int) string { return fmt.Sprintf("%032x", n) }
	for i := range 3 {
		if o, _, err := r.adopt(t.Context(), h, id(i), chatgpt(), false); o != Proved || err != nil {
			t.Fatal(o, err)
		}
	}
	if o, _, _ := r.resolve(t.Context(), h, id(1)); o != Proved {
		t.Errorf("asked again: %s", o)
	}
	if o, _, _ := r.resolve(t.Context(), h, id(9)); o != Returned {
		t.Errorf("never heard of: %s", o)
	}
	if o, _, _ := r.adopt(t.Context(), h, id(9), chatgpt(), false); o != Returned {
		t.Errorf("a commit after the question: %s", o)
	}
	h.verdict = Doubtful
	if o, _, _ := r.adopt(t.Context(), h, id(10), chatgpt(), false); o != Unknown {
		t.Errorf("doubtful: %s", o)
	}
	now = now.Add(keepRecords + time.Hour)
	h.verdict = Works
	if o, _, err := r.adopt(t.Context(), h, id(11), chatgpt(), false); o != Proved || err != nil {
		t.Fatal(o, err)
	}
	if _, err := os.Stat(r.file(id(0))); err == nil {
		t.Error("an old record is kept")
	}
	all, err := os.ReadFile(r.file(id(11)))
	must(t, err)
	if bytes.Contains(all, []byte("rt-secret")) {
		t.Error("a record holds a secret")
	}
	if info, err := os.Stat(r.file(id(11))); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	must(t, os.WriteFile(r.file(id(11)), []byte("{"), 0o600))
	if o, _, err := r.resolve(t.Context(), h, id(11)); o != Unknown || err == nil {
		t.Errorf("a damaged record: %s, %v", o, err)
	}
	if o, _, _ := r.resolve(t.Context(), h, id(10)); o != Proved {
		t.Errorf("one that something depends on was dropped: %s", o)
	}
	must(t, os.Chmod(r.file(id(10)), 0o644))
	if o, _, err := r.resolve(t.Context(), h, id(10)); o != Unknown || err == nil {
		t.Errorf("a record others can read: %s, %v", o, err)
	}
}

func TestLedgerIsPrivateAndChecked(t *testing.T) {
	l := Ledger{Path: filepath.Join(t.TempDir(), "state", "moving.json")}
	if m, err := l.Pending(); m != nil || err != nil {
		t.Fatal(m, err)
	}
	m := newMove("dev", chatgpt(), time.Now())
	must(t, l.write(m, StepCommitted))
	info, err := os.Stat(l.Path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	got, err := l.Pending()
	must(t, err)
	if got.ID != m.ID || got.Host != "dev" || got.Step != StepCommitted || got.Fingerprint != m.Fingerprint {
		t.Errorf("%v", got)
	}
	raw, err := os.ReadFile(l.Path)
	must(t, err)
	if text := fmt.Sprintf("%s %v %+v %s", raw, m, *m, m); strings.Contains(text, "rt-secret") {
		t.Errorf("it holds or prints its secret: %s", text)
	}
	release, err := l.hold()
	must(t, err)
	if _, err := l.hold(); err == nil || len(config.Hints(err)) == 0 {
		t.Errorf("two hold it: %v", err)
	}
	release()
	for name, text := range map[string]string{"no JSON": "{", "no id": `{"id":"x","host":"dev"}`, "an id that is a path": `{"id":"../../x"}`} {
		must(t, os.WriteFile(l.Path, []byte(text), 0o600))
		if _, err := l.Pending(); err == nil || len(config.Hints(err)) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, os.Chmod(l.Path, 0o640))
	if _, err := l.Pending(); err == nil {
		t.Error("one that others can read is read")
	}
	l.Aside = &nowhere{}
	must(t, l.close(t.Context()))
	if m, err := l.Pending(); m != nil || err != nil {
		t.Error(m, err)
	}
	must(t, os.Symlink("/etc/passwd", l.Path))
	if _, err := l.Pending(); err == nil {
		t.Error("a link is followed")
	}
}

// nowhere has nothing aside.
type nowhere struct{}

func (*nowhere) Save(context.Context, secret.Auth) (secret.Where, error) {
	return secret.Where{}, errors.New("no room")
}

func (*nowhere) Load(context.Context) (secret.Auth, secret.Where, error) {
	return secret.Auth{}, secret.Where{}, secret.ErrNone
}

func (*nowhere) Delete(context.Context) (bool, error) { return false, nil }

// Whatever comes, a receiver answers in its protocol, keeps nothing that is not
// whole, and ends.
func FuzzServe(f *testing.F) {
	f.Add(order(message{Op: "put", Kind: KindAPIKey}, []byte("sk-1"), nil))
	f.Add(append(order(message{Op: "move", ID: strings.Repeat("0", 32)}, chatgpt().Compact(), nil), mark+`{"op":"commit","id":"00000000000000000000000000000000"}`+"\n"...))
	f.Add([]byte(mark + `{"op":"resolve","id":"00000000000000000000000000000000"}` + "\n"))
	f.Add([]byte("hello\n" + mark + "\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h := &shelf{verdict: Works}
		var out bytes.Buffer
		_ = Serve(t.Context(), stdio{bytes.NewReader(raw), &out}, h, Records{Dir: t.TempDir()}, About{})
		for line := range strings.SplitSeq(strings.TrimSuffix(out.String(), "\n"), "\n") {
			if !strings.HasPrefix(line, mark) || !json.Valid([]byte(line[len(mark):])) {
				t.Fatalf("it said %q", line)
			}
		}
	})
}

// FuzzPut is the other end.
func FuzzPut(f *testing.F) {
	f.Add([]byte(mark + `{"event":"ready","v":1}` + "\n" + mark + `{"event":"stored","stored":{"fingerprint":"f"}}` + "\n"))
	f.Add([]byte("x" + mark + `{"event":"ready","v":1}` + "\n" + mark + `{"event":"failed","fault":{"error":"\u001b[2J","hints":["a"]}}` + "\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		st, err := Put(t.Context(), stdio{bytes.NewReader(raw), io.Discard}, "dev", KindAPIKey, "sk-secret", "f", false)
		if err == nil && st.Fingerprint != "f" {
			t.Fatalf("%+v", st)
		}
		if strings.ContainsRune(fmt.Sprint(err, st, config.Hints(err)), 0x1b) {
			t.Fatalf("%q", err)
		}
	})
}

type stdio struct {
	io.Reader
	io.Writer
}

func (stdio) Close() error { return nil }
