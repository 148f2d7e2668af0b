package audit

import (
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"

	"towline/appserver/access"
)

// Whatever a fact holds, an entry is one line of JSON that says it, and that the
// chain can be checked by.
func TestEntriesAreJSONWhateverTheyHold(t *testing.T) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 500, time.FixedZone("", 3600))
	for _, text := range []string{"", "plain", `a "b" \ c`, "<&>", "tab\tnew\nline\x00\x7f", "grüße \u2028 \U0001f600", "\xff\xfe"} {
		who := ana
		who.Name = text
		e := entry{at: at, event: text, who: who, facts: []slog.Attr{
			slog.String("text", text), slog.Any("err", errors.New(text)), slog.Int("n", -7), slog.Bool("b", true), slog.Float64("f", 1.5),
			slog.Duration("d", time.Second), slog.Any("list", []string{text}), slog.String("SEQ", text), slog.String(text+"k", "v"),
		}}
		line, err := e.line(3, zeroHash)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			At    time.Time         `json:"at"`
			Event string            `json:"event"`
			Who   map[string]string `json:"who"`
			Text  string            `json:"text"`
			Err   string            `json:"err"`
			N     int               `json:"n"`
			B     bool              `json:"b"`
			F     float64           `json:"f"`
			D     string            `json:"d"`
			List  []string          `json:"list"`
			Seq   string            `json:"_SEQ"`
		}
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		var want string // what JSON can say of it
		raw, _ := json.Marshal(text)
		_ = json.Unmarshal(raw, &want)
		if got.Text != want || got.Err != want || got.Event != want || got.Who["name"] != want || got.List[0] != want || got.Seq != want {
			t.Errorf("%q became %+v", text, got)
		}
		if got.N != -7 || !got.B || got.F != 1.5 || got.D != "1s" || !got.At.Equal(at) || got.Who["kind"] != string(access.KindKey) {
			t.Errorf("%+v", got)
		}
		if r, _, ok := checkRow(line[:len(line)-1]); !ok || r.Seq != 3 || line[len(line)-1] != '\n' {
			t.Errorf("%s: %+v", line, r)
		}
		if own := appendText(nil, text); string(own) != string(raw) {
			t.Errorf("%s, package json has %s", own, raw)
		}
	}
}
