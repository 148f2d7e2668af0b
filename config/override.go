package config

import (
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Override is what the value of a `-c KEY=VALUE` means, as Codex reads one: TOML, or
// else the text itself, without quotes around it.
func Override(value string) any {
	var doc map[string]any
	if toml.Unmarshal([]byte("v = "+value), &doc) != nil || len(doc) != 1 || doc["v"] == nil {
		return strings.Trim(strings.TrimSpace(value), `"'`)
	}
	return doc["v"]
}
