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
		if e.Kind != unstable.KeyValue {
			table, _ = keyOf(&p, e)
			continue
		}
		if line := lineIn(&p, e, table, parts); line > 0 {
			return line
		}
	}
	return 0
}

// lineIn looks in one key and its value, which may be an inline table.
func lineIn(p *unstable.Parser, e *unstable.Node, table, parts []string) int {
	key, line := keyOf(p, e)
	key = append(slices.Clone(table), key...)
	if slices.Equal(key, parts) {
		return line
	}
	if v := e.Value(); v.Kind == unstable.InlineTable {
		for it := v.Children(); it.Next(); {
			if line := lineIn(p, it.Node(), key, parts); line > 0 {
				return line
			}
		}
	}
	return 0
}

// keyOf is the parts of an expression's key, and the line it stands in.
func keyOf(p *unstable.Parser, e *unstable.Node) (key []string, line int) {
	for it := e.Key(); it.Next(); {
		n := it.Node()
		if line == 0 {
			line = p.Shape(n.Raw).Start.Line
		}
		key = append(key, string(n.Data))
	}
	return key, line
}
