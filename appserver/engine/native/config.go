package native

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"path/filepath"
	"strings"
	"sync"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Bounds of what clients may store by config/value/write.
const (
	maxConfigKeys  = 512
	maxConfigValue = 64 << 10
)

// overlay keeps what clients wrote to the configuration, in memory: a stock
// client remembers the chosen model and acknowledged notices there. People
// configure Towline in its own file, so nothing is written to disk.
type overlay struct {
	mu   sync.Mutex // innermost
	keys map[string]json.RawMessage
}

// str is a string value, "" when it is none.
func (o *overlay) str(key string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var s string
	_ = json.Unmarshal(o.keys[key], &s) // another type counts as none
	return s
}

func (o *overlay) set(edits []configEdit) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, ed := range edits {
		if ed.KeyPath == "" || len(splitKey(ed.KeyPath)) == 0 {
			return protocol.Errorf("invalid key path: %q", ed.KeyPath)
		}
		if len(ed.Value)+len(ed.KeyPath) > maxConfigValue || len(o.keys)+len(edits) > maxConfigKeys {
			return protocol.Errorf("the configuration kept for clients is full")
		}
	}
	if o.keys == nil {
		o.keys = make(map[string]json.RawMessage)
	}
	for _, ed := range edits {
		if !given(ed.Value) {
			delete(o.keys, ed.KeyPath)
			continue
		}
		o.keys[ed.KeyPath] = ed.Value
	}
	return nil
}

// onto puts the values into a nested configuration.
func (o *overlay) onto(root map[string]any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, v := range o.keys {
		path := splitKey(key)
		at := root
		for _, name := range path[:len(path)-1] {
			next, ok := at[name].(map[string]any)
			if !ok {
				next = make(map[string]any)
				at[name] = next
			}
			at = next
		}
		at[path[len(path)-1]] = v
	}
}

func (o *overlay) version() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	b, _ := json.Marshal(o.keys) // a map of raw JSON marshals, its keys sorted
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// splitKey splits a dotted key path; parts may be quoted, because paths hold dots.
func splitKey(key string) (parts []string) {
	var b strings.Builder
	quoted, any := false, false
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '"':
			quoted, any = !quoted, true
		case c == '\\' && quoted && i+1 < len(key):
			i++
			b.WriteByte(key[i])
		case c == '.' && !quoted:
			if b.Len() == 0 && !any {
				return nil
			}
			parts = append(parts, b.String())
			b.Reset()
			any = false
		default:
			b.WriteByte(c)
		}
	}
	if quoted || b.Len() == 0 && !any {
		return nil
	}
	return append(parts, b.String())
}

// configEdit is one change a client asks for.
type configEdit struct {
	KeyPath string          `json:"keyPath"`
	Value   json.RawMessage `json:"value"`
}

// configRead answers with what the stock clients look for: the defaults of new
// threads, and that the project is trusted, because whoever got this far was
// let in by the gate.
func (c *conn) configRead(r *rpc.Request) (any, error) {
	var p struct {
		Cwd           *string `json:"cwd"`
		IncludeLayers bool    `json:"includeLayers"`
	}
	if err := decode(r, &p); err != nil {
		return nil, err
	}
	e := c.e
	trusted := map[string]any{e.cfg.Cwd: map[string]any{"trust_level": "trusted"}}
	if p.Cwd != nil && filepath.IsAbs(*p.Cwd) {
		trusted[*p.Cwd] = map[string]any{"trust_level": "trusted"}
	}
	s := e.defaults()
	conf := map[string]any{
		"model": s.Model, "model_provider": e.cfg.Provider, "model_reasoning_effort": s.Effort,
		"approval_policy": e.cfg.Approval, "sandbox_mode": e.cfg.Sandbox,
		"projects": trusted, "check_for_update_on_startup": false,
		"features": map[string]any{"apps": false, "plugins": false, "remote_plugin": false},
	}
	e.config.onto(conf)
	out := map[string]any{"config": conf, "origins": map[string]any{}}
	if p.IncludeLayers {
		out["layers"] = []any{}
	}
	return out, nil
}

func (c *conn) configValueWrite(r *rpc.Request) (any, error) {
	var p configEdit
	if err := decode(r, &p, "keyPath", "mergeStrategy"); err != nil {
		return nil, err
	}
	return c.writeConfig([]configEdit{p})
}

func (c *conn) configBatchWrite(r *rpc.Request) (any, error) {
	var p struct {
		Edits []configEdit `json:"edits"`
	}
	if err := decode(r, &p, "edits"); err != nil {
		return nil, err
	}
	return c.writeConfig(p.Edits)
}

func (c *conn) writeConfig(edits []configEdit) (any, error) {
	if err := c.e.config.set(edits); err != nil {
		return nil, err
	}
	return map[string]any{
		"status": "ok", "version": c.e.config.version(),
		"filePath": filepath.Join(c.e.cfg.Home, "config.toml"), "overriddenMetadata": nil,
	}, nil
}

func (c *conn) configRequirementsRead(*rpc.Request) (any, error) {
	return map[string]any{"requirements": nil}, nil
}

func (c *conn) modelProviderList(*rpc.Request) (any, error) {
	return map[string]any{
		"data": []any{map[string]any{
			"id": c.e.cfg.Provider, "name": c.e.cfg.Provider, "canEdit": false, "baseUrl": nil,
			"settings": map[string]any{"type": "openai"},
		}},
		"defaultProviderId": c.e.cfg.Provider, "canChangeDefault": false,
	}, nil
}

// collaborationModes are the two the agent knows.
var collaborationModes = map[string]any{"data": []any{
	map[string]any{"name": "Plan", "mode": "plan", "model": nil, "reasoning_effort": nil},
	map[string]any{"name": "Default", "mode": "default", "model": nil, "reasoning_effort": nil},
}}

var permissionProfiles = page{Data: []any{
	map[string]any{"id": profileReadOnly, "description": "Read files, change nothing", "allowed": true},
	map[string]any{"id": profileWorkspace, "description": "Change files in the project, no network", "allowed": true},
	map[string]any{"id": profileFull, "description": "No sandbox", "allowed": true},
}}

// effortNames describe the reasoning efforts people know.
var effortNames = map[string]string{
	"none": "No reasoning", "minimal": "Fastest, with little reasoning", "low": "Fast, with light reasoning",
	"medium": "Balances speed and depth", "high": "Thinks longer about hard problems", "xhigh": "Thinks longest",
}

func (c *conn) modelList(*rpc.Request) (any, error) {
	list := []any{}
	for i, m := range c.e.cfg.Models {
		efforts := []any{}
		for _, ef := range m.Efforts {
			d := effortNames[ef]
			if d == "" {
				d = ef
			}
			efforts = append(efforts, map[string]string{"reasoningEffort": ef, "description": d})
		}
		name, usual := m.Name, m.DefaultEffort
		if name == "" {
			name = m.ID
		}
		if usual == "" {
			usual = "medium"
		}
		modalities := []string{"text", "image"}
		if m.NoImages {
			modalities = modalities[:1]
		}
		list = append(list, map[string]any{
			"id": m.ID, "model": m.ID, "displayName": name, "description": m.Description, "hidden": false,
			"supportedReasoningEfforts": efforts, "defaultReasoningEffort": usual, "isDefault": i == 0,
			"inputModalities": modalities, "supportsPersonality": false, "upgrade": nil,
			"additionalSpeedTiers": []string{}, "serviceTiers": []any{},
		})
	}
	return page{Data: list}, nil
}

func (c *conn) skillsList(r *rpc.Request) (any, error) {
	return c.perCwd(r, map[string]any{"skills": []any{}, "errors": []any{}})
}

func (c *conn) hooksList(r *rpc.Request) (any, error) {
	return c.perCwd(r, map[string]any{"hooks": []any{}, "warnings": []any{}, "errors": []any{}})
}

// perCwd answers with the same for every folder asked about.
func (c *conn) perCwd(r *rpc.Request, what map[string]any) (any, error) {
	var p struct {
		Cwds []string `json:"cwds"`
	}
	if err := decode(r, &p); err != nil {
		return nil, err
	}
	if len(p.Cwds) == 0 {
		p.Cwds = []string{c.e.cfg.Cwd}
	}
	list := []any{}
	for _, cwd := range p.Cwds {
		row := maps.Clone(what)
		row["cwd"] = cwd
		list = append(list, row)
	}
	return map[string]any{"data": list}, nil
}
