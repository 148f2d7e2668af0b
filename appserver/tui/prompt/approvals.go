package prompt

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"towline/appserver/protocol"
	"towline/appserver/tui/diffview"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
	"towline/appserver/tui/transcript"
)

var errIncomplete = errors.New("the request lacks what it asks about")

// declined is a refusal with the reason inside, for engines that read it there.
type declined struct {
	Decision string `json:"decision"`
	Reason   string `json:"reason,omitempty"`
}

func decline(reason string) any { return declined{protocol.DecisionDecline, reason} }

// tab is the distance of tab stops in what is to be approved.
const tab = 4

// para wraps text after a label. Nothing in it is hidden.
func para(th *theme.Theme, label, s string, w int) []string {
	rows := text.Wrap(text.Reveal(s, tab), max(w-text.Width(label), 4))
	for i := range rows {
		if i == 0 {
			rows[i] = th.Dim.Render(label) + rows[i]
		} else {
			rows[i] = strings.Repeat(" ", text.Width(label)) + rows[i]
		}
	}
	return rows
}

// command draws a command whole, wrapped, never cut.
func command(th *theme.Theme, cmd string, w int) []string {
	rows := text.Wrap(text.Reveal(cmd, tab), max(w-2, 4))
	for i, r := range rows {
		lead := "  "
		if i == 0 {
			lead = "$ "
		}
		rows[i] = th.Bold.Render(lead + r)
	}
	return rows
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func buildCommand(p *Prompt) error {
	var q struct {
		protocol.CommandApproval
		AdditionalPermissions json.RawMessage `json:"additionalPermissions"`
	}
	if err := json.Unmarshal(p.Req.Params, &q); err != nil {
		return err
	}
	cmd := deref(q.Command)
	if cmd == "" && p.Req.Item != nil {
		if c, ok := p.Req.Item.Body.(*protocol.CommandExecution); ok {
			cmd = c.Command
		}
	}
	if cmd == "" && q.NetworkApprovalContext == nil {
		return errIncomplete
	}
	p.title = "Run this command?"
	switch {
	case q.Kind == "writeStdin":
		p.title = "Type this into a running command?"
	case q.NetworkApprovalContext != nil:
		p.title = "Allow this connection?"
	}
	p.body = func(th *theme.Theme, w int) []string {
		var out []string
		if cmd != "" {
			out = command(th, transcript.Command(cmd), w)
		}
		if n := q.NetworkApprovalContext; n != nil {
			out = append(out, para(th, "to ", n.Protocol+" "+n.Host, w)...)
		}
		if cwd := deref(q.Cwd); cwd != "" {
			out = append(out, para(th, "in ", cwd, w)...)
		}
		out = append(out, permissionLines(th, q.AdditionalPermissions, w)...)
		if why := deref(q.Reason); why != "" {
			out = append(out, para(th, "why: ", why, w)...)
		}
		return out
	}
	p.choices = []choice{
		{key: "y", label: "run", seen: true, word: "approved", result: fixed(protocol.Decide(protocol.DecisionAccept))},
		{key: "a", label: "run, and don't ask again this session", short: "session", seen: true, word: "approved for the session", result: fixed(protocol.Decide(protocol.DecisionAcceptSession))},
	}
	p.amendments(q.ProposedExecpolicyAmendment, q.AvailableDecisions)
	p.refusals()
	return nil
}

// amendments adds the answers that change a policy, when they are offered.
func (p *Prompt) amendments(prefix []string, offered []json.RawMessage) {
	if len(prefix) > 0 {
		rule := map[string]any{"acceptWithExecpolicyAmendment": map[string]any{"execpolicy_amendment": prefix}}
		p.choices = append(p.choices, choice{
			key: "p", label: "run, and always allow `" + oneLine(quote(prefix)) + " …`", short: "always", seen: true,
			word: "approved with a rule", result: fixed(map[string]any{"decision": rule}),
		})
	}
	for _, o := range offered {
		am := protocol.Field(o, "applyNetworkPolicyAmendment")
		pol := protocol.Field(am, "network_policy_amendment")
		if pol == nil {
			continue
		}
		key, label := "h", "always allow "
		if protocol.StringField(pol, "action") == "deny" {
			key, label = "n", "always refuse "
		}
		if slices.ContainsFunc(p.choices, func(c choice) bool { return c.key == key }) {
			continue
		}
		p.choices = append(p.choices, choice{
			key: key, label: label + oneLine(protocol.StringField(pol, "host")), seen: true,
			word: "answered with a rule", result: fixed(protocol.Decision{Decision: o}),
		})
	}
}

// refusals are the same for everything that acts.
func (p *Prompt) refusals() {
	p.choices = append(p.choices,
		choice{key: "d", label: "deny", word: "denied", result: decline},
		choice{key: "r", label: "deny with a reason", short: "reason", reason: true, word: "denied", result: decline},
		choice{key: "esc", label: "stop the turn", short: "stop", word: "stopped", result: fixed(protocol.Decide(protocol.DecisionCancel))},
	)
}

func buildFile(p *Prompt) error {
	var q protocol.FileApproval
	if err := json.Unmarshal(p.Req.Params, &q); err != nil {
		return err
	}
	p.title = "Write these changes?"
	p.body = func(th *theme.Theme, w int) []string {
		var out []string
		if why := deref(q.Reason); why != "" {
			out = append(out, para(th, "why: ", why, w)...)
		}
		if root := deref(q.GrantRoot); root != "" {
			out = append(out, para(th, "and anything else below ", root, w)...)
		}
		return append(out, p.diff(th, w)...)
	}
	p.choices = []choice{
		{key: "y", label: "write", seen: true, word: "approved", result: fixed(protocol.Decide(protocol.DecisionAccept))},
		{key: "a", label: "write, and don't ask again this session", short: "session", seen: true, word: "approved for the session", result: fixed(protocol.Decide(protocol.DecisionAcceptSession))},
	}
	p.refusals()
	return nil
}

// diff draws the patch the request is about, whole.
func (p *Prompt) diff(th *theme.Theme, w int) []string {
	if p.Req.Item != nil {
		if f, ok := p.Req.Item.Body.(*protocol.FileChange); ok && len(f.Changes) > 0 {
			return diffview.RenderAll(f.Changes, diffview.Options{Theme: th, Width: w, Cwd: p.Req.Cwd})
		}
	}
	return text.Wrap("The server did not say what would change: it was announced before this screen was here. The changes are in the thread once they are decided.", w)
}

// permissionProfile is what a permissions request asks for.
type permissionProfile struct {
	Network *struct {
		Enabled *bool `json:"enabled"`
	} `json:"network"`
	FileSystem *struct {
		Read    []string `json:"read"`
		Write   []string `json:"write"`
		Entries []struct {
			Access string `json:"access"`
			Path   struct {
				Type, Path, Pattern string
				Value               struct{ Kind, Subpath, Path string }
			} `json:"path"`
		} `json:"entries"`
	} `json:"fileSystem"`
}

// permissionLines says in words what is asked for; what it cannot say in words
// it shows as it came.
func permissionLines(th *theme.Theme, raw json.RawMessage, w int) []string {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var q permissionProfile
	var out []string
	if json.Unmarshal(raw, &q) == nil {
		if q.Network != nil && q.Network.Enabled != nil && *q.Network.Enabled {
			out = append(out, "• use the network")
		}
		if fs := q.FileSystem; fs != nil {
			for _, f := range fs.Read {
				out = append(out, para(th, "• read  ", f, w)...)
			}
			for _, f := range fs.Write {
				out = append(out, para(th, "• write ", f, w)...)
			}
			for _, e := range fs.Entries {
				what := strings.TrimSpace(strings.Join([]string{e.Path.Path, e.Path.Pattern, e.Path.Value.Kind, e.Path.Value.Path, e.Path.Value.Subpath}, " "))
				out = append(out, para(th, "• "+oneLine(e.Access)+" ", what, w)...)
			}
		}
	}
	if out == nil {
		out = para(th, "permissions: ", string(raw), w)
	}
	return out
}

func buildPermissions(p *Prompt) error {
	var q protocol.PermissionsApproval
	if err := json.Unmarshal(p.Req.Params, &q); err != nil {
		return err
	}
	p.title = "Grant these permissions?"
	p.body = func(th *theme.Theme, w int) []string {
		out := permissionLines(th, q.Permissions, w)
		if q.Cwd != "" {
			out = append(out, para(th, "in ", q.Cwd, w)...)
		}
		if why := deref(q.Reason); why != "" {
			out = append(out, para(th, "why: ", why, w)...)
		}
		return out
	}
	grant := func(scope string) func(string) any {
		return fixed(protocol.PermissionsGranted{Permissions: q.Permissions, Scope: scope})
	}
	nothing := func(reason string) any {
		return struct {
			protocol.PermissionsGranted
			Reason string `json:"reason,omitempty"`
		}{protocol.PermissionsGranted{Permissions: json.RawMessage("{}"), Scope: "turn"}, reason}
	}
	p.choices = []choice{
		{key: "y", label: "grant for this turn", short: "turn", seen: true, word: "granted", result: grant("turn")},
		{key: "a", label: "grant for the session", short: "session", seen: true, word: "granted for the session", result: grant("session")},
		{key: "d", label: "refuse", word: "refused", result: nothing},
		{key: "r", label: "refuse with a reason", short: "reason", reason: true, word: "refused", result: nothing},
		{key: "esc", label: "stop the turn", short: "stop", stop: true},
	}
	return nil
}

func buildLegacyCommand(p *Prompt) error {
	var q struct {
		Command []string
		Cwd     string
		Reason  *string
	}
	if err := json.Unmarshal(p.Req.Params, &q); err != nil {
		return err
	}
	p.title = "Run this command?"
	p.body = func(th *theme.Theme, w int) []string {
		out := append(command(th, transcript.Command(quote(q.Command)), w), para(th, "in ", q.Cwd, w)...)
		if why := deref(q.Reason); why != "" {
			out = append(out, para(th, "why: ", why, w)...)
		}
		return out
	}
	p.legacyChoices()
	return nil
}

// oneLine shows all of s in one line.
func oneLine(s string) string { return strings.ReplaceAll(text.Reveal(s, 1), "\n", "␊") }

// quote writes an argv as a shell would take it.
func quote(argv []string) string {
	out := make([]string, len(argv))
	for i, a := range argv {
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$`;&|<>()*?[]{}~!#") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}

func buildLegacyPatch(p *Prompt) error {
	var q struct {
		FileChanges map[string]struct {
			Type, Content string
			UnifiedDiff   string  `json:"unified_diff"`
			MovePath      *string `json:"move_path"`
		}
		Reason *string
	}
	if err := json.Unmarshal(p.Req.Params, &q); err != nil {
		return err
	}
	var f protocol.FileChange
	for path, c := range q.FileChanges {
		diff := c.Content
		if c.Type == "update" {
			diff = c.UnifiedDiff
		}
		f.Changes = append(f.Changes, protocol.FileUpdate{Path: path, Kind: protocol.UpdateKind{Type: c.Type, MovePath: c.MovePath}, Diff: diff})
	}
	slices.SortFunc(f.Changes, func(a, b protocol.FileUpdate) int { return strings.Compare(a.Path, b.Path) })
	p.Req.Item = &protocol.Item{Body: &f}
	p.title = "Write these changes?"
	p.body = func(th *theme.Theme, w int) []string {
		if why := deref(q.Reason); why != "" {
			return append(para(th, "why: ", why, w), p.diff(th, w)...)
		}
		return p.diff(th, w)
	}
	p.legacyChoices()
	return nil
}

// legacyChoices are the answers of the requests before protocol version 2.
func (p *Prompt) legacyChoices() {
	say := func(d any) func(string) any { return fixed(map[string]any{"decision": d}) }
	denied := func(reason string) any {
		return map[string]any{"decision": map[string]any{"denied": map[string]any{"rejection": reason}}}
	}
	p.choices = []choice{
		{key: "y", label: "approve", seen: true, word: "approved", result: say("approved")},
		{key: "a", label: "approve for the session", short: "session", seen: true, word: "approved for the session", result: say("approved_for_session")},
		{key: "d", label: "deny", word: "denied", result: denied},
		{key: "r", label: "deny with a reason", short: "reason", reason: true, word: "denied", result: denied},
		{key: "esc", label: "stop the turn", short: "stop", word: "stopped", result: say("abort")},
	}
}
