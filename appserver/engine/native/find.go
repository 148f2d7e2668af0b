package native

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Bounds of finding text within a thread.
const (
	occurrencesPerPage = 50
	maxOccurrences     = 200 // of one page
	snippetRunes       = 60  // on each side of what was found
	maxItemsRead       = 100
)

// textRange is in UTF-16 code units, as clients count.
type textRange struct {
	Start int `json:"start"`
	End   int `json:"end"`
}

// occurrence is one place where a message holds the search term.
type occurrence struct {
	ItemID     string    `json:"itemId"`
	TurnID     string    `json:"turnId"`
	TurnCursor string    `json:"turnCursor"`
	Snippet    string    `json:"snippet"`
	Match      textRange `json:"snippetMatchRange"`
}

// threadSearchOccurrences finds a term in what people and the model said.
func (c *conn) threadSearchOccurrences(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		Term   string `json:"searchTerm"`
		Cursor string `json:"cursor"`
		Limit  *int   `json:"limit"`
	}
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	if strings.TrimSpace(p.Term) == "" {
		return nil, protocol.Errorf("thread/searchOccurrences requires a non-empty searchTerm")
	}
	skip := 0
	if p.Cursor != "" {
		var err error
		if skip, err = strconv.Atoi(p.Cursor); err != nil || skip < 0 {
			return nil, protocol.Errorf("invalid cursor: %s", p.Cursor)
		}
	}
	turns, err := c.e.turnsOf(p.ThreadID)
	if err != nil {
		return nil, err
	}
	limit := min(pageSize(p.Limit, occurrencesPerPage), maxOccurrences)
	out, seen := []occurrence{}, 0
	var next *string
search:
	for i := range turns {
		for _, it := range turns[i].Items {
			text := []rune(said(it))
			for _, at := range matches(text, []rune(p.Term)) {
				if seen++; seen <= skip {
					continue
				}
				if len(out) == limit {
					next = optional(strconv.Itoa(skip + limit))
					break search
				}
				o := occurrence{ItemID: it.ID, TurnID: turns[i].ID, TurnCursor: "=" + turns[i].ID}
				o.Snippet, o.Match = snippet(text, at, utf8.RuneCountInString(p.Term))
				out = append(out, o)
			}
		}
	}
	return page{out, next}, nil
}

// said is the text of a message, "" for any other item.
func said(it protocol.Item) string {
	switch b := it.Body.(type) {
	case *protocol.AgentMessage:
		return b.Text
	case *protocol.UserMessage:
		var parts []string
		for _, in := range b.Content {
			if in.Text != "" {
				parts = append(parts, in.Text)
			}
		}
		return strings.Join(parts, "\n")
	}
	return ""
}

// matches are the places where text holds term, whatever the case; they do not
// overlap. Folding is rune by rune, so that places keep their meaning.
func matches(text, term []rune) (at []int) {
	fold := func(rs []rune) []rune {
		out := make([]rune, len(rs))
		for i, r := range rs {
			out[i] = unicode.ToLower(unicode.ToUpper(r))
		}
		return out
	}
	text, term = fold(text), fold(term)
	for i := 0; i+len(term) <= len(text); {
		if slices.Equal(text[i:i+len(term)], term) {
			at = append(at, i)
			i += len(term)
			continue
		}
		i++
	}
	return at
}

// snippet is the text around a match, on one line, and where the match is in it.
func snippet(text []rune, at, n int) (string, textRange) {
	from, to := max(at-snippetRunes, 0), min(at+n+snippetRunes, len(text))
	part := slices.Clone(text[from:to])
	for i, r := range part {
		if unicode.IsSpace(r) {
			part[i] = ' '
		}
	}
	head, tail := "", ""
	if from > 0 {
		head = "…"
	}
	if to < len(text) {
		tail = "…"
	}
	units := func(rs []rune) int { return len(utf16.Encode(rs)) }
	start := units([]rune(head)) + units(part[:at-from])
	return head + string(part) + tail, textRange{start, start + units(part[at-from:at-from+n])}
}

// threadItemsRead answers with the named items of a turn, in the turn's order;
// those it does not have are left out.
func (c *conn) threadItemsRead(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		TurnID string   `json:"turnId"`
		IDs    []string `json:"itemIds"`
	}
	if err := decode(r, &p, "threadId", "turnId", "itemIds"); err != nil {
		return nil, err
	}
	if len(p.IDs) == 0 || len(p.IDs) > maxItemsRead {
		return nil, protocol.Errorf("itemIds must contain 1 to %d IDs", maxItemsRead)
	}
	turns, err := c.e.turnsOf(p.ThreadID)
	if err != nil {
		return nil, err
	}
	list := []protocol.ItemEntry{}
	for i := range turns {
		if turns[i].ID == p.TurnID {
			list = slices.DeleteFunc(entries(&turns[i]), func(en protocol.ItemEntry) bool { return !slices.Contains(p.IDs, en.Item.ID) })
		}
	}
	return map[string]any{"data": list}, nil
}

// threadMetadataUpdate stores what a client knows of the thread's repository.
func (c *conn) threadMetadataUpdate(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		Git      map[string]*string `json:"gitInfo"`
		Project  *string            `json:"projectId"`
		Daybreak *bool              `json:"daybreakEnabled"`
	}
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	switch {
	case p.Project != nil && *p.Project != "":
		return nil, protocol.Errorf("project not found: %s", *p.Project)
	case p.Daybreak != nil:
		return nil, protocol.Errorf("daybreakEnabled is not kept on this server")
	case p.Git == nil && p.Project == nil:
		return nil, protocol.Errorf("thread metadata update must include at least one field")
	}
	head, err := c.e.head(p.ThreadID)
	if err != nil {
		return nil, err
	}
	if p.Git != nil {
		var git protocol.GitInfo
		if head.Git != nil {
			git = *head.Git
		}
		given := false
		for name, member := range map[string]**string{"sha": &git.SHA, "branch": &git.Branch, "originUrl": &git.OriginURL} {
			v, ok := p.Git[name]
			if !ok {
				continue
			}
			given = true
			if v != nil && (strings.TrimSpace(*v) == "" || len(*v) > maxGitText) {
				return nil, protocol.Errorf("gitInfo.%s must be a text of 1 to %d bytes, or null", name, maxGitText)
			}
			*member = v
		}
		if !given {
			return nil, protocol.Errorf("gitInfo must include at least one field")
		}
		if err := c.e.update(p.ThreadID, thread.SetGit(git)); err != nil {
			return nil, err
		}
		if head, err = c.e.head(p.ThreadID); err != nil {
			return nil, err
		}
	}
	l, err := c.e.get(p.ThreadID)
	ephemeral := err == nil && l.log == nil
	return map[string]any{"thread": c.e.view(&head, c.e.statusOf(p.ThreadID), ephemeral)}, nil
}

const maxGitText = 4096 // bytes
