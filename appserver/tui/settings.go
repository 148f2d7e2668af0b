package tui

import (
	"encoding/json"
	"maps"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
)

// modelInfo is one row of model/list.
type modelInfo struct {
	Model                     string `json:"model"`
	DisplayName               string `json:"displayName"`
	Description               string `json:"description"`
	Hidden                    bool   `json:"hidden"`
	SupportedReasoningEfforts []struct {
		ReasoningEffort string `json:"reasoningEffort"`
		Description     string `json:"description"`
	} `json:"supportedReasoningEfforts"`
}

// chooseModel sets the model named, or offers those there are.
func (m *model) chooseModel(name string) tea.Cmd {
	if name != "" {
		return m.set(map[string]any{"model": name}, func(m *model) { m.cur.model = name })
	}
	return call(m.link, "model/list", map[string]any{}, func(m *model, v struct{ Data []modelInfo }, err error) tea.Cmd {
		if err != nil {
			m.fail("list models", err)
			return nil
		}
		c := &chooser{title: "Model"}
		for _, i := range v.Data {
			if i.Hidden {
				continue
			}
			c.add(i.DisplayName, i.Description, i.Model == m.cur.model, func(m *model) tea.Cmd { return m.chooseEffort(i) })
		}
		m.screen = c
		return nil
	})
}

func (m *model) chooseEffort(i modelInfo) tea.Cmd {
	apply := func(effort string) tea.Cmd {
		set := map[string]any{"model": i.Model}
		if effort != "" {
			set["effort"] = effort
		}
		return m.set(set, func(m *model) { m.cur.model, m.cur.effort = i.Model, effort })
	}
	if len(i.SupportedReasoningEfforts) < 2 {
		return apply("")
	}
	c := &chooser{title: "How hard " + text.CleanLine(i.DisplayName) + " thinks"}
	for _, e := range i.SupportedReasoningEfforts {
		c.add(e.ReasoningEffort, e.Description, i.Model == m.cur.model && e.ReasoningEffort == m.cur.effort, func(*model) tea.Cmd { return apply(e.ReasoningEffort) })
	}
	m.screen = c
	return nil
}

// presets are the useful pairs of sandbox and approval policy, safest first.
var presets = []struct {
	label, about, approval, sandbox string
}{
	{"read only", "reads and answers; asks before it writes or runs anything with effect", protocol.ApproveOnRequest, protocol.PolicyReadOnly},
	{"ask for everything", "writes in the project, asks before every command", protocol.ApproveUntrusted, protocol.PolicyWorkspaceWrite},
	{"work in the project", "writes and runs in the project without asking, asks to leave it", protocol.ApproveOnRequest, protocol.PolicyWorkspaceWrite},
	{"never ask", "stays in the project and fails where it would have to ask", protocol.ApproveNever, protocol.PolicyWorkspaceWrite},
	{"everything", "no sandbox, no questions: the agent is you on this machine", protocol.ApproveNever, protocol.PolicyFullAccess},
}

func (m *model) chooseApprovals() tea.Cmd {
	c := &chooser{title: "What may be done without asking"}
	for _, p := range presets {
		now := p.approval == m.cur.approval && p.sandbox == m.cur.sandbox.Type
		c.add(p.label, p.about, now, func(m *model) tea.Cmd {
			policy := protocol.SandboxPolicy{Type: p.sandbox}
			return m.set(map[string]any{"approvalPolicy": p.approval, "sandboxPolicy": policy}, func(m *model) {
				m.cur.approval, m.cur.sandbox = p.approval, policy
			})
		})
	}
	m.screen = c
	return nil
}

// set changes settings of the thread: at once where the server can, else with
// the next turn. then shows them.
func (m *model) set(values map[string]any, then func(m *model)) tea.Cmd {
	m.screen = nil
	id := m.cur.id
	params := maps.Clone(values)
	params["threadId"] = id
	return call(m.link, "thread/settings/update", params, func(m *model, _ json.RawMessage, err error) tea.Cmd {
		pe, no := refused(err)
		switch {
		case m.cur.id != id:
			return nil
		case no && unknownMethod(pe):
			if m.cur.overrides == nil {
				m.cur.overrides = map[string]any{}
			}
			maps.Copy(m.cur.overrides, values)
			m.say("from the next turn on")
		case err != nil:
			m.fail("change the settings", err)
			return nil
		}
		then(m)
		return nil
	})
}

// sandboxName is a policy as the configuration spells it.
func sandboxName(p protocol.SandboxPolicy) string {
	switch p.Type {
	case protocol.PolicyReadOnly:
		return protocol.SandboxReadOnly
	case protocol.PolicyWorkspaceWrite:
		return protocol.SandboxWorkspaceWrite
	case protocol.PolicyFullAccess:
		return protocol.SandboxFullAccess
	case protocol.PolicyExternal:
		return "external sandbox"
	}
	return p.Type
}

// approvalName is an approval policy in a word.
func approvalName(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	if len(raw) > 0 {
		return "granular"
	}
	return ""
}
