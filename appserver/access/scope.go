package access

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"towline/appserver/protocol"
)

// maxScope bounds what one scope may list.
const maxScope = 256

// Scope narrows what a principal's role allows; it never widens it. What it does
// not name is out of reach, in lists and in notifications too. The gate enforces
// it. A Scope is not changed once it is part of a principal.
type Scope struct {
	// Exec allows what `towline exec` does and no more: to start threads and turns,
	// to read and interrupt them, and to wait. Approvals are for somebody else.
	Exec bool `json:"exec,omitempty"`
	// Threads are within reach by name, Projects by where a thread works: absolute
	// folders, and what lies beneath them. Threads that the principal itself has
	// started, in a project where there are any, are within reach as well.
	Threads  []protocol.ThreadID `json:"threads,omitempty"`
	Projects []string            `json:"projects,omitempty"`
}

// ParseScope reads scopes as people write them, any number of them: "exec",
// "threads:ID[,ID…]" and "project:DIR". None is a nil Scope: all that the role
// allows.
func ParseScope(words []string) (*Scope, error) {
	if len(words) == 0 {
		return nil, nil
	}
	var s Scope
	for _, w := range words {
		kind, rest, _ := strings.Cut(w, ":")
		switch kind {
		case "exec":
			if rest != "" {
				return nil, fmt.Errorf("scope %q: exec takes nothing", w)
			}
			s.Exec = true
		case "threads":
			for id := range strings.SplitSeq(rest, ",") {
				if id = strings.TrimSpace(id); id == "" || len(id) > 64 {
					return nil, fmt.Errorf("scope %q: the id of a thread is missing or too long", w)
				}
				s.Threads = append(s.Threads, protocol.ThreadID(id))
			}
		case "project":
			if !filepath.IsAbs(rest) {
				return nil, fmt.Errorf("scope %q: a project is an absolute folder of the host", w)
			}
			s.Projects = append(s.Projects, filepath.Clean(rest))
		default:
			return nil, fmt.Errorf("unknown scope %q: use exec, threads:ID or project:DIR", w)
		}
	}
	if len(s.Threads)+len(s.Projects) > maxScope {
		return nil, errors.New("a scope lists at most 256 threads and projects")
	}
	return &s, nil
}

// Words is what ParseScope reads, in a fixed order.
func (s *Scope) Words() []string {
	if s == nil {
		return nil
	}
	var out []string
	if s.Exec {
		out = append(out, "exec")
	}
	if len(s.Threads) > 0 {
		ids := make([]string, len(s.Threads))
		for i, id := range s.Threads {
			ids[i] = string(id)
		}
		out = append(out, "threads:"+strings.Join(ids, ","))
	}
	for _, p := range s.Projects {
		out = append(out, "project:"+p)
	}
	return out
}

// String is for people and logs.
func (s *Scope) String() string { return strings.Join(s.Words(), " ") }

// InProject reports whether a thread that works in dir, absolute and clean, is
// within the scope's projects. Without projects every folder is.
func (s *Scope) InProject(dir string) bool {
	if s == nil || len(s.Projects) == 0 {
		return true
	}
	return slices.ContainsFunc(s.Projects, func(p string) bool {
		rel, err := filepath.Rel(p, dir)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
	})
}
