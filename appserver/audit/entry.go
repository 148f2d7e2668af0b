package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"towline/appserver/access"
)

const (
	hashMember = `,"hash":"`
	hashTail   = len(hashMember) + sha256.Size*2 + len(`"}`)
	maxRow     = 1 << 20 // a line longer than this is not ours
	// maxText bounds one fact: nobody may keep an entry out of the file by
	// making it too long for a line.
	maxText = 4 << 10
)

// reserved are the members of an entry that are the log's own.
var reserved = map[string]bool{"seq": true, "at": true, "event": true, "who": true, "prev": true, "hash": true}

// entry is what happened, before it has a place in the chain.
type entry struct {
	at    time.Time
	event string
	who   access.Principal
	facts []slog.Attr
}

// line is the entry as the file has it, with its newline.
func (e entry) line(seq int64, prev string) ([]byte, error) {
	b := make([]byte, 0, 512)
	b = strconv.AppendInt(append(b, `{"seq":`...), seq, 10)
	b = append(e.at.UTC().AppendFormat(append(b, `,"at":"`...), time.RFC3339Nano), '"')
	b = appendText(append(b, `,"event":`...), e.event)
	if p := e.who; p.Kind != "" {
		b = appendText(append(b, `,"who":{"id":`...), p.ID)
		b = appendText(append(b, `,"kind":`...), string(p.Kind))
		b = appendText(append(b, `,"name":`...), clip(p.Name))
		b = appendText(append(b, `,"role":`...), p.Role.String())
		if p.Scope != nil {
			b = appendText(append(b, `,"scope":`...), clip(p.Scope.String()))
		}
		b = append(b, '}')
	}
	for _, at := range e.facts {
		key := at.Key
		if reserved[strings.ToLower(key)] {
			key = "_" + key // readers of JSON differ about the case of names
		}
		b = append(appendText(append(b, ','), key), ':')
		switch v := fact(at.Value).(type) {
		case string:
			b = appendText(b, v)
		case int64:
			b = strconv.AppendInt(b, v, 10)
		default:
			raw, err := json.Marshal(v)
			if err != nil {
				return nil, fmt.Errorf("encode %s: %w", key, err)
			}
			b = append(b, raw...)
		}
	}
	b = appendText(append(b, `,"prev":`...), prev)
	sum := sha256.Sum256(b)
	b = append(hex.AppendEncode(append(b, hashMember...), sum[:]), "\"}\n"...)
	if len(b) > maxRow {
		return nil, fmt.Errorf("entry of %d bytes is too long", len(b))
	}
	return b, nil
}

// appendText appends s as package json writes it, which most text needs no help
// for.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			raw, _ := json.Marshal(s) // a string always marshals
			return append(b, raw...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// fact is a value as JSON takes it.
func fact(v slog.Value) any {
	v = v.Resolve()
	switch v.Kind() {
	case slog.KindString:
		return clip(v.String())
	case slog.KindDuration:
		return v.Duration().String()
	case slog.KindAny:
		if e, ok := v.Any().(error); ok {
			return clip(e.Error())
		}
	}
	return v.Any()
}

func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

// row is what the chain needs of a line.
type row struct {
	Seq    int64  `json:"seq"`
	Event  string `json:"event"`
	SHA256 string `json:"sha256"`
	Prev   string `json:"prev"`
	Hash   string `json:"hash"`
	// Of eventPruned and eventCut.
	Through  int64  `json:"through"`
	PrunedTo string `json:"throughHash"`
	Last     int64  `json:"last"`
	Was      int64  `json:"was"`
	// Of eventLate.
	Lost int `json:"lost"`
}

// checkRow reads a line and recomputes its hash.
func checkRow(line []byte) (r row, hash string, ok bool) {
	cut := len(line) - hashTail
	if cut <= 0 || !bytes.HasPrefix(line[cut:], []byte(hashMember)) || !json.Valid(line) || json.Unmarshal(line, &r) != nil {
		return r, "", false
	}
	hash = string(line[cut+len(hashMember) : len(line)-len(`"}`)])
	sum := sha256.Sum256(line[:cut])
	return r, hash, hash == hex.EncodeToString(sum[:])
}
