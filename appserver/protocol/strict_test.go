package protocol

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestStrictRefusesWhatDecodersReadDifferently(t *testing.T) {
	var many strings.Builder
	for i := range 40 {
		fmt.Fprintf(&many, `"k%d":%d,`, i, i)
	}
	for name, tc := range map[string]struct {
		msg string
		ok  bool
	}{
		"plain":               {`{"id":1,"method":"a","params":{"x":[1,{"y":"é\u00e9\ud83d\ude00\\ud800"}],"z":-1.5e3,"b":true,"n":null}}`, true},
		"same name elsewhere": {`{"id":1,"params":{"id":2,"p":[{"id":3},{"id":4}]}}`, true},
		"empty":               {` { } `, true},
		"many members":        {`{` + many.String() + `"last":{}}`, true},
		"deep":                {strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth), true},

		"repeated":            {`{"id":1,"method":"a","params":{},"params":{}}`, false},
		"repeated inside":     {`{"id":1,"result":{"decision":"decline","decision":"accept"}}`, false},
		"repeated, escaped":   {`{"id":1,"result":{"decision":"a","d\u0065cision":"b"}}`, false},
		"repeated after":      {`{"a":{"b":1,"c":2},"a":1}`, false},
		"repeated among many": {`{` + many.String() + `"k7":0}`, false},
		"in a list":           {`[[{"a":1,"a":1}]]`, false},
		"too deep":            {strings.Repeat("[", maxDepth+2) + strings.Repeat("]", maxDepth+2), false},
		"half a character":    {`{"a":"\ud800x"}`, false},
		"the other half":      {`{"a":"\udc00"}`, false},
		"two first halves":    {`{"a":"\ud800\ud800\udc00"}`, false},
		"half a name":         {`{"\ud800":1}`, false},
		"not UTF-8":           {"{\"a\":\"\xff\"}", false},
		"infinite":            {`{"a":1e999}`, false},
	} {
		if err := Strict([]byte(tc.msg)); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzStrict holds that every valid message ends the walk, and that an accepted
// one reads the same after Go's decoder has rewritten it.
func FuzzStrict(f *testing.F) {
	for _, s := range []string{`{"a":{"b":[1,2,{"c":null}]},"d":"\u0041"}`, `{"a":1,"a":2}`, `[1e999]`, `"\ud800"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if !json.Valid(msg) || Strict(msg) != nil {
			return
		}
		var v any
		if err := json.Unmarshal(msg, &v); err != nil {
			t.Fatalf("accepted, and cannot be decoded: %v", err)
		}
		if obj, ok := v.(map[string]any); ok {
			n := 0
			for name := range Members(msg) {
				if _, ok := obj[name]; !ok {
					t.Fatalf("member %q is not the decoder's", name)
				}
				n++
			}
			if n != len(obj) {
				t.Fatalf("%d members, the decoder has %d", n, len(obj))
			}
		}
	})
}
