package tui

import (
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/diffview"
)

// diffScript is what /diff runs on the host: tracked changes, then new files.
const diffScript = `git rev-parse --git-dir >/dev/null 2>&1 || exit 3
if git rev-parse -q --verify HEAD >/dev/null 2>&1; then git --no-pager diff --no-color --no-ext-diff HEAD; else git --no-pager diff --no-color --no-ext-diff --cached; fi
git ls-files --others --exclude-standard | head -n 200 | while IFS= read -r f; do git --no-pager diff --no-color --no-ext-diff --no-index -- /dev/null "$f"; done
exit 0`

// showDiff shows what changed in the project: as git sees it, or what the last
// turn changed where there is no git or no way to ask it.
func (m *model) showDiff() tea.Cmd {
	params := map[string]any{"command": []string{"sh", "-c", diffScript}, "cwd": m.cur.cwd, "timeoutMs": 15000, "outputBytesCap": 8 << 20}
	id := m.cur.id
	type outcome struct {
		ExitCode int    `json:"exitCode"`
		Stdout   string `json:"stdout"`
	}
	m.say("asking git")
	return call(m.link, "command/exec", params, func(m *model, v outcome, err error) tea.Cmd {
		m.notice = notice{}
		diff, title := v.Stdout, "what changed in "+tilde(m.cur.cwd)
		if err != nil || v.ExitCode != 0 {
			if m.cur.id != id || m.cur.diff == "" {
				if err != nil {
					m.fail("ask git", err)
				} else {
					m.say("no git repository here, and this turn changed no files")
				}
				return nil
			}
			diff, title = m.cur.diff, "what the last turn changed"
		}
		if strings.TrimSpace(diff) == "" {
			m.say("nothing changed")
			return nil
		}
		files, n := diffview.CountUnified(diff)
		m.screen = &pager{title: title + " · " + plural(files, "file") + " " + n.String(), lines: func(m *model, w int) []string {
			return diffview.RenderUnified(diff, diffview.Options{Theme: m.th, Width: w, Cwd: m.cur.cwd})
		}}
		return nil
	})
}
