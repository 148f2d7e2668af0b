package config

import (
	"reflect"
	"strings"
)

// anyName stands in Keys for a part people choose themselves.
const anyName = "NAME"

// nearest is the known key closest to one a person mistyped, "" when none is
// close: the same last word elsewhere, or at most a third of the letters off.
// The parts of key are as in the file; a name in it is kept in the answer.
func nearest(parts, known []string) string {
	key := dotted(parts)
	best, dist := "", len(key)/3+1
	for _, k := range known {
		if head, tail, named := strings.Cut(k, "."+anyName+"."); named {
			if len(parts) != strings.Count(k, ".")+1 {
				continue // not that table: a name alone is no mistake of letters
			}
			k = head + "." + quoteKey(parts[strings.Count(head, ".")+1]) + "." + tail
		}
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

// dotted writes a key as it would stand in the file.
func dotted(parts []string) string {
	out := make([]string, len(parts))
	for i, p := range parts {
		out[i] = quoteKey(p)
	}
	return strings.Join(out, ".")
}

func last(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// Keys lists every key config.toml may have, dotted, in the order declared. NAME
// stands for a name of one's own.
func Keys() []string { return KeysOf(Config{}) }

// KeysOf lists the keys a file of that shape may have, as [Keys] does. shape is a
// struct with toml tags.
func KeysOf(shape any) []string { return keys(reflect.TypeOf(shape), "") }

func keys(t reflect.Type, prefix string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, of := prefix+f.Tag.Get("toml"), f.Type
		if of.Kind() == reflect.Map {
			name, of = name+"."+anyName, of.Elem()
		}
		if of.Kind() == reflect.Slice && of.Elem().Kind() == reflect.Struct {
			of = of.Elem() // [[name]]
		}
		if of.Kind() == reflect.Struct {
			out = append(out, keys(of, name+".")...)
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
