package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"towline/appserver/protocol"
)

// # What a request with a scope may ask a thread to be
//
//	cwd, runtimeWorkspaceRoots   folders of the scope, as the host resolves them; a new
//	                             thread without a cwd works in the host's project, or in
//	                             the scope's only one
//	sandbox, sandboxPolicy,      nothing wider than the host's default for a thread of the
//	permissions                  principal's own, or than what somebody else's thread runs
//	                             with; never full access, further roots out of the scope,
//	                             the network, or another sandbox; of profiles only
//	                             :read-only and :workspace
//	approvalPolicy               nothing that asks people less, likewise
//	approvalsReviewer            user: nobody and nothing else answers for people
//	config                       how the model thinks, no other key
//	dynamicTools, environments,  empty
//	selectedCapabilityRoots
//	experimentalRawEvents        false
//	input                        text and images; files of the host only from the scope's
//	                             folders; no skills and mentions, which are files too
//	parentThreadId,              threads within reach
//	ancestorThreadId
//	everything else              is the model's, or a name: free
//
// Nothing is sent to a thread that runs with full access, whoever made it so, or
// that works outside of the scope's folders and is not named in it.

// configKeys may be given in config.
var configKeys = []string{"model", "model_reasoning_effort", "model_reasoning_summary", "model_verbosity"}

// workMethods make the model work in the thread they name, with the settings it has.
var workMethods = []string{
	"turn/start", "turn/steer", "thread/queue/add", "thread/queue/update", "thread/queue/start", "thread/goal/set", "thread/compact/start",
}

// Sandboxes by what they allow.
const (
	rankReadOnly = iota
	rankWorkspace
	rankFull
)

var sandboxRanks = map[string]int{
	protocol.SandboxReadOnly: rankReadOnly, protocol.SandboxWorkspaceWrite: rankWorkspace, protocol.SandboxFullAccess: rankFull,
	protocol.PolicyReadOnly: rankReadOnly, protocol.PolicyWorkspaceWrite: rankWorkspace, protocol.PolicyFullAccess: rankFull,
	protocol.PolicyExternal: rankFull, ":read-only": rankReadOnly, ":workspace": rankWorkspace, ":danger-full-access": rankFull,
}

// wish is one request being held against a scope.
type wish struct {
	c      *client
	ctx    context.Context // of the request
	method string
	p      *members
	thread protocol.ThreadID // "" for a new one
	cwd    string            // where it will work, resolved; "" when unchanged
	most   *bounds           // once asked for
}

// settings looks at every member that says what a thread runs with and what it
// is given, and puts resolved folders in the place of those that were named.
func (c *client) settings(ctx context.Context, method string, p *members) *protocol.Error {
	w := &wish{c: c, ctx: ctx, method: method, p: p, thread: protocol.ThreadID(text(p.get("threadId")))}
	if method == "thread/start" {
		w.defaultFolder()
	}
	if v := p.get("cwd"); v != nil && method != "thread/list" { // there it chooses, and moves nothing
		if why := w.folder("cwd"); why != nil {
			return why
		}
	}
	if slices.Contains(workMethods, method) {
		if why := w.mayWork(); why != nil {
			return why
		}
	}
	for _, m := range *p {
		check, ok := checks[m.name]
		if !ok || isNull(m.value) {
			continue
		}
		if why := check(w, m); why != nil {
			return why
		}
	}
	if method == "thread/start" && isAbsent(p.get("sandbox")) && isAbsent(p.get("permissions")) {
		return w.narrow()
	}
	return nil
}

func isAbsent(v json.RawMessage) bool { return v == nil || isNull(v) }

// checks are by member; their order is that of the request, and each stands alone.
var checks = map[string]func(*wish, member) *protocol.Error{
	"runtimeWorkspaceRoots":   (*wish).roots,
	"sandbox":                 (*wish).sandboxMode,
	"permissions":             (*wish).sandboxMode,
	"sandboxPolicy":           (*wish).sandboxPolicy,
	"approvalPolicy":          (*wish).approval,
	"approvalsReviewer":       (*wish).reviewer,
	"config":                  (*wish).config,
	"collaborationMode":       (*wish).collaboration,
	"input":                   (*wish).input,
	"dynamicTools":            (*wish).empty,
	"environments":            (*wish).empty,
	"selectedCapabilityRoots": (*wish).empty,
	"experimentalRawEvents":   (*wish).off,
	"parentThreadId":          (*wish).relative,
	"ancestorThreadId":        (*wish).relative,
}

// refuse names the member and what it would take.
func (w *wish) refuse(m member, needs string) *protocol.Error {
	return w.c.outOfScope(fmt.Sprintf("%s %s of %s", m.name, printable(string(m.value), 80), w.method), needs)
}

func (w *wish) defaultFolder() {
	if !isAbsent(w.p.get("cwd")) {
		return
	}
	dir := w.c.g.cfg.Project
	if r := w.c.scope; len(r.projects) == 1 && !r.inProject(r.home) {
		dir = r.projects[0]
	}
	w.p.set("cwd", protocol.StringID(dir))
}

// folder holds the member, a path, against the scope's folders.
func (w *wish) folder(name string) *protocol.Error {
	v := w.p.get(name)
	if isNull(v) {
		return nil
	}
	dir := string(text(v))
	if dir != "" && !filepath.IsAbs(dir) {
		dir = filepath.Join(w.c.g.cfg.Project, dir) // as the engine takes it
	}
	real, ok := w.c.scope.folder(dir)
	if !ok {
		return w.refuse(member{name, v}, needsFolder(printable(dir, 200)))
	}
	w.p.set(name, protocol.StringID(real))
	if name == "cwd" {
		w.cwd = real
	}
	return nil
}

func needsFolder(dir string) string { return "project:" + dir }

func (w *wish) roots(m member) *protocol.Error {
	var dirs []string
	if json.Unmarshal(m.value, &dirs) != nil {
		return protocol.Errorf("Invalid request: %s is a list of folders", m.name)
	}
	for i, dir := range dirs {
		real, ok := w.c.scope.folder(dir)
		if !ok {
			return w.refuse(m, needsFolder(printable(dir, 200)))
		}
		dirs[i] = real
	}
	v, _ := json.Marshal(dirs) // strings
	w.p.set(m.name, v)
	return nil
}

// mayWork says whether the thread may be given something to do, as it is.
func (w *wish) mayWork() *protocol.Error {
	r := w.c.scope
	at, ok := w.c.g.places.get(w.thread)
	if !ok || at.sandbox == "" {
		return w.c.outOfScope(w.method+" in a thread whose sandbox is not known", "a thread/resume before it")
	}
	if sandboxRank(at.sandbox) >= rankFull && isAbsent(w.p.get("sandboxPolicy")) && isAbsent(w.p.get("permissions")) {
		return w.c.outOfScope(fmt.Sprintf("%s: the thread runs without a sandbox, which", w.method), needsAll)
	}
	if _, named := r.named[w.thread]; named || w.cwd != "" {
		return nil
	}
	if _, ok := r.folder(at.works()); !ok {
		return w.c.outOfScope(fmt.Sprintf("%s: the folder %s of the thread", w.method, printable(at.works(), 200)), needsFolder(printable(at.works(), 200)))
	}
	return nil
}

func sandboxRank(name string) int {
	if r, ok := sandboxRanks[name]; ok {
		return r
	}
	return rankFull // of what is not known nothing is believed
}

// bounds are the most that a request may ask for.
type bounds struct {
	sandbox  int
	approval string // "" asks as often as on-request
	whose    string // for people
}

// limits are the host's defaults for a new thread or one of the principal's own,
// else what the thread has.
func (w *wish) limits() (bounds, *protocol.Error) {
	if w.most != nil {
		return *w.most, nil
	}
	at, _ := w.c.g.places.get(w.thread)
	if w.thread != "" && !w.c.scope.own.has(w.thread) {
		switch {
		case at.sandbox != "":
			w.most = &bounds{sandboxRank(at.sandbox), at.approval, "what the thread has"}
			return *w.most, nil
		case w.method != "thread/resume" && w.method != "thread/fork": // those may be of one that is not loaded
			return bounds{}, w.c.outOfScope("to change settings of a thread that are not known", "a thread/resume before it")
		}
	}
	cwd := w.cwd
	if cwd == "" {
		cwd = at.works()
	}
	raw, err := w.c.ask(w.ctx, "config/read", map[string]any{"cwd": cwd})
	if err != nil {
		return bounds{}, protocol.Internalf("what the host allows by default is not known: %v", err)
	}
	conf := protocol.Field(raw, "config")
	most := bounds{approval: protocol.StringField(conf, "approval_policy"), whose: "the host's default"}
	switch mode, profile := protocol.StringField(conf, "sandbox_mode"), protocol.StringField(conf, "default_permissions"); {
	case mode != "":
		most.sandbox = sandboxRank(mode)
	case profile != "":
		if most.sandbox = rankReadOnly; profile[0] == ':' {
			most.sandbox = sandboxRank(profile)
		}
	case trusted(protocol.Field(conf, "projects"), cwd):
		most.sandbox = rankWorkspace // as Codex does when nothing is said
	}
	w.most = &most
	return most, nil
}

// trusted reports whether Codex's configuration trusts the folder, or the
// repository it is in.
func trusted(projects json.RawMessage, cwd string) bool {
	for dir := cwd; dir != ""; dir = filepath.Dir(dir) {
		_, err := os.Lstat(filepath.Join(dir, ".git"))
		root := err == nil
		if dir == cwd || root {
			for name, p := range protocol.Members(projects) {
				if name == dir {
					return protocol.StringField(p, "trust_level") == "trusted"
				}
			}
		}
		if root || dir == filepath.Dir(dir) {
			return false
		}
	}
	return false
}

// narrow keeps a new thread from full access where that is the host's default.
func (w *wish) narrow() *protocol.Error {
	most, why := w.limits()
	if why != nil {
		return why
	}
	if most.sandbox >= rankFull {
		w.p.set("sandbox", protocol.StringID(protocol.SandboxWorkspaceWrite))
	}
	return nil
}

func (w *wish) sandboxMode(m member) *protocol.Error {
	mode := string(text(m.value))
	rank, ok := sandboxRanks[mode]
	if !ok || m.name == "permissions" && !strings.HasPrefix(mode, ":") {
		return w.refuse(m, needsAll)
	}
	return w.rank(m, rank)
}

func (w *wish) rank(m member, rank int) *protocol.Error {
	if rank >= rankFull {
		return w.refuse(m, needsAll)
	}
	if rank == rankReadOnly {
		return nil
	}
	most, why := w.limits()
	if why != nil {
		return why
	}
	if rank > most.sandbox {
		return w.refuse(m, needsAll+": "+most.whose+" is narrower")
	}
	return nil
}

func (w *wish) sandboxPolicy(m member) *protocol.Error {
	var roots []string
	kind := ""
	for name, v := range protocol.Members(m.value) {
		ok := true
		switch name {
		case "type":
			kind = string(text(v))
		case "writableRoots":
			ok = json.Unmarshal(v, &roots) == nil
		case "networkAccess":
			ok = string(v) == "false"
		case "excludeTmpdirEnvVar", "excludeSlashTmp":
			ok = string(v) == "true" || string(v) == "false"
		default:
			ok = false
		}
		if !ok && !isNull(v) {
			return w.refuse(member{m.name + "." + printable(name, 40), v}, needsAll)
		}
	}
	for _, dir := range roots {
		if real, ok := w.c.scope.folder(dir); !ok || real != filepath.Clean(dir) {
			return w.refuse(member{m.name + ".writableRoots", m.value}, needsFolder(printable(dir, 200)))
		}
	}
	switch kind {
	case protocol.PolicyReadOnly, protocol.PolicyWorkspaceWrite:
		return w.rank(m, sandboxRanks[kind])
	}
	return w.refuse(m, needsAll)
}

// approval lets through what asks people at least as often. Between on-request
// and never there is nothing that a person would have to be asked: never refuses
// what on-request asks about.
func (w *wish) approval(m member) *protocol.Error {
	policy := string(text(m.value))
	switch policy {
	case protocol.ApproveUntrusted:
		return nil
	case protocol.ApproveOnRequest, protocol.ApproveNever:
	default:
		return w.refuse(m, needsAll)
	}
	most, why := w.limits()
	if why != nil {
		return why
	}
	switch most.approval {
	case "", protocol.ApproveOnRequest, protocol.ApproveNever:
		return nil
	}
	return w.refuse(m, needsAll+": "+most.whose+" asks more often")
}

func (w *wish) reviewer(m member) *protocol.Error {
	if string(text(m.value)) != "user" {
		return w.refuse(m, needsAll)
	}
	return nil
}

func (w *wish) config(m member) *protocol.Error {
	if b := bytes.TrimSpace(m.value); b[0] != '{' {
		return w.refuse(m, needsAll)
	}
	for key, v := range protocol.Members(m.value) {
		if !slices.Contains(configKeys, key) || text(v) == nil && !isNull(v) {
			return w.refuse(member{"config." + printable(key, 60), v}, needsAll)
		}
	}
	return nil
}

func (w *wish) collaboration(m member) *protocol.Error {
	for name, v := range protocol.Members(m.value) {
		switch name {
		case "mode":
		case "settings":
			for name := range protocol.Members(v) {
				if !slices.Contains([]string{"model", "reasoning_effort", "developer_instructions"}, name) {
					return w.refuse(m, needsAll)
				}
			}
		default:
			return w.refuse(m, needsAll)
		}
	}
	return nil
}

func (w *wish) empty(m member) *protocol.Error {
	if b := bytes.TrimSpace(m.value); string(b) == "[]" || string(b) == "{}" {
		return nil
	}
	var list []json.RawMessage
	if json.Unmarshal(m.value, &list) == nil && len(list) == 0 {
		return nil
	}
	return w.refuse(m, needsAll)
}

func (w *wish) off(m member) *protocol.Error {
	if string(m.value) != "false" {
		return w.refuse(m, needsAll)
	}
	return nil
}

func (w *wish) relative(m member) *protocol.Error {
	if id := protocol.ThreadID(text(m.value)); !w.c.reaches(w.ctx, id) {
		return w.c.threadOutOfScope(id)
	}
	return nil
}

// inputMembers are what one piece of input consists of, by its type.
var inputMembers = map[string][]string{
	"text": {"type", "text", "text_elements"}, "image": {"type", "url", "detail"}, "localImage": {"type", "path", "detail"},
}

// input lets text and images through. What the engine would read from the host's
// disk, outside of any sandbox, has to lie in a folder of the scope.
func (w *wish) input(m member) *protocol.Error {
	var parts []json.RawMessage
	if json.Unmarshal(m.value, &parts) != nil {
		return protocol.Errorf("Invalid request: input is a list")
	}
	for i, part := range parts {
		kind := protocol.StringField(part, "type")
		allowed, ok := inputMembers[kind]
		if !ok {
			return w.refuse(member{"input of type " + printable(kind, 40), nil}, needsAll)
		}
		for name, v := range protocol.Members(part) {
			if !slices.Contains(allowed, name) && !isNull(v) {
				return w.refuse(member{"input." + printable(name, 40), nil}, needsAll)
			}
		}
		switch kind {
		case "image":
			u, err := url.Parse(protocol.StringField(part, "url"))
			if err != nil || !slices.Contains([]string{"data", "http", "https"}, strings.ToLower(u.Scheme)) {
				return w.refuse(member{"input.url", nil}, needsAll)
			}
		case "localImage":
			path := protocol.StringField(part, "path")
			real, ok := w.c.scope.folder(path)
			if !ok {
				return w.refuse(member{"input.path", protocol.StringID(path)}, needsFolder(printable(filepath.Dir(path), 200)))
			}
			fixed := members{{"type", protocol.StringID(kind)}, {"path", protocol.StringID(real)}}
			if d := protocol.Field(part, "detail"); d != nil {
				fixed = append(fixed, member{"detail", d})
			}
			parts[i] = fixed.encode()
		}
	}
	v, err := json.Marshal(parts)
	if err != nil {
		return protocol.Errorf("Invalid request: %v", err)
	}
	w.p.set(m.name, v)
	return nil
}
