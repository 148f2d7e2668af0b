package integration

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"towline/appserver/audit"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/integration/peer"
)

// check holds the daemon to what the one before has said; with all, to what all
// have. The chain of its audit is checked where it is asked for.
func (m *mortal) check(chain, all bool) {
	m.comesBack()
	ctx, cancel := context.WithTimeout(m.Context(), peer.Patience)
	defer cancel()
	s, err := transport.Dial(ctx, "unix://"+daemonSocket(m.h))
	if err != nil {
		m.Fatal(err)
	}
	c, err := m.join(ctx, s)
	if err != nil {
		m.Fatal(err)
	}
	defer c.leave()
	for id := range m.work {
		if all || m.fresh.threads[id] {
			m.checkThread(ctx, c, id)
		}
	}
	for id, k := range m.tokens {
		if all || m.fresh.tokens[id] {
			m.checkToken(ctx, id, k)
		}
	}
	if !chain {
		return
	}
	if report, err := audit.Verify(m.audit()); err != nil {
		m.Errorf("the audit: %v", err)
	} else {
		m.marks[report.Last] = report.Hash
	}
}

// checkThread holds a thread, and its approvals, to what was said of it.
func (m *mortal) checkThread(ctx context.Context, c *mourner, id protocol.ThreadID) {
	var got struct {
		Thread struct {
			Turns []struct {
				ID, Status string
				Items      []json.RawMessage
			}
		}
	}
	if err := c.Call(ctx, "thread/read", map[string]any{"threadId": id, "includeTurns": true}, &got); err != nil {
		m.Errorf("an acknowledged thread: %v", err)
		return
	}
	items, turns := make(map[string]json.RawMessage), make(map[string]string)
	for _, turn := range got.Thread.Turns {
		turns[turn.ID] = turn.Status
		for _, item := range turn.Items {
			items[protocol.StringField(item, "id")] = item
		}
		if turn.Status == protocol.TurnInProgress {
			m.Errorf("nobody works on turn %s, and it is in progress", turn.ID)
		}
	}
	w := m.work[id]
	for _, turn := range w.begun {
		if turns[turn] == "" {
			m.Errorf("turn %s was acknowledged, and is not there", turn)
		}
	}
	for turn, status := range w.ended {
		if turns[turn] != status {
			m.Errorf("turn %s had ended as %q, and is %q", turn, status, turns[turn])
		}
	}
	for item, want := range w.items {
		if diff := cmp.Diff(plain(m, want), plain(m, items[item])); diff != "" {
			m.Errorf("item %s as it was told (-) and is now (+):\n%s", item, diff)
		}
	}
	var list struct{ Data []protocol.Approval }
	if err := c.Call(ctx, protocol.ExtApprovalList, map[string]any{"threadId": id}, &list); err != nil {
		m.Error(err)
	}
	for _, a := range list.Data {
		m.listed[a.ID] = true
		want := m.answers[a.ID]
		switch {
		case a.State == protocol.ApprovalOpen:
			m.Errorf("approval %s is open, and nobody waits for it", a.ID)
		case want != "" && (a.State != protocol.ApprovalAnswered || protocol.StringField(a.Result, "decision") != want):
			m.Errorf("approval %s was answered with %s, and is %s %s", a.ID, want, a.State, a.Result)
		case a.State == protocol.ApprovalAnswered && want == "":
			m.answers[a.ID] = protocol.StringField(a.Result, "decision") // whoever answered never heard so
		}
	}
}

// plain is JSON as far as it means something.
func plain(t testing.TB, raw json.RawMessage) (v any) {
	t.Helper()
	if len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Errorf("%s: %v", raw, err)
	}
	return v
}

// checkToken holds a token to what was said of it, by trying it.
func (m *mortal) checkToken(ctx context.Context, id string, k *minted) {
	if k.unsure {
		return // it counts, or it does not
	}
	if in, err := m.admits(ctx, k.secret); err != nil || in == k.revoked {
		m.Errorf("token %s, revoked: %v, lets in: %v, %v", id, k.revoked, in, err)
	}
	if k.old == "" {
		return
	}
	if in, err := m.admits(ctx, k.old); err != nil || in {
		m.Errorf("the secret that token %s had lets in: %v, %v", id, in, err)
	}
}

func (m *mortal) admits(ctx context.Context, secret string) (bool, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(m.h.WS(), "ws://"))
	if err != nil {
		return false, err
	}
	s, err := rpc.DialWebSocket(ctx, c, rpc.WebSocketOptions{Header: http.Header{"Authorization": {"Bearer " + secret}}})
	var no *rpc.HandshakeError
	if errors.As(err, &no) && (no.Status == http.StatusUnauthorized || no.Status == http.StatusTooManyRequests) {
		return false, nil
	}
	if err == nil {
		_ = s.Close(nil)
	}
	return err == nil, err
}

// told holds the audit to all that was acknowledged, and the commands that ran to
// what was decided.
func (m *mortal) told() {
	said := make(map[promise]int)
	err := audit.Read(m.audit(), audit.Filter{}, func(e audit.Entry) error {
		if hash := m.marks[e.Seq]; hash != "" && !strings.HasSuffix(string(e.Raw), hash+`"}`) {
			m.Errorf("entry %d is not what it was", e.Seq)
		}
		delete(m.marks, e.Seq)
		about := e.Approval
		if strings.HasPrefix(e.Event, "token.") {
			var p struct{ Token string }
			if err := json.Unmarshal(e.Raw, &p); err != nil {
				return err
			}
			about = p.Token
		}
		said[promise{e.Event, about, e.Decision}]++
		return nil
	})
	if err != nil {
		m.Fatal(err)
	}
	if len(m.marks) > 0 {
		m.Errorf("entries that were there are not: %v", m.marks)
	}
	for _, p := range m.promised {
		if said[p] != 1 {
			m.Errorf("the audit says %d times: %+v", said[p], p)
		}
	}
	raw, err := os.ReadFile(filepath.Join(m.h.Project, "ledger.txt"))
	if err != nil {
		m.Error(err)
	}
	ran := strings.Fields(string(raw))
	for id, command := range m.commands {
		if !m.listed[id] && m.answers[id] != "" {
			m.Errorf("approval %s was answered, and is not there", id)
		}
		_, word, _ := strings.Cut(command, "echo ")
		word, _, _ = strings.Cut(word, " ")
		n := 0
		for _, r := range ran {
			if r == word {
				n++
			}
		}
		// Nothing is done on a word that is not on record.
		if n > 0 && said[promise{"approval answered", id, protocol.DecisionAccept}] != 1 {
			m.Errorf("the audit does not say that %q was approved, and it ran", command)
		}
		if n > 1 || n == 1 && m.answers[id] != protocol.DecisionAccept {
			m.Errorf("%q ran %d times, and the answer was %q", command, n, m.answers[id])
		}
	}
	items := 0
	for _, w := range m.work {
		items += len(w.items)
	}
	m.Logf("%d threads with %d items, %d decisions, %d tokens, %d entries that were promised; %d sessions came back; %d commands ran",
		len(m.work), items, len(m.answers), len(m.tokens), len(m.promised), m.lost, len(ran))
}
