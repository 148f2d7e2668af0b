package sshconfig

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"

	"towline/config"
)

// Each file of testdata/corpus is one configuration as people write them, with
// what is known of it above the files:
//
//	list: names      the hosts a list shows, in order
//	match: names     those of them that stand in Match lines only
//	hosts: names     compared field by field: ssh -G with the library
//	refused: names   the library refuses to resolve these
//	warns: text      the library warns of this when resolving the first host
//	literal: NAME FIELD why      the list shows what is written, and ssh has another value
//	differs: NAME FIELD why      a difference that is known and meant
//	crlf: file       this file has Windows' line ends
//
// @DIR@ stands for the folder the files are written to.
type corpusCase struct {
	list, match, hosts, refused []string
	warns                       string
	differs, literal            map[string]bool // "host Field"
	used                        map[string]bool // those met
}

func readCorpus(t *testing.T, path string) (corpusCase, Options) {
	t.Helper()
	a, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c := corpusCase{differs: map[string]bool{}, literal: map[string]bool{}, used: map[string]bool{}}
	crlf := ""
	for l := range strings.Lines(string(a.Comment)) {
		key, value, ok := strings.Cut(strings.TrimSpace(l), ": ")
		if !ok {
			continue
		}
		switch key {
		case "list":
			if value != "*none*" {
				c.list = strings.Fields(value)
			}
		case "match":
			c.match = strings.Fields(value)
		case "hosts":
			c.hosts = strings.Fields(value)
		case "refused":
			c.refused = strings.Fields(value)
		case "warns":
			c.warns = value
		case "crlf":
			crlf = value
		case "differs", "literal":
			f := strings.SplitN(value, " ", 3)
			if len(f) < 3 {
				t.Fatalf("%s: a difference needs a reason", l)
			}
			if key == "differs" {
				c.differs[f[0]+" "+f[1]] = true
			} else {
				c.literal[f[0]+" "+f[1]] = true
			}
		}
	}
	dir := t.TempDir()
	for _, f := range a.Files {
		data := bytes.ReplaceAll(f.Data, []byte("@DIR@"), []byte(dir))
		if f.Name == crlf {
			data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
		}
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c, Options{UserFile: filepath.Join(dir, "config")}
}

func eachCorpus(t *testing.T, do func(*testing.T, corpusCase, Options)) {
	files, err := filepath.Glob("testdata/corpus/*.txtar")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	t.Setenv("TOWLINE_CORPUS", "/keys of mine")
	t.Setenv("TOWLINE_CORPUS_AGENT", "/run/corpus/agent")
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			c, o := readCorpus(t, f)
			do(t, c, o)
		})
	}
}

// The list names exactly the hosts somebody wrote down, and what it says about
// each is what ssh would do.
func TestListOfTheCorpus(t *testing.T) {
	needSSH(t)
	eachCorpus(t, func(t *testing.T, c corpusCase, o Options) {
		l := List(o)
		if len(l.Faults) > 0 {
			t.Errorf("faults: %v", l.Faults)
		}
		var names, match []string
		for _, a := range l.Aliases {
			if a.FromMatch {
				match = append(match, a.Name)
			} else {
				names = append(names, a.Name)
			}
		}
		if !slices.Equal(names, c.list) || !slices.Equal(match, c.match) {
			t.Errorf("hosts %q, want %q; of Match %q, want %q", names, c.list, match, c.match)
		}
		for _, a := range l.Aliases {
			got, err := Resolve(t.Context(), o, a.Name)
			if err != nil {
				t.Errorf("%s: %v", a.Name, err)
				continue
			}
			check := func(field, literal, ssh string) {
				if key := a.Name + " " + field; literal != ssh && !c.literal[key] {
					t.Errorf("%s: %s %s, ssh has %s", a.Name, field, literal, ssh)
				} else if literal == ssh && c.literal[key] {
					t.Errorf("the difference %q is listed, but there is none", key)
				}
			}
			if a.HostName != "" {
				check("HostName", strings.ToLower(a.HostName), got.HostName)
			}
			if a.User != "" {
				check("User", a.User, got.User)
			}
			if a.Port != 0 {
				check("Port", strconv.Itoa(a.Port), strconv.Itoa(got.Port))
			}
		}
	})
}

// Without ssh the same comes out, in every field, but for differences the corpus
// lists; and where that cannot be promised, nothing does.
func TestLibraryAgreesWithSSHOnTheCorpus(t *testing.T) {
	needSSH(t)
	eachCorpus(t, func(t *testing.T, c corpusCase, o Options) {
		without := o
		without.Program = NoProgram
		for i, host := range c.hosts {
			want, err := Resolve(t.Context(), o, host)
			if err != nil {
				t.Fatalf("%s: ssh: %v", host, err)
			}
			got, err := Resolve(t.Context(), without, host)
			if err != nil {
				t.Errorf("%s: library: %v", host, err)
				continue
			}
			if want.Source != SourceSSH || got.Source != SourceLibrary {
				t.Fatalf("sources %s, %s", want.Source, got.Source)
			}
			if said := strings.Join(got.Warnings, "\n"); i == 0 && !strings.Contains(said, c.warns) {
				t.Errorf("%s: the warnings do not mention %q: %s", host, c.warns, said)
			}
			c.compare(t, host, want, got)
		}
		for _, host := range c.refused {
			_, err := Resolve(t.Context(), without, host)
			if err == nil || !strings.Contains(err.Error(), "Match at line") || !strings.HasPrefix(err.Error(), "resolve: ") || len(config.Hints(err)) == 0 {
				t.Errorf("%s: not refused with a reason: %v", host, err)
			}
			if _, err := Resolve(t.Context(), o, host); err != nil {
				t.Errorf("%s: ssh: %v", host, err)
			}
		}
		for d := range c.differs {
			if !c.used[d] {
				t.Errorf("the difference %q is listed, but there is none", d)
			}
		}
	})
}

// algorithms are lists of which only ssh knows the defaults; without it an unset
// one stays empty, and the client uses its own.
var algorithms = []string{"Ciphers", "KexAlgorithms", "MACs", "HostKeyAlgorithms", "PubkeyAcceptedAlgorithms"}

func (c corpusCase) compare(t *testing.T, host string, want, got Target) {
	t.Helper()
	ignore := []string{"Source", "Warnings", "Options"}
	if got.Ciphers == nil { // none of the corpus sets some and not others
		ignore = append(ignore, algorithms...)
	}
	if want.IdentityFilesDefault && got.IdentityFilesDefault {
		ignore = append(ignore, "IdentityFiles") // the names differ between versions
	}
	for d := range c.differs {
		h, field, _ := strings.Cut(d, " ")
		if h != host {
			continue
		}
		if field != "Warnings" {
			if cmp.Equal(want, got, cmpopts.IgnoreFields(Target{}, append(slices.Clone(ignore), fieldsBut(field)...)...)) {
				continue // and the caller complains
			}
			ignore = append(ignore, field)
		}
		c.used[d] = true
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Target{}, ignore...), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: ssh -G has -, the library has +\n%s", host, diff)
	}
}

// fieldsBut names every field of Target except one.
func fieldsBut(field string) []string {
	var out []string
	for f := range reflect.TypeFor[Target]().Fields() {
		if f.Name != field {
			out = append(out, f.Name)
		}
	}
	return out
}
