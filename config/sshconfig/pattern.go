package sshconfig

import "strings"

// matchPattern is ssh's wildcard match: "*" is any text, "?" any one byte.
func matchPattern(name, pattern string) bool {
	n, p := 0, 0
	star, back := -1, 0 // where to resume when a guess for "*" was too short
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, back = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			n++
			p++
		case star >= 0:
			back++
			n, p = back, star+1
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchAny is the rule of a Host line: some pattern matches and no negated one
// does. Case counts there, as ssh has it.
func matchAny(name string, patterns []string) bool {
	hit := false
	for _, p := range patterns {
		p, not := strings.CutPrefix(p, "!")
		if !matchPattern(name, p) {
			continue
		}
		if not {
			return false
		}
		hit = true
	}
	return hit
}

// matchList is matchAny for the comma-separated lists of a Match line.
func matchList(name, list string) bool { return matchAny(name, strings.Split(list, ",")) }

// matchHosts is matchList for the criteria host and originalhost, where case
// does not count.
func matchHosts(name, list string) bool {
	return matchList(strings.ToLower(name), strings.ToLower(list))
}

// isPattern says whether a word of a Host line stands for more than one name, or
// takes names away.
func isPattern(s string) bool { return strings.ContainsAny(s, "*?") || strings.HasPrefix(s, "!") }
