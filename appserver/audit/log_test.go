package audit

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

var ana = access.Principal{Kind: access.KindKey, ID: "SHA256:x", Name: "ana", Role: protocol.RoleAdmin}

func auditFile(t *testing.T, entries int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		a.Record("event", ana, slog.Int("n", i), slog.String("text", "a \"quoted\" \n line"))
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAuditChainBreaksWhereItIsTouched(t *testing.T) {
	for name, tc := range map[string]struct {
		touch func(lines []string) []string
		want  string
	}{
		"untouched": {func(l []string) []string { return l }, ""},
		"changed": {func(l []string) []string {
			l[2] = strings.Replace(l[2], `"n":2`, `"n":9`, 1)
			return l
		}, "line 3 "},
		"removed":     {func(l []string) []string { return append(l[:1:1], l[2:]...) }, "line 2 "},
		"swapped":     {func(l []string) []string { l[1], l[2] = l[2], l[1]; return l }, "line 2 "},
		"repeated":    {func(l []string) []string { return append(l[:2:2], l[1:]...) }, "line 3 "},
		"first gone":  {func(l []string) []string { return l[1:] }, "entries before 2 are missing"},
		"junk inside": {func(l []string) []string { return append(append(l[:2:2], "junk\n"), l[2:]...) }, "line 3 "},
		"junk at end": {func(l []string) []string { return append(l, "junk\n") }, "line 6 "},
		"torn":        {func(l []string) []string { l[4] = l[4][:20]; return l }, "line 5 is incomplete"},
	} {
		t.Run(name, func(t *testing.T) {
			path := auditFile(t, 5)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := tc.touch(strings.SplitAfter(strings.TrimSuffix(string(raw), "\n"), "\n"))
			if name != "torn" && !strings.HasSuffix(lines[len(lines)-1], "\n") {
				lines[len(lines)-1] += "\n"
			}
			for i := range lines[:len(lines)-1] {
				lines[i] = strings.TrimSuffix(lines[i], "\n") + "\n"
			}
			if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := Verify(path)
			n := r.Entries
			switch {
			case tc.want == "" && (err != nil || n != 5):
				t.Errorf("%d entries, %v", n, err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

// Killed at any byte of the last line, the next start goes on and says so.
func TestAuditSurvivesATear(t *testing.T) {
	whole, err := os.ReadFile(auditFile(t, 3))
	if err != nil {
		t.Fatal(err)
	}
	two := strings.Index(string(whole), "\n") + 1
	two += strings.Index(string(whole[two:]), "\n") + 1
	for cut := two; cut <= len(whole); cut++ {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := Open(path, Options{})
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		a.Record("after", ana)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		want := int64(5) // two whole, the note of the tear, that audit.head is missing, the new one; or three whole
		if cut == two {
			want = 4
		}
		if r, err := Verify(path); err != nil || r.Entries != want {
			t.Fatalf("cut at %d: %d entries, %v, want %d", cut, r.Entries, err, want)
		}
		// A tear that is noted is part of the record: it cannot be changed either.
		if raw, _ := os.ReadFile(path); cut > two+1 && cut < len(whole)-1 {
			raw[two] = '#'
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Verify(path); err == nil {
				t.Fatalf("cut at %d: the fragment was changed and nobody noticed", cut)
			}
		}
	}
}

func TestAuditRefuses(t *testing.T) {
	path := auditFile(t, 1)
	a, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second writer: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("a file others may read: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(link, Options{}); err == nil {
		t.Error("a link was followed")
	}
	var none *Log
	none.Record("nothing", ana)
	if err := none.Close(); err != nil {
		t.Error(err)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte("{\"seq\":1}\n"))
	f.Add(fmt.Appendf(nil, `{"seq":1,"at":"","event":"torn","prev":"%s","hash":"%s"}`+"\n", zeroHash, zeroHash))
	f.Fuzz(func(t *testing.T, data []byte) {
		v := &verifier{hash: zeroHash}
		err := v.read(bytes.NewReader(data), true)
		if err == nil && v.Entries == 0 && len(data) > 0 {
			t.Errorf("%q holds and has no entries", data)
		}
	})
}
