package transcript

// View is the lines in view, at most height of them, from the top.
func (t *Transcript) View(height int) []string {
	t.height = max(height, 0)
	t.shown = t.shown[:0]
	if t.height == 0 || len(t.blocks) == 0 {
		return nil
	}
	if !t.follow {
		if lines, ok := t.down(t.top, t.off); ok {
			return lines
		}
		t.follow = true // the end came into view
	}
	top, off := t.up(len(t.blocks), 0, t.height)
	lines, _ := t.down(top, off)
	return lines
}

// down draws from line off of block top. It is false when the conversation ends
// before the screen does.
func (t *Transcript) down(top, off int) ([]string, bool) {
	t.shown = t.shown[:0]
	out := make([]string, 0, t.height)
	for i := min(top, len(t.blocks)-1); i < len(t.blocks) && len(out) < t.height; i++ {
		b := t.blocks[i]
		lines := b.draw(t)
		if b.gap {
			if off == 0 {
				out, t.shown = append(out, ""), append(t.shown, b)
			} else {
				off--
			}
		}
		for _, l := range lines[min(off, len(lines)):] {
			if len(out) == t.height {
				break
			}
			if l != "" {
				l = " " + l
			}
			out, t.shown = append(out, l), append(t.shown, b)
		}
		off = 0
	}
	return out, len(out) == t.height
}

// up is the place n lines above line off of block i; the beginning when there
// are fewer.
func (t *Transcript) up(i, off, n int) (top, line int) {
	for off < n {
		n -= off
		if i == 0 {
			return 0, 0
		}
		i--
		off = t.blocks[i].height(t)
	}
	return i, off - n
}

// Scroll moves the view n lines, up when negative, and reports whether it is
// now at the very beginning.
func (t *Transcript) Scroll(n int) (atTop bool) {
	if len(t.blocks) == 0 {
		return true
	}
	if t.follow {
		if n >= 0 {
			return false
		}
		t.top, t.off = t.up(len(t.blocks), 0, max(t.height, 1))
		t.follow = false
	}
	t.top = min(t.top, len(t.blocks)-1)
	if n < 0 {
		t.top, t.off = t.up(t.top, min(t.off, t.blocks[t.top].height(t)), -n)
		return t.top == 0 && t.off == 0
	}
	t.off += n
	for t.top < len(t.blocks) {
		h := t.blocks[t.top].height(t)
		if t.off < h {
			break
		}
		t.off -= h
		t.top++
	}
	if t.top == len(t.blocks) {
		t.follow = true
	} else if _, ok := t.down(t.top, t.off); !ok {
		t.follow = true
	}
	return false
}

// Home goes to the beginning, End to the end, where the view then stays.
func (t *Transcript) Home() { t.follow, t.top, t.off = false, 0, 0 }

// End goes to the end.
func (t *Transcript) End() { t.follow = true }

// Following reports whether the end is kept in view.
func (t *Transcript) Following() bool { return t.follow }

// At is the id of the block on line y of the last View, "" when there is none
// or it has no more to show.
func (t *Transcript) At(y int) string {
	if y < 0 || y >= len(t.shown) || !t.shown[y].foldable() {
		return ""
	}
	return t.shown[y].id
}

// LastFoldable is the id of the last block in view that has more to show, or of
// the last one above.
func (t *Transcript) LastFoldable() string {
	last := len(t.blocks) - 1
	if n := len(t.shown); n > 0 {
		for i, b := range t.blocks {
			if b == t.shown[n-1] {
				last = i
			}
		}
	}
	for i := last; i >= 0; i-- {
		if t.blocks[i].foldable() {
			return t.blocks[i].id
		}
	}
	return ""
}

// Neighbour is the foldable block d (1 or -1) steps from id, id itself when
// there is none.
func (t *Transcript) Neighbour(id string, d int) string {
	at := -1
	for i, b := range t.blocks {
		if b.id == id {
			at = i
		}
	}
	for i := at + d; at >= 0 && i >= 0 && i < len(t.blocks); i += d {
		if t.blocks[i].foldable() {
			return t.blocks[i].id
		}
	}
	return id
}

// Full is everything a block holds, for a screen of its own.
func (t *Transcript) Full(id string, width int) (title string, lines []string) {
	b := t.byID[id]
	if b == nil {
		return "", nil
	}
	return b.full(t, width)
}
