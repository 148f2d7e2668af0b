package config

import (
	"fmt"
	"slices"

	"github.com/pelletier/go-toml/v2/unstable"
)

// storeTwice refuses a file that says two things about the store, and names both
// lines: which one counts must not be a guess.
func storeTwice(raw []byte, c Config) error {
	if c.Store == "" || c.Auth.Store == "" || c.Store == c.Auth.Store {
		return nil
	}
	top := lineOf(raw, "cli_auth_credentials_store")
	under := lineOf(raw, "auth", "cli_auth_credentials_store")
	return fmt.Errorf("line %d: cli_auth_credentials_store is %q, and line %d, under [auth], says %q; leave one of them out", top, c.Store, under, c.Auth.Store)
}

// lineOf is the line a key stands in, 0 when it does not; parts are as in
// "auth.issuer". The text parses.
func lineOf(raw []byte, parts ...string) int {
	var p unstable.Parser
	p.Reset(raw)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		var key []string
		var first *unstable.Node
		for it := e.Key(); it.Next(); {
			n := it.Node()
			if first == nil {
				first = n
			}
			key = append(key, string(n.Data))
		}
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key
		case unstable.KeyValue:
			if slices.Equal(append(slices.Clone(table), key...), parts) {
				return p.Shape(first.Raw).Start.Line
			}
		}
	}
	return 0
}
