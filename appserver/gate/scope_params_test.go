package gate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towline/appserver/protocol"
)

// What a request may make of a thread. "" for want is a refusal; otherwise what
// the engine was sent has to contain it.
func TestScopedSettings(t *testing.T) {
	home, work, other := folders(t)
	link, dangling := filepath.Join(work, "link"), filepath.Join(work, "dangling")
	for name, to := range map[string]string{link: other, dangling: filepath.Join(other, "none"), filepath.Join(work, "in"): filepath.Join(work, "sub")} {
		if err := os.Symlink(to, name); err != nil {
			t.Skip("no symbolic links here: ", err)
		}
	}
	cwd := func(dir string) string { return fmt.Sprintf(`"cwd":%q`, dir) }
	type rule struct{ conf, params, want string }
	const (
		untold    = `{}`
		readOnly  = `{"sandbox_mode":"read-only","approval_policy":"on-request"}`
		workspace = `{"sandbox_mode":"workspace-write","approval_policy":"on-request"}`
		strict    = `{"sandbox_mode":"workspace-write","approval_policy":"untrusted"}`
		full      = `{"sandbox_mode":"danger-full-access","approval_policy":"never"}`
		profile   = `{"default_permissions":"mine"}`
	)
	trusted := fmt.Sprintf(`{"projects":{%q:{"trust_level":"trusted"}}}`, work)
	for name, tc := range map[string]rule{
		"the only project":                 {workspace, `{}`, cwd(work)},
		"the project":                      {workspace, `{` + cwd(work) + `}`, cwd(work)},
		"below it":                         {workspace, `{` + cwd(work+"/sub/new") + `}`, cwd(work + "/sub/new")},
		"up and down":                      {workspace, `{` + cwd(work+"/sub/..") + `}`, cwd(work)},
		"the host's project is not":        {workspace, `{` + cwd(home) + `}`, ""},
		"beside it":                        {workspace, `{` + cwd(work+"-not") + `}`, ""},
		"above it":                         {workspace, `{` + cwd(filepath.Dir(work)) + `}`, ""},
		"the root":                         {workspace, `{"cwd":"/"}`, ""},
		"up and out":                       {workspace, `{` + cwd(work+"/../other") + `}`, ""},
		"relative to the host's":           {workspace, `{"cwd":"sub"}`, ""},
		"a link out":                       {workspace, `{` + cwd(link) + `}`, ""},
		"below a link out":                 {workspace, `{` + cwd(link+"/new") + `}`, ""},
		"a link to nowhere yet":            {workspace, `{` + cwd(dangling) + `}`, ""},
		"a link within is resolved":        {workspace, `{` + cwd(work+"/in") + `}`, cwd(work + "/sub")},
		"a number":                         {workspace, `{"cwd":7}`, ""},
		"other spelling":                   {workspace, `{"Cwd":"/"}`, ""},
		"a file":                           {workspace, `{"path":"/x"}`, ""},
		"narrower":                         {workspace, `{"sandbox":"read-only"}`, `"sandbox":"read-only"`},
		"the default":                      {workspace, `{"sandbox":"workspace-write"}`, `"sandbox":"workspace-write"`},
		"wider":                            {readOnly, `{"sandbox":"workspace-write"}`, ""},
		"wider than untold":                {untold, `{"sandbox":"workspace-write"}`, ""},
		"untold and trusted":               {trusted, `{"sandbox":"workspace-write"}`, `"sandbox":"workspace-write"`},
		"a profile of the host's":          {profile, `{"sandbox":"workspace-write"}`, ""},
		"a profile stays":                  {profile, `{}`, `{"cwd"`},
		"full access":                      {workspace, `{"sandbox":"danger-full-access"}`, ""},
		"full access where it is the rule": {full, `{"sandbox":"danger-full-access"}`, ""},
		"no full access by default":        {full, `{}`, `"sandbox":"workspace-write"`},
		"null is no word":                  {full, `{"sandbox":null}`, `"sandbox":"workspace-write"`},
		"full access by profile":           {full, `{"permissions":":danger-full-access"}`, ""},
		"a profile that is known":          {workspace, `{"permissions":":workspace"}`, `"permissions":":workspace"`},
		"a profile that is not":            {workspace, `{"permissions":"mine"}`, ""},
		"a mode for a profile":             {workspace, `{"permissions":"workspace-write"}`, ""},
		"a sandbox that is new":            {workspace, `{"sandbox":"shared"}`, ""},
		"never asks":                       {workspace, `{"approvalPolicy":"never"}`, `"approvalPolicy":"never"`},
		"asks more":                        {full, `{"approvalPolicy":"untrusted"}`, `"approvalPolicy":"untrusted"`},
		"asks less":                        {strict, `{"approvalPolicy":"on-request"}`, ""},
		"asks never where all is asked":    {strict, `{"approvalPolicy":"never"}`, ""},
		"granular":                         {workspace, `{"approvalPolicy":{"granular":{"rules":false}}}`, ""},
		"people review":                    {workspace, `{"approvalsReviewer":"user"}`, `"approvalsReviewer":"user"`},
		"a model reviews":                  {workspace, `{"approvalsReviewer":"guardian_subagent"}`, ""},
		"a root within":                    {workspace, fmt.Sprintf(`{"runtimeWorkspaceRoots":[%q]}`, work+"/in"), work + "/sub"},
		"a root without":                   {workspace, fmt.Sprintf(`{"runtimeWorkspaceRoots":[%q,%q]}`, work, other), ""},
		"how hard to think":                {workspace, `{"config":{"model_reasoning_effort":"high"}}`, `"model_reasoning_effort":"high"`},
		"servers":                          {workspace, `{"config":{"mcp_servers.x.command":"sh"}}`, ""},
		"the sandbox by config":            {workspace, `{"config":{"sandbox_mode":"danger-full-access"}}`, ""},
		"a table by config":                {workspace, `{"config":{"model":{"x":1}}}`, ""},
		"a list for config":                {workspace, `{"config":[1]}`, ""},
		"tools":                            {workspace, `{"dynamicTools":[{"name":"x"}]}`, ""},
		"no tools":                         {workspace, `{"dynamicTools":[],"environments":null}`, `"dynamicTools":[]`},
		"environments":                     {workspace, `{"environments":[{"environmentId":"local","cwd":"/"}]}`, ""},
		"capability roots":                 {workspace, `{"selectedCapabilityRoots":["/"]}`, ""},
		"raw events":                       {workspace, `{"experimentalRawEvents":true}`, ""},
		"another provider":                 {workspace, `{"modelProvider":"mine"}`, ""},
		"a project of the engine's":        {workspace, `{"projectId":"p"}`, ""},
		"what is new":                      {workspace, `{"somethingNew":true}`, ""},
		"what is new and says nothing":     {workspace, `{"somethingNew":null}`, `{"cwd"`},
		"a list for params":                {workspace, `["x"]`, ""},
		"the model's own":                  {workspace, `{"model":"m","developerInstructions":"d","ephemeral":true}`, `"developerInstructions":"d"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c *Config) { c.Project = home }, false)
			_ = json.Unmarshal([]byte(tc.conf), &r.e.conf)
			p := r.joinScoped("p", protocol.RoleOperator, "exec", "project:"+work)
			_, err := p.call("thread/start", json.RawMessage(tc.params))
			sent := r.e.last("thread/start")
			if tc.want == "" {
				if err == nil || sent != "" {
					t.Fatalf("the engine was sent %q, the client told %v", sent, err)
				}
				if tc.params[0] == '{' && !strings.Contains(err.Error(), "scope of p (exec project:"+work+"); it needs ") {
					t.Errorf("the denial does not say what it takes: %v", err)
				}
				return
			}
			if err != nil || !strings.Contains(sent, tc.want) {
				t.Fatalf("the engine was sent %q, the client told %v", sent, err)
			}
		})
	}
}

// The same for what is said in a thread, and in somebody else's.
func TestScopedTurns(t *testing.T) {
	home, work, other := folders(t)
	r := newRig(t, func(c *Config) { c.Project = home }, false)
	r.e.conf = map[string]any{"sandbox_mode": "workspace-write"}
	p := r.joinScoped("p", protocol.RoleOperator, "exec", "project:"+work)
	own := p.startThread()
	theirs, open, looks, tamed := r.e.thread("1", work), r.e.thread("2", work), r.e.thread("3", work), r.e.thread("4", work)
	r.e.mu.Lock()
	r.e.threads[open].sandbox, r.e.threads[tamed].sandbox = protocol.PolicyFullAccess, protocol.PolicyFullAccess
	r.e.threads[looks].sandbox, r.e.threads[looks].approval = protocol.PolicyReadOnly, protocol.ApproveUntrusted
	r.e.mu.Unlock()
	for _, id := range []string{theirs, open, looks, tamed} {
		p.resume(id)
	}
	const text = `"input":[{"type":"text","text":"hi"}]`
	file := func(path string) string { return fmt.Sprintf(`"input":[{"type":"localImage","path":%q}]`, path) }
	for name, tc := range map[string]struct {
		thread, params string
		ok             bool
	}{
		"a word":                    {own, text, true},
		"a word in another's":       {theirs, text, true},
		"with full access":          {open, text, false},
		"that is taken from it":     {tamed, text + `,"sandboxPolicy":{"type":"readOnly"}`, true},
		"a schema":                  {own, text + `,"outputSchema":{"type":"object","params":{"cwd":"/"}}`, true},
		"a folder":                  {own, text + `,"cwd":"` + work + `/sub"`, true},
		"another's folder":          {own, text + `,"cwd":"` + other + `"`, false},
		"the policy of the host":    {own, text + `,"sandboxPolicy":{"type":"workspaceWrite","writableRoots":["` + work + `"],"networkAccess":false}`, true},
		"a root elsewhere":          {own, text + `,"sandboxPolicy":{"type":"workspaceWrite","writableRoots":["` + other + `"]}`, false},
		"the network":               {own, text + `,"sandboxPolicy":{"type":"workspaceWrite","networkAccess":true}`, false},
		"the network to look":       {own, text + `,"sandboxPolicy":{"type":"readOnly","networkAccess":true}`, false},
		"full access by policy":     {own, text + `,"sandboxPolicy":{"type":"dangerFullAccess"}`, false},
		"another sandbox":           {own, text + `,"sandboxPolicy":{"type":"externalSandbox"}`, false},
		"a policy in other letters": {own, text + `,"sandboxPolicy":{"type":"readOnly","Type":"dangerFullAccess"}`, false},
		"what another's has not":    {looks, text + `,"sandboxPolicy":{"type":"workspaceWrite"}`, false},
		"what another's asks":       {looks, text + `,"approvalPolicy":"never"`, false},
		"plan":                      {own, text + `,"collaborationMode":{"mode":"plan","settings":{"model":"m"}}`, true},
		"plan, and more":            {own, text + `,"collaborationMode":{"mode":"plan","cwd":"/"}`, false},
		"a picture of the web":      {own, `"input":[{"type":"image","url":"https://x/y.png"}]`, true},
		"a picture in the message":  {own, `"input":[{"type":"image","url":"data:image/png;base64,AA=="}]`, true},
		"a picture by file":         {own, `"input":[{"type":"image","url":"file:///etc/passwd"}]`, false},
		"a picture of the project":  {own, file(work + "/sub/a.png"), true},
		"a picture of elsewhere":    {own, file(other + "/a.png"), false},
		"a skill":                   {own, `"input":[{"type":"skill","name":"x","path":"` + work + `/SKILL.md"}]`, false},
		"a mention":                 {own, `"input":[{"type":"mention","name":"x","path":"/etc/passwd"}]`, false},
		"a path in other letters":   {own, `"input":[{"type":"text","text":"x","Path":"/etc/passwd"}]`, false},
		"a parent":                  {own, text + `,"parentTurnId":"t"`, false},
		"a tool's output":           {own, text + `,"toolOutput":{}`, false},
		"no list":                   {own, `"input":{"type":"text"}`, false},
	} {
		r.e.forgetRaw()
		_, err := p.call("turn/start", json.RawMessage(`{"threadId":"`+tc.thread+`",`+tc.params+`}`))
		sent := r.e.last("turn/start")
		if (err == nil) != tc.ok || (sent != "") != tc.ok {
			t.Errorf("%s: the engine was sent %q, the client told %v", name, sent, err)
		}
		if name == "a root elsewhere" && !strings.Contains(fmt.Sprint(err), "needs project:"+other) {
			t.Errorf("the denial does not say what it takes: %v", err)
		}
	}
	// Where a thread works may have become a link since.
	if err := os.Remove(filepath.Join(work, "sub")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(work, "sub")); err != nil {
		t.Skip("no symbolic links here: ", err)
	}
	r.e.mu.Lock()
	r.e.threads[theirs].cwd = filepath.Join(work, "sub")
	r.e.toLocked(theirs, "thread/settings/updated", map[string]any{"threadId": theirs, "threadSettings": map[string]any{
		"cwd": filepath.Join(work, "sub"), "approvalPolicy": "on-request", "sandboxPolicy": map[string]string{"type": "workspaceWrite"},
	}})
	r.e.mu.Unlock()
	p.must("model/list", nil)
	if _, err := p.call("turn/start", json.RawMessage(`{"threadId":"`+theirs+`",`+text+`}`)); err == nil {
		t.Error("a turn was started in a folder that leads out of the project")
	}
}

// thread/resume says no more for who may only look than it does without a scope.
func TestScopedObserversResume(t *testing.T) {
	home, work, _ := folders(t)
	r := newRig(t, func(c *Config) { c.Project = home }, false)
	thread := r.e.thread("1", work)
	p := r.joinScoped("p", protocol.RoleObserver, "threads:"+thread)
	r.e.forgetRaw()
	p.must("thread/resume", map[string]any{"threadId": thread, "excludeTurns": true, "cwd": "/", "sandbox": "danger-full-access", "path": "/x"})
	if sent := r.e.last("thread/resume"); !strings.HasSuffix(sent, `"params":{"excludeTurns":true,"threadId":"`+thread+`"}}`) {
		t.Errorf("the engine was sent %s", sent)
	}
	if _, err := p.call("thread/start", map[string]any{}); err == nil {
		t.Error("an observer started a thread")
	}
	op := r.joinScoped("op", protocol.RoleOperator, "threads:"+thread)
	if _, err := op.call("thread/start", map[string]any{}); err == nil || !strings.Contains(err.Error(), "project:DIR, or exec") {
		t.Errorf("a scope of threads starts others: %v", err)
	}
}
