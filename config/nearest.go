package config

import (
	"reflect"
	"strings"
)

// nearest is the known key closest to one a person mistyped, "" when none is
// close: the same last word elsewhere, or at most a third of the letters off.
func nearest(key string) string {
	best, dist := "", len(key)/3+1
	for _, k := range Keys() {
		d := distance(key, k)
		if last(k) == last(key) {
			d = 0
		}
		if d < dist {
			best, dist = k, d
		}
	}
	return best
}

func last(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// Keys lists every key config.toml may have, dotted, in the order declared.
func Keys() []string { return keys(reflect.TypeFor[Config](), "") }

func keys(t reflect.Type, prefix string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		name := prefix + f.Tag.Get("toml")
		if f.Type.Kind() == reflect.Struct {
			out = append(out, keys(f.Type, name+".")...)
			continue
		}
		out = append(out, name)
	}
	return out
}

// distance counts the letters to add, drop or change to get from a to b.
func distance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		cur := make([]int, len(b)+1)
		cur[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			cur[j+1] = min(prev[j]+cost, prev[j+1]+1, cur[j]+1)
		}
		prev = cur
	}
	return prev[len(b)]
}
