package config

import (
	"encoding/json"
	"testing"
)

func TestOverride(t *testing.T) {
	for value, want := range map[string]string{
		`"high"`: `"high"`, `high`: `"high"`, `3`: `3`, `true`: `true`, `["a", "b"]`: `["a","b"]`,
		`{ x = 1 }`: `{"x":1}`, `'half`: `"half"`, ``: `""`, "1\nW = 2": `"1\nW = 2"`,
	} {
		if got, err := json.Marshal(Override(value)); err != nil || string(got) != want {
			t.Errorf("%q is %s, %v, want %s", value, got, err, want)
		}
	}
}
