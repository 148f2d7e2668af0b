package tui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/tui/qrcode"
	"towline/appserver/tui/text"
)

// render draws what the person needs: the address, the code, how long they have,
// and a QR code beside or below it where it fits.
func (l *loginScreen) render(m *model, w, h int) (lines []string, x, y int) {
	th := m.th
	head := []string{th.Header.Render(text.Truncate(" log in "+m.host(), w, "…"))}
	if h >= 8 {
		head = append(head, th.Border.Render(strings.Repeat("─", w)))
	}
	foot := th.Dim.Render(text.Truncate(" "+l.keys(m), w, "…"))
	room := max(h-len(head)-1, 1)
	body := l.beside(m, w, room)
	if len(body) > room {
		body = body[:room]
	}
	lines = append(head, body...)
	for len(lines) < h-1 {
		lines = append(lines, "")
	}
	return append(lines[:max(h-1, 0)], foot), -1, 0
}

func (l *loginScreen) keys(m *model) string {
	switch {
	case l.failed != "" || l.over(m.now()):
		return "r try again   esc close"
	case l.id == "":
		return "esc cancel"
	}
	var keys []string
	if m.cfg.OpenURL != nil {
		keys = append(keys, "o open")
	}
	if l.code != "" {
		keys = append(keys, "c copy the code")
	}
	return strings.Join(append(keys, "u copy the address", "esc cancel"), "   ")
}

// beside is the text, with the QR code to its right where there is room, else
// under it, else without.
func (l *loginScreen) beside(m *model, w, room int) []string {
	code := l.qr(m.dark)
	qw := 0
	if len(code) > 0 {
		qw = text.Width(code[0])
	}
	const least = 36 // cells the text wants
	switch {
	case qw > 0 && w >= qw+least+3 && room >= len(code):
		tw := min(w-qw-3, mostText)
		words := l.words(m, tw, room)
		out := make([]string, max(len(words), len(code)))
		for i := range out {
			left, right := "", ""
			if i < len(words) {
				left = words[i]
			}
			if i < len(code) {
				right = code[i]
			}
			out[i] = text.Fit(left, tw) + " " + right
		}
		return out
	case qw > 0 && w >= qw:
		words := l.words(m, w, room)
		if len(words)+1+len(code) <= room {
			return append(append(words, ""), code...)
		}
		return words
	}
	return l.words(m, w, room)
}

// mostText is how wide the text gets beside a code: the two belong together.
const mostText = 64

// words is the text, in at most h lines if possible: where there is no room, what
// is to be typed goes before what is good to know.
func (l *loginScreen) words(m *model, w, h int) []string {
	th := m.th
	wrap := func(s string) (out []string) {
		for _, line := range text.Wrap(s, max(w-2, 4)) {
			out = append(out, " "+line)
		}
		return out
	}
	// An address is never cut: it is to be typed, or clicked.
	address := func() (out []string) {
		for _, line := range text.Wrap(l.url, max(w-5, 4)) {
			out = append(out, "    "+th.Accent.Render(line))
		}
		return out
	}
	switch {
	case l.failed != "":
		out := wrap("▲ " + l.failed)
		for i := range out {
			out[i] = th.Warn.Render(out[i])
		}
		return out
	case l.id == "":
		return wrap("asking the host to begin …")
	}
	var now, what, care, left []string
	if s := m.account.name(); s != "" {
		now = append(wrap("Now: "+s+". The account you log in with takes its place."), "")
	}
	if l.kind == protocol.LoginDevice {
		what = append(wrap("1. Open, in any browser:"), address()...)
		what = append(append(what, wrap("2. Type this code there:")...), "    "+th.Bold.Render(l.code))
		care = append([]string{""}, wrap("Only a code you asked for yourself: whoever has it can log this host in as somebody else.")...)
	} else {
		what = append(wrap(orString(l.opened, "Open in a browser on the machine the host runs on:")), address()...)
	}
	if d := l.ends.Sub(m.now()); d > 0 {
		left = wrap("waiting, for another " + clock(d))
	} else {
		left = []string{" " + th.Warn.Render("▲ the time is over")}
	}
	whole := slices.Concat(now, what, care, []string{""}, left)
	if len(whole) <= h {
		return whole
	}
	return slices.Concat(what, left)
}

// clock writes a time that runs out: 14:05.
func clock(d time.Duration) string {
	s := int(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// qr draws the address, so that it needs no colours. Nothing is drawn of addresses
// too long for a screen.
func (l *loginScreen) qr(dark bool) []string {
	if l.kind != protocol.LoginDevice || l.url == "" || l.failed != "" || len(l.url) > 200 {
		return nil
	}
	if key := fmt.Sprint(dark, l.url); l.qrOf != key {
		ink := qrcode.OnLight
		if dark {
			ink = qrcode.OnDark
		}
		l.qrOf, l.drawnQR = key, qrcode.Lines(l.url, ink, 0, 0)
	}
	return l.drawnQR
}
