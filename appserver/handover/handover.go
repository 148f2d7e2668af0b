// Package handover lets a running daemon be succeeded by another process of the
// same home, mostly a newer build of the program: its listening sockets change
// hands without closing, so that nobody who connects is refused, and what runs in
// the old process may end there.
//
// The old process is the elder, the new one its heir. They meet on a private unix
// socket in the elder's runtime folder, by the kernel's word of the same user, and
// of no more confinement than the elder's: what an agent runs is the user's too. It
// carries lines of JSON, some with file descriptors (SCM_RIGHTS):
//
//	heir   {"do":"succeed","format":1,"version":V}
//	elder  {"offer":{…}}            what there is to hand over; all goes on as before
//	heir   {"do":"claim"}           it could start: its configuration is right
//	elder  {"offer":{…},"files":[…]} with the descriptors. It accepts nobody, has let
//	                                its clients go and has closed its books
//	heir   {"do":"ready"}           it has opened all of that
//	elder  {"do":"go"}              the heir is the daemon
//
// Until "go" nothing is lost: when the heir fails, dies or is silent for too long,
// the elder takes everything back. The connection ends with the hand-over. Other
// requests on the same socket are told at [Server].
//
// Start with [Listen] in a daemon, and [Dial] in its heir.
package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

// Format is the newest description both sides may speak. An heir that needs
// another is refused, and the daemon goes on.
const Format = 1

const (
	// helloTime is how long a request on the socket may take to come.
	helloTime = 10 * time.Second
	// prepareTime is how long an heir may take to read its configuration and make
	// its engine; the elder serves meanwhile.
	prepareTime = time.Minute
	// readyTime is how long it may take to open what it was given: nobody is served.
	readyTime = 20 * time.Second
	// goTime is how long an heir waits for the last word.
	goTime = 20 * time.Second
	// tellTime is how long one that is refused may take to hear why.
	tellTime = time.Second
	// startTime is how long a daemon may take to start an heir.
	startTime = 10 * time.Second
	// maxMessage bounds one message, in bytes; maxFiles the descriptors of one, as
	// the kernel does.
	maxMessage = 256 << 10
	maxFiles   = 128
	// maxGuests bounds connections to the socket.
	maxGuests = 512
)

// socketName is short: a folder that has room for a daemon's own socket has room
// for this one (see transport's bound of a path).
const socketName = "upgrade.sock"

// Socket is where a daemon is met that listens on the unix socket at path: beside
// it, where it really lies.
func Socket(path string) string {
	if actual, err := filepath.EvalSymlinks(path); err == nil {
		path = actual
	}
	return filepath.Join(filepath.Dir(path), socketName)
}

// ErrUnsupported: this system cannot pass open files from process to process.
var ErrUnsupported = errors.New("a running daemon cannot be handed over on this system")

// ErrNobody: no daemon listens for an heir.
var ErrNobody = errors.New("no daemon is there that could hand over")

// Offer says what a daemon has to hand over.
type Offer struct {
	Format  int    `json:"format"`
	PID     int    `json:"pid"`
	Version string `json:"version"`
	Home    string `json:"home"`
	// Kind of the engine, which the heir's must be too.
	Kind string `json:"kind"`
	// Engine is what the engine of that kind has to say to its heir.
	Engine json.RawMessage `json:"engine,omitempty"`
	// Args are those the daemon was started with, without the program.
	Args []string `json:"args,omitempty"`
	// Dir is its working directory.
	Dir string `json:"dir,omitempty"`
	// Rooted: the daemon was started to be alone, and waits for no heir's end.
	Detached bool `json:"detached,omitempty"`
}

// Daemon is what can be succeeded. Its methods are not called concurrently, but
// for Guest, Note and Start.
type Daemon interface {
	// Offer says what there is, or why it cannot be handed over now.
	Offer() (Offer, error)
	// Yield stops serving and gives copies of the open files by name; the caller
	// closes them. After an error everything is as it was.
	Yield(ctx context.Context) (Offer, map[string]*os.File, error)
	// TakeBack undoes a Yield that came to nothing.
	TakeBack(why error)
	// Retire ends what Yield stopped: the heir, a process of this pid, is the daemon.
	Retire(heir int)
	// Guest serves a client whom an earlier daemon has proved, on its behalf, until
	// it leaves; rw is closed afterwards.
	Guest(ctx context.Context, g Guest, rw net.Conn)
	// Note records what happened to somebody in an earlier daemon.
	Note(n Note)
	// Start runs program as an heir, the way this daemon was started.
	Start(program string) (pid int, err error)
}

// Guest is a client of an earlier daemon, such as an SSH session that outlives the
// hand-over.
type Guest struct {
	Kind  access.Kind   `json:"kind"`
	ID    string        `json:"id"`
	Name  string        `json:"name"`
	Role  protocol.Role `json:"role"`
	Scope *access.Scope `json:"scope,omitempty"`

	Via    string `json:"via"`
	Remote string `json:"remote"`
	// Bytes: what follows is a WebSocket's handshake; else one message a line.
	Bytes bool `json:"bytes,omitempty"`
}

// GuestOf describes a client.
func GuestOf(p access.Principal, via, remote string) Guest {
	return Guest{Kind: p.Kind, ID: p.ID, Name: p.Name, Role: p.Role, Scope: p.Scope, Via: via, Remote: remote}
}

// Principal is who the guest is. When the credential stops to count, the earlier
// daemon ends the connection.
func (g Guest) Principal() access.Principal {
	return access.Principal{Kind: g.Kind, ID: g.ID, Name: g.Name, Role: g.Role, Scope: g.Scope}
}

// Note is an entry for the audit log.
type Note struct {
	Event string `json:"event"`
	Who   *Guest `json:"who,omitempty"`
	Facts []Fact `json:"facts,omitempty"`
}

// Fact is one attribute of a Note.
type Fact struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

// NoteOf makes a Note of what would have been recorded.
func NoteOf(event string, p access.Principal, attrs []slog.Attr) Note {
	n := Note{Event: event}
	if p.Kind != "" {
		g := GuestOf(p, "", "")
		n.Who = &g
	}
	for _, a := range attrs {
		v := a.Value.Resolve()
		var value any
		switch v.Kind() {
		case slog.KindBool, slog.KindInt64, slog.KindUint64, slog.KindFloat64:
			value = v.Any()
		default:
			value = v.String()
		}
		n.Facts = append(n.Facts, Fact{a.Key, value})
	}
	return n
}

// Attrs are the facts as they are recorded.
func (n Note) Attrs() []slog.Attr {
	out := make([]slog.Attr, 0, len(n.Facts))
	for _, f := range n.Facts {
		out = append(out, slog.Any(f.Key, f.Value))
	}
	return out
}

// message is one line on the socket.
type message struct {
	Do      string   `json:"do,omitempty"`
	Format  int      `json:"format,omitempty"`
	Version string   `json:"version,omitempty"`
	PID     int      `json:"pid,omitempty"`
	Program string   `json:"program,omitempty"`
	Offer   *Offer   `json:"offer,omitempty"`
	Files   []string `json:"files,omitempty"` // names of the descriptors that come along
	Guest   *Guest   `json:"guest,omitempty"`
	Note    *Note    `json:"note,omitempty"`
	Error   string   `json:"error,omitempty"`
	Hints   []string `json:"hints,omitempty"`
}

// What a message may ask for or say.
const (
	doOffer   = "offer"
	doSucceed = "succeed"
	doClaim   = "claim"
	doReady   = "ready"
	doGo      = "go"
	doStart   = "start"
	doGuest   = "guest"
	doNote    = "note"
	doWelcome = "welcome"
)

// RefusedError is what the other side said instead of going on.
type RefusedError struct {
	Text  string
	Hints []string
}

func (e *RefusedError) Error() string { return e.Text }

// expect reads a message that is to say what; anything else is an error.
func (w *wire) expect(ctx context.Context, limit time.Duration, what string) (message, []*os.File, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("nothing was said within %v", limit))
	defer cancel()
	m, files, err := w.receive(ctx)
	switch {
	case err != nil:
		return m, nil, err
	case m.Error != "":
		closeAll(files)
		return m, nil, &RefusedError{m.Error, m.Hints}
	case m.Do != what:
		closeAll(files)
		return m, nil, fmt.Errorf("%q was said where %q belongs", m.Do, what)
	}
	return m, files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // nothing was written
	}
}
