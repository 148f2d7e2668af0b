package thread

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"towline/appserver/protocol"
)

// previewRunes is how much of the first message lists show.
const previewRunes = 400

// Head is what lists show of a thread. It follows from the records alone.
type Head struct {
	Meta
	Settings    Settings `json:"settings"`
	Name        *string  `json:"name,omitempty"`
	Preview     string   `json:"preview,omitempty"` // first user message, shortened
	Archived    bool     `json:"archived,omitempty"`
	Turns       int      `json:"turns,omitempty"`
	UpdatedAtMs int64    `json:"updatedAtMs"` // last record
	RecencyAtMs int64    `json:"recencyAtMs"` // last turn, or the creation
	Unread      Unread   `json:"unread"`
	// Open is the turn that has no end so far, Cut the last one, when the process it
	// ran in ended before it did.
	Open string `json:"openTurn,omitempty"`
	Cut  string `json:"cutTurn,omitempty"`
}

// Interrupted is the last turn of a thread in which none runs, when the end of a
// process cut it short; "" when it did not.
func (h *Head) Interrupted() string {
	if h.Cut != "" {
		return h.Cut
	}
	return h.Open // nobody was left to say so
}

// Title is the name, or what stands for it: the first message.
func (h *Head) Title() string {
	if h.Name != nil {
		return *h.Name
	}
	return h.Preview
}

func (h *Head) apply(r *Record) {
	switch r.Type {
	case recThread:
		if h.ID != "" {
			return // only the first line may say who a thread is
		}
		h.Meta = *r.Thread
		h.RecencyAtMs = r.Thread.CreatedAtMs
	case recSettings:
		h.Settings = *r.Settings
	case recName:
		h.Name = r.Name
		if *r.Name == "" {
			h.Name = nil
		}
	case recArchived:
		h.Archived = *r.Archived
	case recTurn:
		h.Turns++
		h.RecencyAtMs = r.AtMs
		h.Open, h.Cut = r.TurnID, ""
	case recEnd:
		if r.TurnID == h.Open {
			if h.Open = ""; r.Cut {
				h.Cut = r.TurnID
			}
		}
	case recItem:
		if u, ok := r.Item.Body.(*protocol.UserMessage); ok && h.Preview == "" {
			h.Preview = preview(u.Content)
		}
	case recUnread:
		h.Unread = *r.Unread
	case recGit:
		h.Git = r.Git
	}
	if r.AtMs > h.UpdatedAtMs {
		h.UpdatedAtMs = r.AtMs
	}
}

// preview takes the beginning of a message's text.
func preview(in []protocol.UserInput) string {
	for _, p := range in {
		s := strings.TrimSpace(p.Text)
		if s == "" {
			continue
		}
		n := 0
		for i := range s {
			if n++; n > previewRunes {
				return strings.ToValidUTF8(s[:i], "")
			}
		}
		return s
	}
	return ""
}

// skim applies a line to the head and decodes it only when the head depends on
// more than its time. Most of a long thread's bytes are passed over.
func (h *Head) skim(line []byte) (ok bool) {
	typ, at, ok := prefix(line)
	if ok && (typ == recInput || typ == recHistory || typ == recUsage || typ == recQueue || typ == recGoal ||
		typ == recItem && h.Preview != "") {
		if at > h.UpdatedAtMs {
			h.UpdatedAtMs = at
		}
		return true
	}
	r, ok := decode(line)
	if ok {
		h.apply(&r)
	}
	return ok
}

// prefix reads {"type":T,"at":N from the line the way encode writes it.
func prefix(line []byte) (typ string, atMs int64, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"type":"`))
	if !ok {
		return "", 0, false
	}
	t, rest, ok := bytes.Cut(rest, []byte(`","at":`))
	if !ok || len(t) > 16 || !utf8.Valid(t) {
		return "", 0, false
	}
	n := 0
	for ; n < len(rest) && n < 18 && rest[n] >= '0' && rest[n] <= '9'; n++ {
		atMs = atMs*10 + int64(rest[n]-'0')
	}
	return string(t), atMs, n > 0
}
