package model

import (
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"
)

// FuzzStream holds the reader to what the agent relies on: no panic, events
// whose items are JSON objects, nothing after the end, and the same events
// however the network cuts the bytes.
func FuzzStream(f *testing.F) {
	f.Add("data: {\"type\":\"response.output_item.done\",\"item\":{\"type\":\"message\"}}\n\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\"}}\n\n")
	f.Add("event: x\r\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":1,\"message\":\"m\"}}}\r\n\r\n")
	f.Add(": c\n\ndata: [DONE]\n\ndata:{\ndata:}\n\n")
	f.Add("data: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"usage\":{\"input_tokens\":\"x\"}}}")
	f.Add("data: {\"type\":\"response.reasoning_summary_text.delta\",\"summary_index\":-5,\"delta\":\"\\ud800\"}\n\n")
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, in string) {
		collect := func(r io.Reader) (out []string, completed bool, err error) {
			err = read(r, func() {}, func(ev Event) {
				if completed {
					t.Fatal("event after the end")
				}
				if (ev.Kind == ItemAdded || ev.Kind == ItemDone) && (!json.Valid(ev.Item) || ev.Item[0] != '{') {
					t.Fatalf("item is no object: %q", ev.Item)
				}
				if ev.Index < 0 {
					t.Fatal("negative index")
				}
				completed = ev.Kind == Completed
				b, merr := json.Marshal(ev)
				if merr != nil {
					t.Fatal(merr)
				}
				out = append(out, string(b))
			}, log)
			return out, completed, err
		}
		whole, done, err := collect(strings.NewReader(in))
		if done != (err == nil) {
			t.Fatalf("completed %v but err %v", done, err)
		}
		cut, _, _ := collect(iotest.OneByteReader(strings.NewReader(in)))
		if strings.Join(whole, "\n") != strings.Join(cut, "\n") {
			t.Fatalf("%q in one piece, %q byte by byte", whole, cut)
		}
	})
}
