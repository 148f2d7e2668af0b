package patch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestErrorsHelp holds what each refusal must tell the model, and that nothing
// was written.
func TestErrorsHelp(t *testing.T) {
	for name, tc := range map[string]struct {
		patch string
		want  []string
	}{
		"no begin":     {"hello", []string{"first line must be '*** Begin Patch'"}},
		"no end":       {"*** Begin Patch\n*** Add File: a\n+x", []string{"last line must be '*** End Patch'"}},
		"only begin":   {"*** Begin Patch", []string{"last line"}},
		"empty":        {"*** Begin Patch\n*** End Patch", []string{"changes no file"}},
		"header":       {wrap("*** Change File: a"), []string{"line 2", "'*** Change File: a'", "*** Update File: path"}},
		"no path":      {wrap("*** Add File: \n+x"), []string{"line 2", "no section header"}},
		"bad line":     {wrap("*** Update File: f\n@@\nfoo"), []string{"line 4", "'foo'", "must start with"}},
		"no @@":        {wrap("*** Update File: f\n@@\n-two\n+2\nfoo"), []string{"line 6", "'foo'", "@@"}},
		"empty hunk":   {wrap("*** Update File: f\n@@\n*** End of File"), []string{"has no lines"}},
		"empty update": {wrap("*** Update File: f"), []string{"line 2", "'f' is empty"}},
		"not there":    {wrap("*** Update File: g\n@@\n-two\n+2"), []string{"/g does not exist", "*** Add File"}},
		"delete":       {wrap("*** Delete File: g"), []string{"/g does not exist"}},
		"directory":    {wrap("*** Delete File: d"), []string{"/d cannot be read", "not a regular file"}},
		"cwd":          {wrap("*** Add File: .\n+x"), []string{"'.' is not the path of a file"}},
		"slash":        {wrap("*** Add File: new/\n+x"), []string{"'new/' is not the path of a file"}},
		"context":      {wrap("*** Update File: f\n@@\n one\n-zwei\n+2"), []string{"/f: these lines were not found", "one\nzwei", "read the file"}},
		"order":        {wrap("*** Update File: f\n@@\n-three\n+3\n@@\n-one\n+1"), []string{"below line 3", "stand at line 1", "order"}},
		"end of file":  {wrap("*** Update File: f\n@@\n-one\n+1\n*** End of File"), []string{"line 1, not at the end", "leave out"}},
		"anchor":       {wrap("*** Update File: f\n@@ func x\n-one\n+1"), []string{"anchor 'func x'"}},
		"binary":       {wrap("*** Update File: b\n@@\n-one\n+1"), []string{"/b is not UTF-8 text"}},
		"second fails": {wrap("*** Add File: new\n+x\n*** Update File: f\n@@\n-zwei\n+2"), []string{"zwei"}},
		"too long":     {wrap(strings.Repeat("*** Delete File: x\n", MaxFiles+1)), []string{"more than 1000 sections"}},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"f": "one\ntwo\nthree\n", "d/x": "x", "b": "a\xffb\n"}
			dir := setup(t, files)
			_, err := resolve(dir, tc.patch)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
			if diff := cmp.Diff(files, tree(t, dir)); diff != "" {
				t.Errorf("files changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestBetterThanCodex(t *testing.T) {
	for _, tc := range table {
		files, ok := better[tc.name]
		if !ok {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			dir := setup(t, tc.files)
			if err := mustResolve(t, dir, tc.patch).Apply([]string{dir}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(files, tree(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzPatch holds that no text panics, that paths come out absolute, and that a
// changed file ends with a line break and keeps its untouched lines.
func FuzzPatch(f *testing.F) {
	for _, tc := range table {
		f.Add(tc.patch, tc.files["f"])
	}
	f.Fuzz(func(t *testing.T, text, content string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		c, err := p.Resolve("/ws", func(path string) ([]byte, error) {
			if path == "/ws/f" {
				return []byte(content), nil
			}
			return nil, os.ErrNotExist
		})
		if err != nil {
			return
		}
		_ = c.Diff("/ws")
		for _, e := range c.edits {
			if !filepath.IsAbs(e.path) {
				t.Errorf("path %q is not absolute", e.path)
			}
			if e.before != nil && e.after != nil && *e.after != *e.before && *e.after != "" && !strings.HasSuffix(*e.after, "\n") {
				t.Errorf("a changed file has no final line break: %q", *e.after)
			}
		}
		for _, u := range c.Updates {
			if u.Kind.Type == "" || u.Kind.Type == opAdd && u.Kind.MovePath != nil {
				t.Errorf("kind %+v", u.Kind)
			}
		}
	})
}
