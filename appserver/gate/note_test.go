package gate

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"towline/appserver/audit"
	"towline/appserver/protocol"
	"towline/config/osfile"
)

// Commands and a daemon that starts meet at the file: each waits a moment for the
// other, and the chain stays whole.
func TestAuditIsSharedByTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 5 {
				a, err := audit.Open(path, audit.Options{})
				if errors.Is(err, osfile.ErrLocked) {
					continue // others were quicker each time
				}
				if err != nil {
					t.Error(err)
					return
				}
				a.Record("credential.put", principal("ana", protocol.RoleAdmin), slog.Int("n", 10*i+n))
				_ = a.Close()
			}
		})
	}
	wg.Wait()
	if r, err := audit.Verify(path); err != nil || r.Entries < 5 {
		t.Errorf("%d entries, %v", r.Entries, err)
	}
}

// A command of this machine has the daemon write what it did; nobody else writes
// there, and nothing that another kind of entry could be taken for.
func TestCredentialNotes(t *testing.T) {
	r := newRig(t, nil, false)
	admin, op := r.join("ana", protocol.RoleAdmin, false), r.join("op", protocol.RoleOperator, false)
	note := func(event string, facts map[string]string) map[string]any {
		return map[string]any{"event": event, "facts": facts}
	}
	admin.must(protocol.ExtCredentialNote, note("credential.put", map[string]string{"kind": "api-key", "fingerprint": strings.Repeat("f", 1000)}))
	if _, err := op.call(protocol.ExtCredentialNote, note("credential.put", nil)); err == nil || !strings.Contains(err.Error(), `needs the role "admin"`) {
		t.Errorf("an operator: %v", err)
	}
	for name, params := range map[string]any{
		"another kind of entry":   note("ssh.login", nil),
		"only the beginning":      note("credential", nil),
		"a longer name":           note("credential.put\nssh.login", nil),
		"the audit's own member":  note("credential.put", map[string]string{"who": "root"}),
		"its own mark":            note("credential.put", map[string]string{"via": "gate"}),
		"a fact with odd letters": note("credential.put", map[string]string{"a\"b": "c"}),
		"no object":               "credential.put",
	} {
		if _, err := admin.call(protocol.ExtCredentialNote, params); err == nil {
			t.Errorf("%s is written", name)
		}
	}
	r.stop()
	if _, err := audit.Verify(r.audit); err != nil {
		t.Error(err)
	}
	raw, err := os.ReadFile(r.audit)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	if strings.Count(text, `"event":"credential.put"`) != 1 || !strings.Contains(text, `"via":"command","fingerprint":"fff`) || !strings.Contains(text, `"name":"ana"`) || strings.Contains(text, strings.Repeat("f", 300)) {
		t.Errorf("the audit is\n%s", text)
	}
}
