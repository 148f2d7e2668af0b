package rpc

// A resumable stream outlives the links it runs over. Its wire format, agreed
// on as WebSocket subprotocol "towline.resume.v1": every message of the link is
// one frame, a letter and then fields, each after one blank. Numbers are
// decimal without leading zeros and below 2^53. Frames "m" and "c" are numbered
// from 1, each direction for itself. A message is the bytes it was given as; one
// of more than 128 KiB goes in pieces, so that a slow link makes progress and
// still shows signs of life.
//
//	o ID SECRET KEEP              client, first: begin a session, to be kept for KEEP
//	                              seconds without a link (0: the server's default).
//	                              Sent again when no welcome came, which begins no second one.
//	r ID SECRET RECEIVED TAKEN    client, first on a later link: go on with a session
//	w RECEIVED TAKEN              server, first: welcome; what the other side was sent and
//	                              has not received follows at once, both ways
//	m NUMBER TAKEN BYTES          a message, or the last piece of one
//	c NUMBER TAKEN BYTES          a piece of a message; the next one follows
//	a TAKEN                       nothing to say but what was taken
//	p                             are you there
//	q                             I am
//	e CODE NUMBER [TEXT]          the end, after the last message; answered with one
//
// ID and SECRET are 128 random bits each, in lower case hexadecimal. The client
// makes them, so that an answer that was lost costs no session. RECEIVED is the
// number of the last frame that arrived, TAKEN that of the last one the reader
// above has taken: the sender keeps frames until they are taken, and so cannot
// send faster than they are read, but never sends again what was received.
// NUMBER of an end is the last frame that was or will be read. CODE is
//
//	closed    in good order: everything was sent
//	lost      the session is not known here, or cannot go on: read state anew
//	busy      there are too many; try later
//
// Either end asks "p" when it has heard nothing for 15 seconds and gives a link
// up after 45. A new link for a session ends the old one.

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ResumeProtocol is the WebSocket subprotocol of a link that can carry a
// resumable stream.
const ResumeProtocol = "towline.resume.v1"

const (
	// pieceBytes is the most one frame carries of a message: what a link of a few
	// kilobytes a second can write within WriteTimeout.
	pieceBytes = 128 << 10
	// headRoom is more than the fields before that, in bytes.
	headRoom = 128
	// maxNumber keeps numbers exact in whatever a peer counts with.
	maxNumber = 1<<53 - 1
	// pingEvery and linkDead: a peer that is gone is noticed after three pings.
	pingEvery = 15 * time.Second
	linkDead  = 3 * pingEvery
	// ackDelay is how long "taken" waits to ride on a message; ackMessages and
	// ackBytes is how much of it does not wait.
	ackDelay    = 100 * time.Millisecond
	ackMessages = 32
	ackBytes    = 128 << 10
	// helloTime is how long the first frame of either side may take.
	helloTime = 15 * time.Second
	// closeTime is how long the end of a stream may take to be agreed on when
	// somebody waits for it.
	closeTime = 2 * time.Second
	// maxEndText bounds what an end says, in bytes.
	maxEndText = 512
)

// Codes of an end.
const (
	endClosed = "closed"
	endLost   = "lost"
	endBusy   = "busy"
)

// ErrLost ends a resumable stream that cannot go on: the other end no longer
// knows it, or more happened during an absence than is kept. Whoever is above
// must read state anew on a new stream. It comes as a [*LostError].
var ErrLost = errors.New("the session is lost")

// ErrRefused marks an error of ResumeOptions.Dial that only a person can mend:
// a login that was denied, a host key that changed. Wrap it with %w. It is
// shown in LinkState.Err and tried again slowly.
var ErrRefused = errors.New("refused")

// ErrExpelled, as the cause of the context of [Sessions.Serve], ends the session
// with the link: whoever is there has lost the right to be. What they said and
// nobody has read yet is not read any more.
var ErrExpelled = errors.New("expelled")

// LostError is how a resumable stream ends when messages may not have arrived.
// It matches [ErrLost].
type LostError struct {
	Why    string   // a clause for a person: "it is not known here any more"
	Unsent [][]byte // written here and never sent
	Unsure [][]byte // sent, and whether they were read is not known
}

// Error is Why in context.
func (e *LostError) Error() string { return ErrLost.Error() + ": " + e.Why }

// Is makes errors.Is(err, ErrLost) true.
func (e *LostError) Is(target error) bool { return target == ErrLost }

// token is an ID or a SECRET.
type token [16]byte

// frame is any one of them; which members count depends on kind.
type frame struct {
	kind       byte
	id, secret token
	keep       time.Duration
	number     uint64 // of m, c and e
	received   uint64
	taken      uint64
	code       string
	text       string
	msg        []byte // aliases what was parsed
}

var errFrame = errors.New("not a frame of " + ResumeProtocol)

// parseFrame reads one frame. What is not exactly one is an error.
func parseFrame(b []byte) (frame, error) {
	if len(b) == 0 {
		return frame{}, errFrame
	}
	f, p := frame{kind: b[0]}, fields{rest: b[1:]}
	switch f.kind {
	case 'm', 'c':
		f.number, f.taken = p.number(), p.number()
		f.msg = p.remainder()
	case 'a':
		f.taken = p.number()
	case 'p', 'q':
	case 'o':
		f.id, f.secret = p.token(), p.token()
		f.keep = time.Duration(min(p.number(), 1<<31)) * time.Second
	case 'r':
		f.id, f.secret = p.token(), p.token()
		f.received, f.taken = p.number(), p.number()
	case 'w':
		f.received, f.taken = p.number(), p.number()
	case 'e':
		f.code, f.number = p.word(), p.number()
		if len(p.rest) > 0 {
			text := p.remainder()
			f.text = oneLine(string(bytes.ToValidUTF8(text[:min(len(text), maxEndText)], nil)))
		}
	default:
		return frame{}, errFrame
	}
	if p.bad || len(p.rest) > 0 {
		return frame{}, errFrame
	}
	return f, nil
}

// fields takes the fields of a frame off its front.
type fields struct {
	rest []byte
	bad  bool
}

// word is up to the next blank; its own blank comes before it.
func (p *fields) word() string {
	if len(p.rest) < 2 || p.rest[0] != ' ' {
		p.bad = true
		return ""
	}
	w := p.rest[1:min(len(p.rest), 1+headRoom)]
	if i := bytes.IndexByte(w, ' '); i >= 0 {
		w = w[:i]
	}
	if len(w) == 0 {
		p.bad = true
	}
	p.rest = p.rest[1+len(w):]
	return string(w)
}

func (p *fields) number() uint64 {
	w := p.word()
	n, err := strconv.ParseUint(w, 10, 64)
	if err != nil || n > maxNumber || w[0] == '+' || w[0] == '0' && len(w) > 1 {
		p.bad = true
		return 0
	}
	return n
}

func (p *fields) token() (t token) {
	w := []byte(p.word())
	if len(w) != 2*len(t) || !bytes.Equal(w, bytes.ToLower(w)) {
		p.bad = true
		return t
	}
	if _, err := hex.Decode(t[:], w); err != nil {
		p.bad = true
	}
	return t
}

// remainder is everything after one blank; it may be empty.
func (p *fields) remainder() []byte {
	if len(p.rest) == 0 || p.rest[0] != ' ' {
		p.bad = true
		return nil
	}
	r := p.rest[1:]
	p.rest = nil
	return r
}

// messageFrame copies one piece of a message behind its head.
func messageFrame(kind byte, number, taken uint64, piece []byte) []byte {
	b := make([]byte, 0, digits(number)+digits(taken)+4+len(piece))
	b = strconv.AppendUint(append(b, kind, ' '), number, 10)
	b = strconv.AppendUint(append(b, ' '), taken, 10)
	return append(append(b, ' '), piece...)
}

// digits is how many n has.
func digits(n uint64) int {
	d := 1
	for ; n >= 10; n /= 10 {
		d++
	}
	return d
}

// payload is what messageFrame was given.
func payload(frame []byte) []byte {
	for range 3 {
		frame = frame[bytes.IndexByte(frame, ' ')+1:]
	}
	return frame
}

func takenFrame(taken uint64) []byte { return fmt.Appendf(nil, "a %d", taken) }

func openFrame(id, secret token, keep time.Duration) []byte {
	return fmt.Appendf(nil, "o %x %x %d", id[:], secret[:], int64(keep/time.Second))
}

func resumeFrame(id, secret token, received, taken uint64) []byte {
	return fmt.Appendf(nil, "r %x %x %d %d", id[:], secret[:], received, taken)
}

func welcomeFrame(received, taken uint64) []byte {
	return fmt.Appendf(nil, "w %d %d", received, taken)
}

func endFrame(code string, number uint64, text string) []byte {
	b := fmt.Appendf(nil, "e %s %d", code, number)
	if text == "" {
		return b
	}
	return append(append(b, ' '), text[:min(len(text), maxEndText)]...)
}
