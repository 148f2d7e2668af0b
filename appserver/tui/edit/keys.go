package edit

import tea "charm.land/bubbletea/v2"

// Key applies an editing key and reports whether it was one. Keys that mean
// something else to whoever owns the buffer (enter, up, tab, esc) are not.
func (b *Buffer) Key(k tea.KeyPressMsg) bool {
	move := func(to int) { b.pos, b.goal = max(0, min(to, len(b.cells))), 0 }
	kill := func(from, to int) {
		if c := b.cut(from, to); c != nil {
			b.killed = c
		}
	}
	switch k.String() {
	case "left", "ctrl+b":
		move(b.pos - 1)
	case "right", "ctrl+f":
		move(b.pos + 1)
	case "alt+left", "ctrl+left", "alt+b":
		move(b.wordLeft())
	case "alt+right", "ctrl+right", "alt+f":
		move(b.wordRight())
	case "home", "ctrl+a":
		move(b.lineStart())
	case "end", "ctrl+e":
		move(b.lineEnd())
	case "ctrl+home":
		move(0)
	case "ctrl+end":
		move(len(b.cells))
	case "backspace", "ctrl+h", "shift+backspace":
		b.cut(b.pos-1, b.pos)
	case "delete", "shift+delete":
		b.cut(b.pos, b.pos+1)
	case "alt+backspace", "ctrl+backspace", "ctrl+w":
		kill(b.wordLeft(), b.pos)
	case "alt+d", "alt+delete", "ctrl+delete":
		kill(b.pos, b.wordRight())
	case "ctrl+k":
		if end := b.lineEnd(); end > b.pos {
			kill(b.pos, end)
		} else {
			b.cut(b.pos, b.pos+1) // the newline itself
		}
	case "ctrl+u":
		kill(b.lineStart(), b.pos)
	case "ctrl+y":
		b.insert(b.killed)
	default:
		if k.Text == "" || k.Mod&^(tea.ModShift|tea.ModCapsLock|tea.ModNumLock) != 0 {
			return false
		}
		b.Insert(k.Text)
	}
	return true
}
