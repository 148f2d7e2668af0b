package native

import (
	"strings"
	"testing"
	"unicode"
)

func FuzzSplitKey(f *testing.F) {
	for _, s := range []string{"a.b", `projects."/a.b".trust_level`, `"`, "..", `a."\""`, `"".x`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		var o overlay
		parts := splitKey(key)
		err := o.set([]configEdit{{KeyPath: key, Value: []byte("1")}})
		if len(key) < maxConfigValue && (err == nil) != (key != "" && len(parts) > 0) {
			t.Fatalf("%q: parts %q, set: %v", key, parts, err)
		}
		root := map[string]any{"a": "not a table"}
		o.onto(root)
		if err == nil && root[parts[0]] == nil {
			t.Fatalf("%q: nothing at %q in %v", key, parts[0], root)
		}
	})
}

func FuzzIgnore(f *testing.F) {
	f.Add("*.o\n!keep.o\n/build/\na/**/b", "a/x/y/b")
	f.Add("**/**/**/x", strings.Repeat("a/", 40))
	f.Add("[", "[")
	f.Fuzz(func(t *testing.T, file, path string) {
		var rules ignoreRules
		for line := range strings.Lines(file) {
			if r, ok := parseIgnore(strings.TrimRight(line, "\r\n")); ok {
				if len(r.parts) == 0 {
					t.Fatalf("a rule without a pattern from %q", line)
				}
				rules.rules = append(rules.rules, r)
			}
		}
		ignored([]ignoreRules{rules}, path, true)
	})
}

func FuzzFuzzy(f *testing.F) {
	f.Add("cmd/server/main.go", "csm")
	f.Add("ÄÖ/x", "äö")
	f.Fuzz(func(t *testing.T, path, query string) {
		q := []rune(strings.ToLower(query))
		if len(q) == 0 {
			return
		}
		_, at, ok := fuzzy(path, q)
		if !ok {
			return
		}
		p := []rune(path)
		for k, i := range at {
			if i < 0 || i >= len(p) || k > 0 && at[k-1] >= i || unicode.ToLower(p[i]) != q[k] {
				t.Fatalf("%q in %q at %v", query, path, at)
			}
		}
	})
}
