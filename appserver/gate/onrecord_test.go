package gate

import (
	"os"
	"strings"
	"testing"

	"towline/appserver/protocol"
	"towline/config/store"
)

// A daemon that is killed has done nothing on a word that is not on record: when
// the engine has an answer, by whichever way, the audit has it.
func TestDecisionIsOnRecordBeforeTheEngineHasIt(t *testing.T) {
	for name, answer := range map[string]func(r *rig, p *person, q *fakeRequest, id string){
		"reply": func(_ *rig, p *person, q *fakeRequest, _ string) {
			p.reply(protocol.IntID(q.id), `{"decision":"accept"}`)
		},
		"by id": func(_ *rig, p *person, _ *fakeRequest, id string) {
			p.send(`{"id":"a","method":"` + protocol.ExtApprovalAnswer + `","params":{"id":"` + id + `","result":{"decision":"accept"}}}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 { // the other order shows now and then only
				r := newRig(t, nil, true)
				owner := r.join("owner", protocol.RoleOperator, false)
				thread := owner.startThread()
				r.e.startTurn(thread, "t1")
				q := r.command(thread)
				owner.wait("question", 0, isAsk)
				rows, err := r.store.Approvals(t.Context(), store.ApprovalFilter{})
				if err != nil || len(rows) != 1 {
					t.Fatalf("%d rows, %v", len(rows), err)
				}
				answer(r, owner, q, rows[0].ID)
				<-q.answers
				raw, err := os.ReadFile(r.audit)
				if err != nil || !strings.Contains(string(raw), `"event":"approval answered"`) {
					t.Fatalf("the engine has it, and the audit does not (%v):\n%s", err, raw)
				}
			}
		})
	}
}
