package tui

import (
	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/transcript"
)

// goOnText is what the agent is told to go on with an interrupted turn. What that
// did stands, and may be half of something.
const goOnText = "Go on with what was interrupted. Look first at what has been done already."

// canGoOn reports whether the last turn was interrupted, and nothing came after it.
func (m *model) canGoOn() bool {
	return m.cur.id != "" && m.cur.last == protocol.TurnInterrupted && m.cur.turn == "" && !m.working() && len(m.cur.pending) == 0
}

// offerToGoOn says, of a thread that is opened, that its last turn can be gone on
// with. cut is that turn, when the end of the host was what interrupted it.
func (m *model) offerToGoOn(cut string) {
	if !m.canGoOn() || m.role() < protocol.RoleOperator {
		return
	}
	why := "the last turn was interrupted"
	if cut != "" {
		why = "the host stopped during the last turn"
	}
	m.tr.Note("goOn", "", transcript.Note{Kind: transcript.NoteWarn, Text: why, Detail: "ctrl+r goes on with it; or say what to do instead"})
}

// goOn starts a turn that goes on with the interrupted one.
func (m *model) goOn() tea.Cmd {
	if !m.canGoOn() {
		m.say("no turn was interrupted here")
		return nil
	}
	if !m.live() || m.busyOpening() || !m.sendable() || !m.may(protocol.RoleOperator, "going on with a turn") {
		return nil
	}
	m.tr.End()
	return m.say1(goOnText)
}
