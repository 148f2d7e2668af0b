package protocol

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestPeek(t *testing.T) {
	for name, tc := range map[string]struct {
		in     string
		kind   Kind
		id     string
		method string
		err    error
	}{
		"request":                 {`{"id":1,"method":"a/b","params":{}}`, KindRequest, "1", "a/b", nil},
		"string id, other order":  {` {"params":{"id":9},"method":"m","id":"x"} `, KindRequest, `"x"`, "m", nil},
		"response":                {`{"id":-3,"result":null}`, KindResponse, "-3", "", nil},
		"error before id":         {`{"error":{"code":-1,"message":"}"},"id":1}`, KindError, "1", "", nil},
		"null error is none":      {`{"id":1,"result":{},"error":null}`, KindResponse, "1", "", nil},
		"notification":            {`{"method":"m"}`, KindNotification, "", "m", nil},
		"jsonrpc tolerated":       {`{"jsonrpc":"2.0","method":"m","params":[1,"]"]}`, KindNotification, "", "m", nil},
		"escaped member and name": {`{"\u006dethod":"a\/b","id":2}`, KindRequest, "2", "a/b", nil},
		"quotes inside":           {`{"params":{"s":"a\\\"}{"},"method":"m"}`, KindNotification, "", "m", nil},
		"fraction id":             {`{"id":1.5,"method":"m"}`, 0, "", "", ErrBadID},
		"null id":                 {`{"id":null,"method":"m"}`, 0, "", "", ErrBadID},
		"object id":               {`{"id":{},"method":"m"}`, 0, "", "", ErrBadID},
		"huge id":                 {`{"id":9223372036854775808,"method":"m"}`, 0, "", "", ErrBadID},
		"batch":                   {`[{"id":1,"method":"m"}]`, 0, "", "", ErrNotObject},
		"nothing in it":           {`{"id":1}`, 0, "", "", ErrNoShape},
		"method is no string":     {`{"id":1,"method":7}`, 0, "", "", ErrNoShape},
		"torn":                    {`{"id":1,"method":"m"`, 0, "", "", ErrNotObject},
		"empty":                   {``, 0, "", "", ErrNotObject},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Peek([]byte(tc.in))
			if err != tc.err || e.Kind != tc.kind || string(e.ID) != tc.id || e.Method != tc.method {
				t.Errorf("Peek = %+v, %v", e, err)
			}
		})
	}
}

func TestFieldLooksAtTheTopOnly(t *testing.T) {
	obj := json.RawMessage(`{"a":{"threadId":"inner"},"threadId":"out\"er","n":1}`)
	if got := StringField(obj, "threadId"); got != `out"er` {
		t.Errorf("threadId = %q", got)
	}
	if got := StringField(obj, "n"); got != "" {
		t.Errorf("a number read as a string: %q", got)
	}
	if Field(obj, "absent") != nil || Field(json.RawMessage(`[1]`), "a") != nil || Field(nil, "a") != nil {
		t.Error("found what is not there")
	}
}

// FuzzPeek holds the scanner against encoding/json: what both accept, both read
// alike, and the scanner accepts nothing that is not JSON.
func FuzzPeek(f *testing.F) {
	for _, s := range []string{
		`{"id":1,"method":"m","params":{"a":[{},"\\\""]}}`, `{"id":"é","result":{}}`, `{"error":{},"id":0}`,
		`{"id":1,"id":2,"method":"\u0061"}`, `{"a":1e9,"method":"x"}`, `{}`, `{"id":1,`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		_, _ = PeekTrusted(in) // must not panic on anything
		_ = Field(in, "threadId")
		e, err := Peek(in)
		if err != nil {
			return
		}
		var ref map[string]json.RawMessage
		if json.Unmarshal(in, &ref) != nil {
			t.Fatalf("accepted what encoding/json refuses: %q", in)
		}
		var method string
		if raw, ok := ref["method"]; ok {
			if json.Unmarshal(raw, &method) != nil {
				t.Fatalf("method: %q", raw)
			}
		}
		if e.Method != method {
			t.Errorf("method %q, encoding/json reads %q", e.Method, method)
		}
		for name, got := range map[string]json.RawMessage{"id": e.ID, "params": e.Params, "result": e.Result} {
			if !bytes.Equal(bytes.TrimSpace(got), bytes.TrimSpace(ref[name])) {
				t.Errorf("%s = %q, encoding/json reads %q", name, got, ref[name])
			}
		}
	})
}

func TestItemRoundTrip(t *testing.T) {
	for name, in := range map[string]string{
		"agent message": `{"type":"agentMessage","id":"m1","text":"hi","phase":null}`,
		"command": `{"type":"commandExecution","id":"c1","startedAtMs":5,"command":"ls","cwd":"/x","processId":null,"source":"agent",` +
			`"status":"inProgress","commandActions":[{"type":"unknown","command":"ls"}],"aggregatedOutput":null,"exitCode":null,"durationMs":null}`,
		"file change":            `{"type":"fileChange","id":"f1","changes":[{"path":"/a","kind":{"type":"update","move_path":"/b"},"diff":"@@"}],"status":"completed"}`,
		"unknown type, kept":     `{"type":"hologram","id":"h1","beam":{"x":[1,2]}}`,
		"compaction has no body": `{"type":"contextCompaction","id":"z"}`,
	} {
		t.Run(name, func(t *testing.T) {
			var it Item
			if err := json.Unmarshal([]byte(in), &it); err != nil {
				t.Fatal(err)
			}
			out, err := json.Marshal(it)
			if err != nil {
				t.Fatal(err)
			}
			var a, b any
			_ = json.Unmarshal([]byte(in), &a)
			_ = json.Unmarshal(out, &b)
			x, _ := json.Marshal(a)
			y, _ := json.Marshal(b)
			if !bytes.Equal(x, y) {
				t.Errorf("in  %s\nout %s", x, y)
			}
		})
	}
}

func TestItemOfAKnownTypeWithAStrangeMemberIsKept(t *testing.T) {
	in := `{"type":"agentMessage","id":"m","text":{"rich":true}}`
	var it Item
	if err := json.Unmarshal([]byte(in), &it); err != nil {
		t.Fatal(err)
	}
	if out, _ := json.Marshal(it); string(out) != in || it.Type() != "agentMessage" {
		t.Errorf("type %q, out %s", it.Type(), out)
	}
}

func TestRoles(t *testing.T) {
	for method, want := range map[string]Role{
		"thread/list": RoleObserver, "turn/interrupt": RoleApprover, "turn/start": RoleOperator, "fs/readFile": RoleOperator,
		"account/login/start": RoleAdmin, "getAuthStatus": RoleAdmin, "something/new": RoleOperator,
	} {
		if got := LeastRole(method); got != want {
			t.Errorf("LeastRole(%q) = %v, want %v", method, got, want)
		}
	}
	for _, r := range []Role{RoleObserver, RoleApprover, RoleOperator, RoleAdmin} {
		if got, err := ParseRole(r.String()); err != nil || got != r {
			t.Errorf("ParseRole(%v) = %v, %v", r, got, err)
		}
	}
	for _, s := range []string{"", "none", "root", "Admin"} {
		if _, err := ParseRole(s); err == nil {
			t.Errorf("ParseRole(%q) was accepted", s)
		}
	}
}

func TestUserInputKeepsWhatItDoesNotKnow(t *testing.T) {
	in := `{"type":"hum","pitch":440}`
	var u UserInput
	if err := json.Unmarshal([]byte(in), &u); err != nil {
		t.Fatal(err)
	}
	if out, _ := json.Marshal(u); string(out) != in {
		t.Errorf("out %s", out)
	}
	if out, _ := json.Marshal(Text("a")); string(out) != `{"type":"text","text":"a","text_elements":[]}` {
		t.Errorf("text: %s", out)
	}
}

func BenchmarkPeek(b *testing.B) {
	msg := []byte(`{"method":"item/agentMessage/delta","params":{"threadId":"0199","turnId":"t","itemId":"i","delta":"` +
		strings.Repeat("word ", 8) + `"},"emittedAtMs":1}`)
	for name, f := range map[string]func([]byte) error{
		"scan":     func(m []byte) error { _, err := PeekTrusted(m); return err },
		"validate": func(m []byte) error { _, err := Peek(m); return err },
		"encoding/json": func(m []byte) error {
			var e struct {
				ID     json.RawMessage
				Method string
				Params json.RawMessage
			}
			return json.Unmarshal(m, &e)
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
