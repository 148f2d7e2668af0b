// Package custody brings a credential from one machine to another, over any
// stream that leads to a program there: a key or a token is put ([Put]), a login
// that renews itself is moved ([Mover]), and the other end receives either
// ([Serve]). What storing and proving mean is the caller's business ([Host],
// [Local]); what may be lost on the way, and who has the login then, is this
// package's.
//
// # The wire
//
// Either side says lines: a mark, a space, a JSON object. Whatever else comes (rc
// files print) is passed over. The receiver begins:
//
//	host    ready    {"event":"ready","v":1,"version":…,"host":…}
//	laptop  put      {"op":"put","kind":…,"bytes":N,"sha256":…,"replace":…}, and N bytes
//	host             {"event":"stored",…} or {"event":"failed",…}
//
// or, for a move,
//
//	laptop  move     {"op":"move","id":…,"bytes":N,"sha256":…,"replace":…}, and N bytes
//	host    held     {"event":"held","fingerprint":…}: it has them in memory, and may keep them
//	laptop  commit   {"op":"commit","id":…}
//	host             {"event":"outcome","outcome":…}
//
// or, for a move whose outcome was never heard,
//
//	laptop  resolve  {"op":"resolve","id":…}
//	host             {"event":"outcome","outcome":…}
//
// A payload that is not whole, or whose checksum differs, changes nothing. Before
// commit the host keeps nothing. A secret is in a payload and nowhere else.
//
// # Who has the login
//
// Before it sends commit the laptop takes the login out of every place where a
// program could use it, and keeps it aside in its [Ledger]. From then on it does
// not use it until the host has said that it has nothing. The host proves the
// login by renewing it, which spends the token that the laptop has aside. So at
// no time do two machines use it, whatever breaks: when the answer is lost, the
// host is asked again, and one that never heard the commit refuses it from then on.
package custody

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"towline/config"
)

const (
	// wireVersion is said by ready; another one is not understood.
	wireVersion = 1
	// mark begins every line of the protocol.
	mark = "towline-custody "
	// maxLine bounds one line, maxNoise all that is not ours, and MaxPayload a
	// credential: a login is a few KB. In bytes.
	maxLine    = 64 << 10
	maxNoise   = 1 << 20
	MaxPayload = 256 << 10
	// maxHints bounds what the other side advises.
	maxHints = 6
)

// Kind is what is put.
type Kind string

// The kinds.
const (
	KindAPIKey      Kind = "api-key"
	KindAccessToken Kind = "access-token"
	KindTowline     Kind = "towline-token" // of another Towline, for later use as its client
)

// Stored is what a host has now. It holds no secret.
type Stored struct {
	Mode        string `json:"mode"`
	Store       string `json:"store"`
	Path        string `json:"path,omitempty"`
	Fingerprint string `json:"fingerprint"`
	Account     string `json:"account,omitempty"`
	Note        string `json:"note,omitempty"`
}

// Outcome is what became of a move.
type Outcome string

// The outcomes.
const (
	Proved   Outcome = "proved"   // the host has the login, and renewed it
	Returned Outcome = "returned" // the host has nothing, and spent nothing
	Dead     Outcome = "dead"     // the issuer refused it; nobody can use it any more
	Unknown  Outcome = "unknown"  // the host has it and could not prove it yet
	Busy     Outcome = "busy"     // the host is at it
)

// message is every line of the protocol; each uses some of it.
type message struct {
	Event       string  `json:"event,omitempty"`
	Op          string  `json:"op,omitempty"`
	V           int     `json:"v,omitempty"`
	Version     string  `json:"version,omitempty"`
	Host        string  `json:"host,omitempty"`
	Kind        Kind    `json:"kind,omitempty"`
	ID          string  `json:"id,omitempty"`
	Bytes       int     `json:"bytes,omitempty"`
	SHA256      string  `json:"sha256,omitempty"`
	Replace     bool    `json:"replace,omitempty"`
	Fingerprint string  `json:"fingerprint,omitempty"`
	Stored      *Stored `json:"stored,omitempty"`
	Outcome     Outcome `json:"outcome,omitempty"`
	Fault       *fault  `json:"fault,omitempty"`
}

// fault is a config.Problem on the wire.
type fault struct {
	Stage string   `json:"stage"`
	Error string   `json:"error"`
	Hints []string `json:"hints,omitempty"`
	Exit  int      `json:"exit"`
}

func faultOf(err error) *fault {
	f := &fault{Error: config.OneLine(err.Error()), Exit: config.ExitCode(err)}
	var p *config.Problem
	if errors.As(err, &p) {
		f.Stage, f.Error = p.Stage, config.OneLine(p.Err.Error())
	}
	for _, h := range config.Hints(err) {
		if len(f.Hints) < maxHints {
			f.Hints = append(f.Hints, config.OneLine(h))
		}
	}
	return f
}

// problem is what a host complained of, as an error of ours.
func (f *fault) problem(host string) error {
	if f == nil {
		f = &fault{Error: "it does not say why"}
	}
	p := &config.Problem{Stage: config.OneLine(f.Stage), Err: fmt.Errorf("%s: %s", config.OneLine(host), config.OneLine(f.Error)), Exit: config.ExitFailure}
	if p.Stage == "" {
		p.Stage = StageStore
	}
	if f.Exit > 0 && f.Exit < 256 {
		p.Exit = f.Exit
	}
	for i, h := range f.Hints {
		if i < maxHints {
			p.Hints = append(p.Hints, "on "+config.OneLine(host)+": "+config.OneLine(h))
		}
	}
	return p
}

// Stages of the Problems of this package.
const (
	StageStore   = "store"   // keeping it
	StageMove    = "move"    // handing a login over
	StageVersion = "version" // do the two programs understand each other
)

// errCut: the stream ended in the middle.
var errCut = errors.New("the link was cut")

// wire is one end of a stream. One goroutine uses it.
type wire struct {
	rw    io.ReadWriteCloser
	r     *bufio.Reader
	noise int
}

func newWire(rw io.ReadWriteCloser) *wire {
	return &wire{rw: rw, r: bufio.NewReaderSize(rw, 4<<10)}
}

// within bounds what f does by ctx and d: a stream has no deadlines, so it is
// closed.
func (w *wire) within(ctx context.Context, d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d, fmt.Errorf("no answer within %v", d))
	defer cancel()
	closed := context.AfterFunc(ctx, func() { _ = w.rw.Close() })
	err := f()
	if !closed() {
		return fmt.Errorf("%w: %w", errCut, context.Cause(ctx))
	}
	return err
}

func (w *wire) send(m message, payload []byte) error {
	if payload != nil {
		sum := sha256.Sum256(payload)
		m.Bytes, m.SHA256 = len(payload), hex.EncodeToString(sum[:])
	}
	head, err := json.Marshal(m)
	if err != nil {
		return err
	}
	line := append(append([]byte(mark), head...), '\n')
	if _, err := w.rw.Write(append(line, payload...)); err != nil {
		return fmt.Errorf("%w: %w", errCut, err)
	}
	return nil
}

// next is the other side's next line.
func (w *wire) next() (m message, err error) {
	for {
		line, err := w.line()
		_, ours, found := bytes.Cut(line, []byte(mark)) // a prompt may stand before it
		if found && err == nil {
			if json.Unmarshal(ours, &m) != nil {
				return message{}, errors.New("the other end does not speak this protocol")
			}
			return m, nil
		}
		if w.noise += len(line); w.noise > maxNoise {
			return message{}, errors.New("the other end prints without end")
		}
		if err != nil {
			return message{}, fmt.Errorf("%w: %w", errCut, err)
		}
	}
}

// line reads to the end of a line, maxLine of it.
func (w *wire) line() ([]byte, error) {
	var out []byte
	for {
		part, err := w.r.ReadSlice('\n')
		if len(out)+len(part) > maxLine {
			w.noise += len(out)
			if w.noise > maxNoise {
				return out, err
			}
			out = out[:0] // no line of ours is that long
		}
		out = append(out, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return out, err
		}
	}
}

// payload reads what m announces. Anything less than all of it is an error.
func (w *wire) payload(m message) ([]byte, error) {
	if m.Bytes <= 0 || m.Bytes > MaxPayload {
		return nil, &config.Problem{Stage: StageStore, Err: fmt.Errorf("a credential of %d bytes is none", m.Bytes), Exit: config.ExitUsage}
	}
	b := make([]byte, m.Bytes)
	if _, err := io.ReadFull(w.r, b); err != nil {
		return nil, fmt.Errorf("%w: %w", errCut, err)
	}
	sum := sha256.Sum256(b)
	want, err := hex.DecodeString(m.SHA256)
	if err != nil || subtle.ConstantTimeCompare(sum[:], want) != 1 {
		return nil, &config.Problem{Stage: StageStore, Err: errors.New("the credential was damaged on the way; nothing was stored"), Exit: config.ExitFailure, Hints: []string{"try again"}}
	}
	return b, nil
}
