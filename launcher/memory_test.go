package launcher

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMemoryKeepsWhatWasDoneOnAHost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hosts")
	m := NewMemory(dir)
	if got := m.Load("dev"); got.Project != "" || got.Name != "dev" {
		t.Fatalf("a host nobody was on: %+v", got)
	}
	for i := range maxRecent + 5 {
		err := m.Update("dev", func(h *Host) {
			h.Used(fmt.Sprintf("/src/%d", i))
			h.LastUsed, h.Version = time.Unix(int64(1000+i), 0), "1.2"
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Update("dev", func(h *Host) { h.Used("/src/20") }); err != nil {
		t.Fatal(err)
	}
	h := NewMemory(dir).Load("dev")
	if h.Project != "/src/20" || len(h.Recent) != maxRecent || h.Version != "1.2" {
		t.Errorf("remembered %+v", h)
	}
	if diff := cmp.Diff([]string{"/src/20", "/src/24", "/src/23"}, h.Recent[:3]); diff != "" {
		t.Errorf("recent projects:\n%s", diff)
	}
	// Nobody else may read where a person works.
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 1 {
		t.Fatalf("files: %v", files)
	}
	file, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Separator == '/' && (info.Mode().Perm() != 0o700 || file.Mode().Perm() != 0o600) {
		t.Errorf("modes %v and %v", info.Mode(), file.Mode())
	}
}

func TestMemoryWithoutAFolderRemembersNothing(t *testing.T) {
	var m Memory
	if err := m.Update("dev", func(h *Host) { h.Used("/src") }); err != nil {
		t.Fatal(err)
	}
	if h := m.Load("dev"); h.Project != "" {
		t.Errorf("remembered %+v", h)
	}
	if all := m.List(); len(all) != 0 {
		t.Errorf("listed %+v", all)
	}
}

func TestDamagedMemoryIsAHostNobodyWasOn(t *testing.T) {
	for name, content := range map[string][]byte{
		"empty":          nil,
		"cut off":        []byte(`{"name":"dev","project":"/sr`),
		"another host's": []byte(`{"name":"prod","project":"/src"}`),
		"wrong type":     []byte(`{"name":"dev","project":7}`),
		"binary":         bytes.Repeat([]byte{0}, 100),
		"too large":      append([]byte(`{"name":"dev","project":"/src"}`), bytes.Repeat([]byte(" "), maxMemoryFile)...),
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMemory(t.TempDir())
			if err := os.WriteFile(m.path("dev"), content, 0o600); err != nil {
				t.Fatal(err)
			}
			if h := m.Load("dev"); h.Project != "" || h.Name != "dev" {
				t.Errorf("read %+v", h)
			}
			if err := m.Update("dev", func(h *Host) { h.Used("/new") }); err != nil {
				t.Fatal(err)
			}
			if h := m.Load("dev"); h.Project != "/new" {
				t.Errorf("after an update: %+v", h)
			}
		})
	}
}

func TestMemoryForgetsTheOldestHosts(t *testing.T) {
	m := NewMemory(t.TempDir())
	for i := range maxHosts + 3 {
		name := fmt.Sprintf("h%d", i)
		at := time.Unix(int64(1_700_000_000+i), 0)
		raw, err := json.Marshal(Host{Name: name, LastUsed: at})
		if err == nil {
			err = os.WriteFile(m.path(name), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(m.path(name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Update("newest", func(h *Host) { h.LastUsed = time.Unix(1_800_000_000, 0) }); err != nil {
		t.Fatal(err)
	}
	all := m.List()
	if len(all) != maxHosts || all[0].Name != "newest" || all[len(all)-1].Name != "h4" {
		t.Errorf("%d hosts, from %s to %s", len(all), all[0].Name, all[len(all)-1].Name)
	}
}

func FuzzMemory(f *testing.F) {
	f.Add([]byte(`{"name":"dev","project":"/src","recent":["/src","/other"],"tookNs":5}`))
	f.Add([]byte(`{"name":"dev","recent":[""]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := parseHost(raw)
		if err != nil {
			return
		}
		if len(h.Recent) > maxRecent || len(h.Project) > maxRemembered || strings.Contains(strings.Join(h.Recent, ""), strings.Repeat("x", maxRemembered+1)) {
			t.Errorf("kept more than it may: %+v", h)
		}
		h.Used("/new")
		if h.Recent[0] != "/new" || len(h.Recent) > maxRecent {
			t.Errorf("recent: %v", h.Recent)
		}
	})
}
