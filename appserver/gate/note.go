package gate

import (
	"encoding/json"
	"log/slog"
	"maps"
	"regexp"
	"slices"

	"towline/appserver/protocol"
)

// What a note may hold: the names of this program's own commands, not whatever a
// client would like the audit to say.
var (
	noteEvent = regexp.MustCompile(`^credential(\.[a-z]{1,20}){1,3}$`)
	noteFact  = regexp.MustCompile(`^[a-zA-Z]{1,32}$`)
)

const (
	maxNoteFacts = 16
	maxNoteText  = 256
)

// reserved are the members of an entry that are the audit's own.
var reserved = []string{"seq", "at", "event", "who", "prev", "hash"}

// noteCredential records what a command of this machine did to a credential. Who
// did it is who is connected, and that it was a note is part of the entry.
func (c *client) noteCredential(params json.RawMessage) (any, error) {
	var p struct {
		Event string            `json:"event"`
		Facts map[string]string `json:"facts"`
	}
	if json.Unmarshal(params, &p) != nil || !noteEvent.MatchString(p.Event) || len(p.Facts) > maxNoteFacts {
		return nil, protocol.Errorf("%s takes {event, facts}", protocol.ExtCredentialNote)
	}
	attrs := []slog.Attr{slog.String("via", "command")}
	for _, name := range slices.Sorted(maps.Keys(p.Facts)) {
		if !noteFact.MatchString(name) || name == "via" || slices.Contains(reserved, name) {
			return nil, protocol.Errorf("%s: %q is no fact's name", protocol.ExtCredentialNote, clip(name, 40))
		}
		attrs = append(attrs, slog.String(name, clip(p.Facts[name], maxNoteText)))
	}
	c.g.cfg.Audit.Record(p.Event, c.who.Principal, attrs...)
	return struct{}{}, nil
}
