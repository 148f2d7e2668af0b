package agent

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"towline/appserver/engine/native/sandbox"
	"towline/appserver/protocol"
)

// baseInstructions is who the model is here.
//
//go:embed instructions.md
var baseInstructions string

// maxInstructions bounds all AGENTS.md files together, as Codex does: they are
// sent with every request.
const maxInstructions = 32 << 10

// The names of instruction files. An override replaces the file next to it.
var instructionFiles = []string{"AGENTS.override.md", "AGENTS.md"}

// The heads by which recorded context is known again.
const (
	permissionsHead = "<permissions instructions>"
	projectHead     = "# AGENTS.md instructions for "
	environmentHead = "<environment_context>"
	abortedHead     = "<turn_aborted>"
	shellHead       = "<user_shell_command>"
)

const turnAborted = abortedHead + `
The user interrupted this turn. Commands it was running were ended; what they and the tool calls before them did up to then still stands.
</turn_aborted>`

// Instructions gathers the AGENTS.md files that apply in cwd: the one in home
// first, then from the root of the repository down to cwd. Sources are their
// absolute paths. A file that cannot be read is named in err; the others are
// returned regardless.
func Instructions(home, cwd string) (text string, sources []string, err error) {
	var dirs []string
	if home != "" {
		dirs = append(dirs, home)
	}
	root := gitRoot(cwd)
	if root == "" {
		root = cwd
	}
	var below []string
	for dir := filepath.Clean(cwd); ; dir = filepath.Dir(dir) {
		below = append([]string{dir}, below...)
		if dir == root || dir == filepath.Dir(dir) {
			break
		}
	}
	for _, dir := range below {
		if dir != home {
			dirs = append(dirs, dir)
		}
	}
	var b strings.Builder
	var errs []error
	for _, dir := range dirs {
		path, body, rerr := instructionFile(dir)
		if rerr != nil {
			errs = append(errs, rerr)
		}
		if body == "" {
			continue
		}
		room := maxInstructions - b.Len() - len("\n\n")
		if room <= 0 {
			errs = append(errs, fmt.Errorf("%s: left out, the instruction files together are larger than %d KiB", path, maxInstructions>>10))
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\n\n")
		}
		sources = append(sources, path)
		if len(body) > room {
			body = cut(body, room)
			errs = append(errs, fmt.Errorf("%s: cut, the instruction files together are larger than %d KiB", path, maxInstructions>>10))
		}
		b.WriteString(body)
	}
	return b.String(), sources, errors.Join(errs...)
}

// instructionFile reads the file of one directory; body is "" when there is none.
func instructionFile(dir string) (path, body string, err error) {
	for _, name := range instructionFiles {
		path = filepath.Join(dir, name)
		b, rerr := readRegular(path, 1<<20)
		if errors.Is(rerr, os.ErrNotExist) {
			continue
		}
		if rerr != nil {
			return path, "", fmt.Errorf("%s: %w", path, rerr)
		}
		if !utf8.Valid(b) {
			return path, "", fmt.Errorf("%s: not UTF-8 text", path)
		}
		if body = strings.TrimSpace(string(b)); body != "" {
			return path, body, nil
		}
	}
	return "", "", nil
}

// gitRoot is the nearest repository at or above dir; "" without. An empty .git
// directory is none: sandboxes leave such things behind, also in /tmp.
func gitRoot(dir string) string {
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		git := filepath.Join(dir, ".git")
		if st, err := os.Lstat(git); err == nil {
			if !st.IsDir() {
				return dir // a worktree's or submodule's pointer
			}
			if _, err := os.Lstat(filepath.Join(git, "HEAD")); err == nil {
				return dir
			}
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// contextItems is what the model should know of the rules and the place now.
func (t *turn) contextItems() []json.RawMessage {
	items := []json.RawMessage{message("developer", t.permissions())}
	project, _, err := Instructions(t.s.cfg.Home, t.Cwd)
	if err != nil {
		t.s.cfg.Log.Warn("project instructions incomplete", "err", err)
	}
	if project != "" {
		items = append(items, message("user", projectHead+t.Cwd+"\n\n<INSTRUCTIONS>\n"+project+"\n</INSTRUCTIONS>"))
	}
	return append(items, message("user", t.environment()))
}

// recordContext records the context that differs from what was last recorded.
func (t *turn) recordContext() error {
	t.s.mu.Lock()
	history := t.s.history
	t.s.mu.Unlock()
	for _, item := range t.contextItems() {
		now := contentText(item)
		if latest(history, contextHead(now)) == now {
			continue
		}
		if err := t.record(item); err != nil {
			return err
		}
	}
	return nil
}

// contextHead is the head a context text begins with; "" for anything else.
func contextHead(s string) string {
	for _, head := range []string{permissionsHead, projectHead, environmentHead, abortedHead, shellHead} {
		if strings.HasPrefix(s, head) {
			return head
		}
	}
	return ""
}

// latest is the newest message text of a history that begins with head.
func latest(history []json.RawMessage, head string) string {
	for i := len(history) - 1; i >= 0; i-- {
		if protocol.StringField(history[i], "type") != "message" || protocol.StringField(history[i], "role") == "assistant" {
			continue
		}
		if s := contentText(history[i]); strings.HasPrefix(s, head) {
			return s
		}
	}
	return ""
}

// permissions tells the model what it may do and what happens when it needs more.
func (t *turn) permissions() string {
	var b strings.Builder
	b.WriteString(permissionsHead + "\n")
	roots, everywhere := sandbox.Roots(t.Sandbox, t.Cwd)
	switch {
	case everywhere && !sandbox.Restricted(t.Sandbox):
		b.WriteString("Sandbox: danger-full-access. Nothing is confined: commands and patches may write anywhere and use the network.\n")
	case everywhere:
		b.WriteString("Sandbox: external. Files are not confined here; the network is closed to commands.\n")
	case len(roots) == 0:
		b.WriteString("Sandbox: read-only. Commands may read files but write none.\n")
	default:
		fmt.Fprintf(&b, "Sandbox: workspace-write. Commands may read all files and write below: %s. Control folders in there (%s) stay read-only.\n",
			strings.Join(roots, ", "), strings.Join(sandbox.ControlFolders, ", "))
	}
	if !everywhere {
		if sandbox.NetworkAllowed(t.Sandbox) {
			b.WriteString("Network: open.\n")
		} else {
			b.WriteString("Network: closed to commands.\n")
		}
	}
	switch {
	case t.Approval == protocol.ApproveNever:
		b.WriteString("Approvals: never. Nobody is asked; what the sandbox does not allow fails. Leave `sandbox_permissions` out.\n")
	case t.Approval == protocol.ApproveUntrusted:
		b.WriteString("Approvals: untrusted. The user is asked before every command and every patch.\n")
	case everywhere:
		b.WriteString("Approvals: on-request. Nothing here needs asking.\n")
	default:
		b.WriteString("Approvals: on-request. Commands run in the sandbox without asking. A patch outside the writable directories asks the user. " +
			"To run a command outside the sandbox set `sandbox_permissions` to `require_escalated` and give a `justification`; the user then decides.\n")
	}
	b.WriteString("</permissions instructions>")
	for _, extra := range []string{t.s.cfg.DeveloperInstructions, t.DeveloperInstructions} {
		if extra != "" {
			b.WriteString("\n\n" + extra)
		}
	}
	return b.String()
}

// environment tells the model where and when it is.
func (t *turn) environment() string {
	now := t.s.cfg.Clock()
	zone := now.Location().String()
	if zone == "Local" {
		zone, _ = now.Zone()
	}
	return fmt.Sprintf("%s\n  <cwd>%s</cwd>\n  <shell>%s</shell>\n  <current_date>%s</current_date>\n  <timezone>%s</timezone>\n</environment_context>",
		environmentHead, t.Cwd, filepath.Base(shellFor("")), now.Format("2006-01-02"), zone)
}
