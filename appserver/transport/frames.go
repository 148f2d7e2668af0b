package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// What a client may do below the level of messages. Codex ends connections for
// the same without a word, and so does this.
const (
	// maxFrameBytes is the payload of one frame; longer messages come in several.
	maxFrameBytes = codexFrameBytes
	maxControl    = 125 // RFC 6455 5.5
	// idleFrames may come at once, and idleFrames a idlePer after that: pings, pongs
	// and empty pieces of a message cost an answer or a wake-up each and say nothing.
	idleFrames = 256
	idlePer    = 4 * time.Second
)

var errFrame = errors.New("not a frame a client may send")

// frameGuard follows a client's WebSocket frames (RFC 6455 5.2) as their bytes
// pass by, without changing or keeping them.
type frameGuard struct {
	head [14]byte
	have int    // of head
	need int    // of head; 0 between frames
	left uint64 // of the payload

	tokens float64 // of idle frames
	filled time.Time
}

// see looks at the next bytes of the stream. With an error, good is how many of
// them are not of the frame that is to blame, and the stream is over.
func (g *frameGuard) see(p []byte) (good int, err error) {
	all := len(p)
	for len(p) > 0 {
		if g.left > 0 {
			n := min(g.left, uint64(len(p)))
			g.left -= n
			p = p[n:]
			continue
		}
		if g.need == 0 {
			g.need, good = 2, all-len(p)
		}
		n := copy(g.head[g.have:g.need], p)
		g.have += n
		p = p[n:]
		if g.have < g.need {
			break
		}
		if g.have == 2 {
			if err := g.begin(); err != nil {
				return good, err
			}
			continue
		}
		if err := g.length(); err != nil {
			return good, err
		}
		g.have, g.need = 0, 0
	}
	return all, nil
}

// begin judges the first two bytes: they say how long the head is.
func (g *frameGuard) begin() error {
	first, second := g.head[0], g.head[1]
	opcode, control := first&0x0f, first&0x08 != 0
	short := second & 0x7f
	switch {
	case first&0x70 != 0:
		return fmt.Errorf("%w: a reserved bit is set", errFrame)
	case opcode > 2 && opcode < 8 || opcode > 10:
		return fmt.Errorf("%w: opcode %d is reserved", errFrame, opcode)
	case second&0x80 == 0:
		return fmt.Errorf("%w: it is not masked", errFrame)
	case control && (short > maxControl || first&0x80 == 0):
		return fmt.Errorf("%w: a control frame is too long, or in pieces", errFrame)
	}
	switch short {
	case 126:
		g.need = 8
	case 127:
		g.need = 14
	default:
		g.need = 6
	}
	if (opcode == 9 || opcode == 10 || short == 0 && !control && first&0x80 == 0) && !g.idle(time.Now()) {
		return fmt.Errorf("%w: there are too many that say nothing", errFrame)
	}
	return nil
}

func (g *frameGuard) length() error {
	n := uint64(g.head[1] & 0x7f)
	switch n {
	case 126:
		n = uint64(binary.BigEndian.Uint16(g.head[2:]))
	case 127:
		n = binary.BigEndian.Uint64(g.head[2:])
	}
	if n > maxFrameBytes {
		return fmt.Errorf("%w: it has %d bytes, more than %d", errFrame, n, maxFrameBytes)
	}
	g.left = n
	return nil
}

// idle counts a frame that says nothing.
func (g *frameGuard) idle(now time.Time) bool {
	if g.filled.IsZero() {
		g.tokens = idleFrames
	} else {
		g.tokens = min(idleFrames, g.tokens+idleFrames*now.Sub(g.filled).Seconds()/idlePer.Seconds())
	}
	g.filled = now
	if g.tokens < 1 {
		return false
	}
	g.tokens--
	return true
}
