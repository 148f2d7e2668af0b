package gate

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"towline/appserver/protocol"
)

// # Lists within a scope
//
// The engine lists everybody's threads, in pages. What is out of reach is left
// out, and nothing else may tell of it either: not an empty page, not a cursor
// where nothing follows (a search would say by that whether others' threads hold
// a word), not a cursor's text, in which engines put ids and times. So the gate
// reads on until it has found something within reach, and something after it, and
// seals the cursors it gives out. They are good on this connection's principal and
// method until the daemon stops.

// Limits of one list.
const (
	// maxRows bounds what is read of the engine's for one answer; the cursor after
	// the last one is given out then, whatever follows.
	maxRows  = 5000
	listTime = 20 * time.Second
	// maxLists bounds a client's lists under way at once.
	maxLists = 4
)

// list answers a list of threads. It goes on beside the client's other requests.
func (c *client) list(ctx context.Context, env protocol.Envelope) *protocol.Error {
	for _, name := range []string{"cursor", "parentThreadId"} {
		if v := protocol.Field(env.Params, name); v != nil && !isNull(v) && text(v) == nil && string(v) != `""` {
			return protocol.Errorf("Invalid request: %s is a string", name)
		}
	}
	if !c.sent(idKey(env.ID), call{method: "gate/list"}) {
		return protocol.ErrOverloaded
	}
	id, params := clone(env.ID), clone(env.Params)
	select {
	case c.scope.lists <- struct{}{}:
	default:
		c.answered(idKey(id))
		return protocol.ErrOverloaded
	}
	c.scope.beside.Go(func() {
		defer func() { <-c.scope.lists }()
		ctx, cancel := context.WithTimeout(ctx, listTime)
		defer cancel()
		result, err := c.page(ctx, env.Method, params)
		c.answered(idKey(id))
		var pe *protocol.Error
		switch {
		case err == nil:
			c.reply(id, result)
		case errors.As(err, &pe):
			c.put(protocol.NewError(id, pe))
		default:
			c.put(protocol.NewError(id, protocol.Internalf("%s: %v", env.Method, err)))
		}
	})
	return nil
}

// listed is the answer to a list.
type listed struct {
	Data            []json.RawMessage          `json:"data"`
	ReadStates      map[string]json.RawMessage `json:"readStates,omitempty"`
	NextCursor      *string                    `json:"nextCursor"`
	BackwardsCursor *string                    `json:"backwardsCursor,omitempty"`
}

// page makes one page of what is within reach.
func (c *client) page(ctx context.Context, method string, params json.RawMessage) (*listed, error) {
	var p map[string]json.RawMessage
	if err := json.Unmarshal(params, &p); err != nil {
		return nil, protocol.Errorf("Invalid request: %v", err)
	}
	if v := text(p["cursor"]); len(v) > 0 {
		cursor, err := c.g.unseal(string(v), c.sealedFor(method))
		if err != nil {
			return nil, protocol.Errorf("Invalid request: the cursor is not one of this list")
		}
		p["cursor"] = protocol.StringID(cursor)
	}
	out := &listed{Data: []json.RawMessage{}}
	found := false
	for rows := 0; rows < maxRows; {
		raw, err := c.ask(ctx, method, p)
		if err != nil {
			return nil, err
		}
		var got listed
		if err := json.Unmarshal(raw, &got); err != nil {
			return nil, err
		}
		rows += max(len(got.Data), 1)
		kept := c.keep(ctx, method, &got)
		switch {
		case len(kept.Data) == 0:
		case found: // something follows
			return c.goOn(out, method, p["cursor"]), nil
		default:
			found, out = true, kept
		}
		if got.NextCursor == nil {
			out.NextCursor = nil
			return out, nil
		}
		p["cursor"] = protocol.StringID(*got.NextCursor)
	}
	return c.goOn(out, method, p["cursor"]), nil
}

// goOn is a page with the cursor at which the list goes on.
func (c *client) goOn(out *listed, method string, cursor json.RawMessage) *listed {
	sealed := c.g.seal(string(text(cursor)), c.sealedFor(method))
	out.NextCursor = &sealed
	return out
}

// keep is a page without what is out of reach.
func (c *client) keep(ctx context.Context, method string, got *listed) *listed {
	out := &listed{Data: []json.RawMessage{}}
	if got.ReadStates != nil {
		out.ReadStates = make(map[string]json.RawMessage)
	}
	for _, row := range got.Data {
		id := protocol.ThreadID(text(row)) // of thread/loaded/list
		thread := row
		if method == "thread/search" {
			thread = protocol.Field(row, "thread")
		}
		if id == "" {
			id = protocol.ThreadID(protocol.StringField(thread, "id"))
			c.g.places.learn(thread, nil)
		}
		if !c.reaches(ctx, id) {
			continue
		}
		out.Data = append(out.Data, row)
		if s, ok := got.ReadStates[string(id)]; ok {
			out.ReadStates[string(id)] = s
		}
	}
	return out
}

// sealedFor is what a cursor is bound to.
func (c *client) sealedFor(method string) []byte {
	return []byte(c.who.Principal.Key() + "\x00" + method)
}

// sealer makes cursors nobody else can read or make.
func newSealer() cipher.AEAD {
	key := make([]byte, 32)
	_, _ = rand.Read(key)              // never fails since Go 1.24
	block, err := aes.NewCipher(key)   // fails for other lengths only
	aead, err2 := cipher.NewGCM(block) // fails for other block sizes only
	if err != nil || err2 != nil {
		panic("AES-256-GCM is not there")
	}
	return aead
}

func (g *Gate) seal(cursor string, of []byte) string {
	nonce := make([]byte, g.sealer.NonceSize())
	_, _ = rand.Read(nonce)
	return base64.RawURLEncoding.EncodeToString(g.sealer.Seal(nonce, nonce, []byte(cursor), of))
}

func (g *Gate) unseal(cursor string, of []byte) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(b) < g.sealer.NonceSize() {
		return "", errors.New("not a sealed cursor")
	}
	n := g.sealer.NonceSize()
	plain, err := g.sealer.Open(nil, b[:n], b[n:], of)
	return string(plain), err
}
