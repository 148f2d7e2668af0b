package run

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"towline/appserver/protocol"
)

func TestFilesAreWhatBecameOfThem(t *testing.T) {
	type step struct{ path, kind string }
	for name, tc := range map[string]struct {
		steps []step
		want  []File
	}{
		"made and changed":   {[]step{{"a", "add"}, {"a", "update"}}, []File{{Path: "a", Kind: "add"}}},
		"made and removed":   {[]step{{"a", "add"}, {"b", "update"}, {"a", "delete"}, {"b", "update"}}, []File{{Path: "b", Kind: "update"}}},
		"removed and made":   {[]step{{"a", "delete"}, {"a", "add"}}, []File{{Path: "a", Kind: "update"}}},
		"changed and gone":   {[]step{{"a", "update"}, {"a", "delete"}}, []File{{Path: "a", Kind: "delete"}}},
		"made again, others": {[]step{{"a", "add"}, {"a", "delete"}, {"c", "add"}, {"a", "add"}}, []File{{Path: "c", Kind: "add"}, {Path: "a", Kind: "add"}}},
	} {
		tn := newTurn(New(Config{}).cfg, Request{})
		for _, s := range tc.steps {
			tn.changed(protocol.FileUpdate{Path: s.path, Kind: protocol.UpdateKind{Type: s.kind}})
		}
		if got, _ := json.Marshal(tn.res.Files); string(got) != string(must(json.Marshal(tc.want))) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestListsAreBounded(t *testing.T) {
	tn := newTurn(New(Config{}).cfg, Request{})
	tn.ctx = context.Background()
	for i := range MaxListed + 5 {
		tn.itemCompleted(protocol.Item{ID: string(rune(i + 100)), Body: &protocol.CommandExecution{Command: "x"}}, false)
	}
	if res, _ := tn.finish(verdict{status: StatusCompleted}); len(res.Commands) != MaxListed || !res.Truncated {
		t.Errorf("%d commands, truncated %v", len(res.Commands), res.Truncated)
	}
}

// FuzzHear holds that whatever a server says makes no panic, and lines that are JSON.
func FuzzHear(f *testing.F) {
	for _, s := range []string{
		`{"turnId":"t1","item":{"type":"commandExecution","id":"c","command":"ls","status":"completed"}}`,
		`{"turn":{"id":"t1","status":"completed","items":[{"type":"agentMessage","id":"a","text":"x"}]}}`,
		`{"turnId":"t1","plan":[{"step":"a","status":"completed"}]}`,
		`{"approval":{"id":"1","threadId":"` + threadID + `","requestId":7,"method":"item/commandExecution/requestApproval","state":"answered","params":{},"result":{"decision":{"acceptWithExecpolicyAmendment":{}}}}}`,
		`{"turnId":"t1","tokenUsage":{"total":{"inputTokens":1},"last":{}}}`,
		`{"turnId":"t1","itemId":"f","changes":[{"path":"p","kind":{"type":"update","move_path":"q"}}]}`,
	} {
		f.Add([]byte(s))
	}
	methods := []string{
		"turn/started", "turn/completed", "turn/plan/updated", "item/started", "item/completed", "item/fileChange/patchUpdated", "thread/tokenUsage/updated",
		"error", "warning", "configWarning", "deprecationNotice", "model/rerouted", "serverRequest/resolved", protocol.NoteApprovalClosed,
	}
	f.Fuzz(func(t *testing.T, params []byte) {
		if !json.Valid(params) {
			return
		}
		c := New(Config{Event: func(_ context.Context, e Event) {
			if b, err := Encode(e); err != nil || !json.Valid(b) || bytes.Count(b, []byte("\n")) != 1 {
				t.Errorf("%v: %s", err, b)
			}
		}}).cfg
		tn := newTurn(c, Request{})
		tn.ctx, tn.thread, tn.id = context.Background(), threadID, "t1"
		tn.asked("7", protocol.ReqCommandApproval, params)
		for _, m := range methods {
			tn.hear(heard{method: m, params: params})
		}
		res, _ := tn.finish(verdict{status: StatusCompleted})
		if b, err := Encode(res); err != nil || !json.Valid(b) {
			t.Errorf("%v: %s", err, b)
		}
	})
}
