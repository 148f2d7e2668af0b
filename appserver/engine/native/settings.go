package native

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"towline/appserver/engine/native/agent"
	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
)

// overrides are the members by which requests change what a thread runs with.
// Absent and null leave a setting alone.
type overrides struct {
	Cwd            *string                 `json:"cwd"`
	Model          *string                 `json:"model"`
	Effort         *string                 `json:"effort"`
	Summary        *string                 `json:"summary"`
	ServiceTier    *string                 `json:"serviceTier"`
	ApprovalPolicy json.RawMessage         `json:"approvalPolicy"`
	Sandbox        *string                 `json:"sandbox"`       // a mode, in thread/start and its kin
	SandboxPolicy  *protocol.SandboxPolicy `json:"sandboxPolicy"` // in turn/start and thread/settings/update
	Permissions    *string                 `json:"permissions"`   // a profile's id
	Collaboration  json.RawMessage         `json:"collaborationMode"`
	// Config are dotted configuration keys; the few that name settings count.
	Config map[string]json.RawMessage `json:"config"`
	// AllowModelFallback lets a model this engine does not list become the default.
	AllowModelFallback bool `json:"allowProviderModelFallback"`
}

// collaboration is a collaborationMode: it wins over model and effort.
type collaboration struct {
	Mode     string `json:"mode"` // "default" or "plan"
	Settings struct {
		Model     string  `json:"model"`
		Effort    *string `json:"reasoning_effort"`
		Developer *string `json:"developer_instructions"`
	} `json:"settings"`
}

// apply changes s, or refuses and leaves it half changed: callers give a copy.
func (e *Engine) apply(o *overrides, s *thread.Settings) error {
	for key, raw := range o.Config {
		var v string
		if json.Unmarshal(raw, &v) != nil {
			continue
		}
		switch key {
		case "model":
			s.Model = v
		case "model_reasoning_effort":
			s.Effort = &v
		case "model_reasoning_summary":
			s.Summary = &v
		}
	}
	if o.Cwd != nil {
		cwd := *o.Cwd
		if !filepath.IsAbs(cwd) {
			cwd = filepath.Join(e.cfg.Cwd, cwd)
		}
		cwd = filepath.Clean(cwd)
		if fi, err := os.Stat(cwd); err != nil || !fi.IsDir() {
			return protocol.Errorf("cwd is not a directory: %s", cwd)
		}
		s.Cwd = cwd
	}
	if o.Model != nil && *o.Model != "" {
		s.Model = *o.Model
	}
	if o.Effort != nil {
		s.Effort = o.Effort
	}
	if o.Summary != nil {
		s.Summary = o.Summary
	}
	if o.ServiceTier != nil {
		s.ServiceTier = o.ServiceTier
	}
	if given(o.ApprovalPolicy) {
		if !validApproval(o.ApprovalPolicy) {
			return protocol.Errorf("Invalid request: unknown variant %s, expected one of `untrusted`, `on-request`, `never`, `granular`", o.ApprovalPolicy)
		}
		s.Approval = o.ApprovalPolicy
	}
	if err := applySandbox(o, s); err != nil {
		return err
	}
	if given(o.Collaboration) {
		var c collaboration
		if err := json.Unmarshal(o.Collaboration, &c); err != nil || c.Mode != "default" && c.Mode != "plan" {
			return protocol.Errorf("Invalid request: collaborationMode is not understood")
		}
		s.Collaboration = o.Collaboration
		if c.Settings.Model != "" {
			s.Model = c.Settings.Model
		}
		s.Effort = c.Settings.Effort
	}
	if o.AllowModelFallback && e.model(s.Model) == nil {
		s.Model = e.cfg.Models[0].ID
	}
	return nil
}

func applySandbox(o *overrides, s *thread.Settings) error {
	switch {
	case o.SandboxPolicy != nil:
		if _, ok := profileOf(*o.SandboxPolicy); !ok && o.SandboxPolicy.Type != protocol.PolicyExternal {
			return protocol.Errorf("Invalid request: unknown variant `%s`, expected one of `dangerFullAccess`, `readOnly`, `externalSandbox`, `workspaceWrite`", o.SandboxPolicy.Type)
		}
		s.Sandbox = *o.SandboxPolicy
	case o.Permissions != nil:
		mode, ok := profileModes[*o.Permissions]
		if !ok {
			return protocol.Errorf("unknown permission profile: %s", *o.Permissions)
		}
		s.Sandbox, _ = policyOf(mode)
	case o.Sandbox != nil:
		p, ok := policyOf(*o.Sandbox)
		if !ok {
			return protocol.Errorf("Invalid request: unknown variant `%s`, expected one of `read-only`, `workspace-write`, `danger-full-access`", *o.Sandbox)
		}
		s.Sandbox = p
	}
	return nil
}

// given reports whether a raw member is there and not null.
func given(raw json.RawMessage) bool { return len(raw) > 0 && !bytes.Equal(raw, []byte("null")) }

func validApproval(raw json.RawMessage) bool {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return slices.Contains([]string{protocol.ApproveUntrusted, protocol.ApproveOnRequest, protocol.ApproveNever}, s)
	}
	return needs(protocol.Field(raw, "granular"), "mcp_elicitations", "rules", "sandbox_approval") == nil
}

// approvalName is what the agent goes by. Of a granular object sandbox_approval
// decides: whether people are asked about what the sandbox does not allow, as
// under on-request, or it is refused, as under never. The other members are
// about questions this engine never has: it knows no exec policy rules, no
// skills, no MCP servers, and its tools include none that asks for permissions.
func approvalName(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	if string(protocol.Field(protocol.Field(raw, "granular"), "sandbox_approval")) == "true" {
		return protocol.ApproveOnRequest
	}
	return protocol.ApproveNever
}

// policyOf is the policy a sandbox mode stands for.
func policyOf(mode string) (p protocol.SandboxPolicy, ok bool) {
	switch mode {
	case protocol.SandboxReadOnly:
		p.Type = protocol.PolicyReadOnly
	case protocol.SandboxWorkspaceWrite:
		p.Type = protocol.PolicyWorkspaceWrite
	case protocol.SandboxFullAccess:
		p.Type = protocol.PolicyFullAccess
	}
	return p, p.Type != ""
}

// The built-in permission profiles and the sandbox modes they stand for.
const (
	profileReadOnly  = ":read-only"
	profileWorkspace = ":workspace"
	profileFull      = ":danger-full-access"
)

var profileModes = map[string]string{
	profileReadOnly: protocol.SandboxReadOnly, profileWorkspace: protocol.SandboxWorkspaceWrite, profileFull: protocol.SandboxFullAccess,
}

// profile is an activePermissionProfile.
type profile struct {
	ID      string  `json:"id"`
	Extends *string `json:"extends"`
}

func profileOf(p protocol.SandboxPolicy) (*profile, bool) {
	switch p.Type {
	case protocol.PolicyReadOnly:
		return &profile{ID: profileReadOnly}, true
	case protocol.PolicyWorkspaceWrite:
		return &profile{ID: profileWorkspace}, true
	case protocol.PolicyFullAccess:
		return &profile{ID: profileFull}, true
	}
	return nil, false
}

// defaults is what a new thread begins with.
func (e *Engine) defaults() thread.Settings {
	p, _ := policyOf(e.cfg.Sandbox)
	s := thread.Settings{
		Cwd: e.cfg.Cwd, Model: e.cfg.Models[0].ID, Sandbox: p,
		Approval: protocol.StringID(e.cfg.Approval),
	}
	if m := e.config.str("model"); m != "" {
		s.Model = m
	}
	if ef := e.config.str("model_reasoning_effort"); ef != "" {
		s.Effort = &ef
	}
	return s
}

// model finds a listed model by its slug.
func (e *Engine) model(slug string) *Model {
	for i := range e.cfg.Models {
		if e.cfg.Models[i].ID == slug {
			return &e.cfg.Models[i]
		}
	}
	return nil
}

// threadSettings is the body of thread/settings/updated.
type threadSettings struct {
	Cwd                     string                 `json:"cwd"`
	Environments            []environment          `json:"environments"`
	ApprovalPolicy          json.RawMessage        `json:"approvalPolicy"`
	ApprovalsReviewer       string                 `json:"approvalsReviewer"`
	SandboxPolicy           protocol.SandboxPolicy `json:"sandboxPolicy"`
	ActivePermissionProfile *profile               `json:"activePermissionProfile"`
	Model                   string                 `json:"model"`
	ModelProvider           string                 `json:"modelProvider"`
	ServiceTier             *string                `json:"serviceTier"`
	Effort                  *string                `json:"effort"`
	Summary                 *string                `json:"summary"`
	CollaborationMode       json.RawMessage        `json:"collaborationMode"`
	DisabledPluginIDs       []string               `json:"disabledPluginIds"`
}

// environment is where a thread's commands run: here.
type environment struct {
	ID    string   `json:"environmentId"`
	Cwd   string   `json:"cwd"`
	Roots []string `json:"runtimeWorkspaceRoots"`
}

func environments(cwd string) []environment {
	return []environment{{ID: "local", Cwd: cwd, Roots: []string{cwd}}}
}

func (e *Engine) describe(s *thread.Settings) threadSettings {
	p, _ := profileOf(s.Sandbox)
	return threadSettings{
		Cwd: s.Cwd, Environments: environments(s.Cwd), ApprovalPolicy: s.Approval, ApprovalsReviewer: "user",
		SandboxPolicy: s.Sandbox, ActivePermissionProfile: p, Model: s.Model, ModelProvider: e.cfg.Provider,
		ServiceTier: s.ServiceTier, Effort: s.Effort, Summary: s.Summary,
		CollaborationMode: collaborationOf(s), DisabledPluginIDs: []string{},
	}
}

// collaborationOf is the mode in force; a thread nobody set one for is in the
// default mode.
func collaborationOf(s *thread.Settings) json.RawMessage {
	c := collaboration{Mode: "default"}
	if given(s.Collaboration) {
		_ = json.Unmarshal(s.Collaboration, &c) // it was read once before it was kept
	}
	c.Settings.Model, c.Settings.Effort = s.Model, s.Effort
	b, _ := json.Marshal(c) // strings always marshal
	return b
}

// turnOf is what the agent is given for a turn under s.
func (e *Engine) turnOf(s *thread.Settings) agent.Turn {
	t := agent.Turn{
		Cwd: s.Cwd, Model: s.Model, Approval: approvalName(s.Approval), Sandbox: s.Sandbox,
	}
	if m := e.model(s.Model); m != nil {
		t.Effort, t.ContextWindow = m.DefaultEffort, m.ContextWindow
	}
	if s.Effort != nil && *s.Effort != "" {
		t.Effort = *s.Effort
	}
	if s.Summary != nil {
		t.Summary = *s.Summary
	}
	var c collaboration
	if given(s.Collaboration) && json.Unmarshal(s.Collaboration, &c) == nil {
		t.PlanMode = c.Mode == "plan"
		if c.Settings.Developer != nil {
			t.DeveloperInstructions = *c.Settings.Developer
		}
	}
	return t
}

// sameSettings compares what clients would see.
func sameSettings(a, b *thread.Settings) bool {
	x, _ := json.Marshal(a) // plain data
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}
