package launcher

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"towline/config"
)

// Limits of what is remembered. They keep a folder that grows with use small,
// and a file someone else wrote harmless.
const (
	maxHosts      = 500
	maxRecent     = 20
	maxMemoryFile = 1 << 20 // bytes; a cached probe is a few kilobytes
	maxRemembered = 4096    // bytes of one path or version, as in PATH_MAX
)

// Memory is what this client remembers of the hosts it was on: one small file a
// host, so that two connections to different hosts never wait for each other,
// and two to the same host at worst forget the older one's news.
//
// A file that cannot be read, or makes no sense, is a host nobody was on. The
// zero Memory remembers nothing. Methods may be called concurrently.
type Memory struct{ dir string }

// NewMemory keeps its files in dir, which is made (0700) when there is first
// something to keep. An empty dir remembers nothing.
func NewMemory(dir string) Memory { return Memory{dir} }

// Host is what is remembered of one.
type Host struct {
	Name     string    `json:"name"` // as it was typed
	LastUsed time.Time `json:"lastUsed"`
	// Project is the remote folder last worked in; Recent has it first, then
	// those before it.
	Project string   `json:"project,omitempty"`
	Recent  []string `json:"recent,omitempty"`
	// What was found there last.
	Kind    string `json:"kind,omitempty"` // "towline" or "codex"
	Version string `json:"version,omitempty"`
	OS      string `json:"os,omitempty"`
	Arch    string `json:"arch,omitempty"`
	// Took is how long the last connection needed until it was ready.
	Took time.Duration `json:"tookNs,omitempty"`

	Found *found `json:"found,omitempty"`
}

// Used puts project first among the recent ones.
func (h *Host) Used(project string) {
	if project == "" || len(project) > maxRemembered {
		return
	}
	h.Project = project
	h.Recent = slices.DeleteFunc(h.Recent, func(p string) bool { return p == project })
	h.Recent = slices.Insert(h.Recent, 0, project)
	h.Recent = h.Recent[:min(len(h.Recent), maxRecent)]
}

// Load is what is remembered of name. The zero Host, but for its name, is none.
func (m Memory) Load(name string) Host {
	none := Host{Name: name}
	if m.dir == "" {
		return none
	}
	h, err := readHost(m.path(name))
	if err != nil || h.Name != name {
		return none
	}
	return h
}

// Update changes what is remembered of name.
func (m Memory) Update(name string, change func(h *Host)) error {
	if m.dir == "" {
		return nil
	}
	h := m.Load(name)
	change(&h)
	h.Name = name
	if err := config.PrivateDir(m.dir); err != nil {
		return err
	}
	raw, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if len(raw) > maxMemoryFile {
		h.Found = nil
		if raw, err = json.Marshal(h); err != nil {
			return err
		}
	}
	if err := replaceFile(m.path(name), raw); err != nil {
		return err
	}
	m.prune()
	return nil
}

// List is every host remembered, the one used last first.
func (m Memory) List() []Host {
	var all []Host
	for _, f := range m.files() {
		if h, err := readHost(f); err == nil && h.Name != "" {
			all = append(all, h)
		}
	}
	slices.SortFunc(all, func(a, b Host) int { return b.LastUsed.Compare(a.LastUsed) })
	return all
}

// path is a name that any file system takes, whatever the host is called.
func (m Memory) path(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(m.dir, hex.EncodeToString(sum[:12])+".json")
}

func (m Memory) files() []string {
	if m.dir == "" {
		return nil
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") && e.Type().IsRegular() {
			out = append(out, filepath.Join(m.dir, e.Name()))
		}
	}
	return out
}

// prune forgets the hosts that were not used for longest, beyond maxHosts.
func (m Memory) prune() {
	files := m.files()
	if len(files) <= maxHosts {
		return
	}
	age := func(path string) time.Time {
		info, err := os.Stat(path)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(files, func(a, b string) int { return age(a).Compare(age(b)) })
	for _, f := range files[:len(files)-maxHosts] {
		_ = os.Remove(f) // forgetting can wait
	}
}

func readHost(path string) (Host, error) {
	f, err := os.Open(path)
	if err != nil {
		return Host{}, err
	}
	defer func() { _ = f.Close() }() // read-only
	raw, err := io.ReadAll(io.LimitReader(f, maxMemoryFile+1))
	if err != nil {
		return Host{}, err
	}
	if len(raw) > maxMemoryFile {
		return Host{}, errors.New("too large")
	}
	return parseHost(raw)
}

// parseHost reads one file. Members that break a limit are dropped, not the
// whole.
func parseHost(raw []byte) (Host, error) {
	var h Host
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&h); err != nil {
		return Host{}, err
	}
	h.Recent = slices.DeleteFunc(h.Recent, func(p string) bool { return p == "" || len(p) > maxRemembered })
	h.Recent = h.Recent[:min(len(h.Recent), maxRecent)]
	for _, s := range []*string{&h.Project, &h.Kind, &h.Version, &h.OS, &h.Arch} {
		if len(*s) > maxRemembered {
			*s = ""
		}
	}
	return h, nil
}

// replaceFile writes data so that a reader sees all of it or the file before.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
