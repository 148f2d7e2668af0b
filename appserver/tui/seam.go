package tui

import (
	"context"
	"errors"
	"fmt"
	"time"

	"towline/appserver/rpc"
)

// This file is what a launcher is to the client, in the client's own words:
// commands adapt one to the other. Step and HostKeyQuestion have the fields of
// the launcher's types in their order, so a conversion is enough.

// Errors of an Asker.
var (
	// ErrNobody is the answer when no person is there to ask.
	ErrNobody = errors.New("nobody is here to answer")
	// ErrAborted is the answer of a person who wants to stop connecting. Run
	// wraps it in a *config.Problem with the stage that was reached.
	ErrAborted = errors.New("given up")
)

// Step is one step of progress. A stage begins with a Step that is neither Done
// nor has an Err and ends with one that is or has; details come in between.
type Step struct {
	Stage   string        // one of the launcher's stages: "resolve", "dial", …
	Hop     string        // which host, when there are several; "" is the target
	Text    string        // one line
	Detail  bool          // only for those who asked for details
	Done    bool          // the stage is over, well
	Err     error         // the stage is over, badly
	Took    time.Duration // of the whole stage, when over
	Waiting bool          // on a person: the stage's clock stands still
}

// Decision is the answer to an unknown host key. The zero value refuses.
type Decision int

// The answers to a HostKeyQuestion.
const (
	Refuse     Decision = iota
	AcceptOnce          // this connection only
	AcceptSave          // and remember it
)

// HostKeyQuestion asks about a host nobody has met before.
type HostKeyQuestion struct {
	Hop         string // the alias or hop as the person knows it
	Address     string // host:port as it would stand in known_hosts
	Type        string // "ssh-ed25519"
	Fingerprint string // "SHA256:…"
	File        string // known_hosts file it would be saved in
}

// SecretKind is what a SecretQuestion asks for.
type SecretKind int

// Kinds of secrets.
const (
	Password   SecretKind = iota
	Passphrase            // of a private key file
	Challenge             // one prompt of the server's
)

// SecretQuestion asks for something to type.
type SecretQuestion struct {
	Hop     string // whose login this is for
	Kind    SecretKind
	Prompt  string // the server's words for a Challenge; else ours, or ""
	Subject string // user@host, or the key file
	Echo    bool   // what is typed may be shown
	Attempt int    // 1 for the first; more when the answer before was wrong
}

// Question asks a person to choose. There is no default: only a key answers.
type Question struct {
	Hop, Title string
	Text       string   // a paragraph under the title, may be ""
	Facts      []Fact   // the first three are seen before a choice but the last counts
	Choices    []Choice // at least one; the last one is the safe one
}

// Fact is one line of a question: what, and its value, which is never cut.
type Fact struct{ Name, Value string }

// Choice is one possible answer. Key is the letter that gives it; two choices
// must not share one. esc is always "none of them" and gives ErrAborted, unless
// a choice has the Key "esc".
type Choice struct{ Key, Label string }

// InstallOffer is what a person has to know before something is put on a host.
type InstallOffer struct {
	Host   string
	Why    string // what was looked for and not found, one line
	Source string // where the binary comes from: "this program, towline 0.4.2 for linux/arm64"
	Dir    string // where it goes on the host
	Bytes  int64
	// Replaces is the version there now, "" for none. It stays beside the new
	// one; Rollback is what to type to return to it.
	Replaces, Rollback string
}

// Question is the offer as a Question: choice 0 is yes, 1 no.
func (o InstallOffer) Question() Question {
	q := Question{
		Hop: o.Host, Title: "Install Towline on " + o.Host + "?", Text: o.Why,
		Facts:   []Fact{{"from", o.Source}, {"to", o.Dir}, {"size", megabytes(o.Bytes)}, {"needs", "no sudo, no internet on the host"}},
		Choices: []Choice{{"y", "install"}, {"n", "don't"}},
	}
	if o.Replaces != "" {
		q.Title = "Update Towline on " + o.Host + "?"
		q.Facts = append(q.Facts, Fact{"there now", o.Replaces + ", which stays beside it"})
		q.Choices[0].Label = "update"
	}
	if o.Rollback != "" {
		q.Facts = append(q.Facts, Fact{"to go back", o.Rollback})
	}
	return q
}

func megabytes(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KB", (n+1023)>>10)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
}

// Asker asks a person. Calls block until there is an answer or ctx ends, whose
// cause they then return. They may come from any goroutine; questions that
// come while another is open wait for it.
type Asker interface {
	HostKey(ctx context.Context, q HostKeyQuestion) (Decision, error)
	Secret(ctx context.Context, q SecretQuestion) (string, error)
	// Choose gives the index of the chosen Choice.
	Choose(ctx context.Context, q Question) (int, error)
	// Notice shows what a server or key has to say ("touch your security key").
	Notice(hop, text string)
}

// Connecting is the person in front of the screen, and the screen, while a
// connection is made. It is good until Run returns: a connection that is made
// anew after a loss tells its steps, and asks, through the same one. All text is
// stripped of control characters here. Methods may be called concurrently.
type Connecting interface {
	Asker
	// Step tells of progress.
	Step(s Step)
	// Progress tells how much of an upload is done, in bytes.
	Progress(done, total int64)
}

// Updating is what an Update is given.
type Updating interface {
	Connecting
	// Release closes the connection in use, and returns when that is done: it is
	// called before doing what that connection, coming back by itself, would undo.
	// Should the Update fail, Connect is run again.
	Release()
}

// Opened is a connection that Connect made, and what is known of its other end.
type Opened struct {
	// Dial gives a stream to the app-server: at the first call the one Connect
	// opened, afterwards, when that one has ended, another. It bounds itself: a
	// person may have to type a password. A stream that is also a [Link] heals
	// without its reader's help.
	Dial func(ctx context.Context) (rpc.Stream, error)
	// Close ends what Connect started besides; may be nil. Run calls it once it
	// has no use for the Opened any more.
	Close func() error

	// Wake tells that now is a good moment to try again: the machine woke up, the
	// network changed. May be nil. It only matters to streams that are no Link.
	Wake <-chan struct{}

	Host      string // what to call it; "" is Config.Host
	Transport string // how it is reached, in a word or two: "towline", "codex", "codex stdio"
	// CutEndsTurn: a running turn ends when the link does, or when the person
	// leaves. The screen says so.
	CutEndsTurn bool
	Note        string // one sentence more about the connection, "" for none
	Skew        Skew

	// Project is the folder new threads are begun in: what the person named, else
	// what is remembered. "" asks, with Recent on offer. "~/" is Home.
	Project string
	// ProjectAsked: the person named Project for this run.
	ProjectAsked bool
	Recent       []string
	Home         string // the remote's; "" when unknown
	// Chosen hears which folder new threads are begun in once the host has shown
	// that it is there; may be nil. It must not block.
	Chosen func(dir string)
}

// Skew is what to say about the version of the other end.
type Skew struct {
	Notice  string // one line; "" when there is nothing to say
	Blocked bool   // out of the window: reading works, sending does not
	// Update offers to put another version there, asking and telling through c,
	// and gives the connection to it. nil: none to offer.
	Update func(ctx context.Context, c Updating) (Opened, error)
}

// LinkState is how a link stands.
type LinkState = rpc.LinkState

// Link is a stream that outlives the link under it, as rpc.Resumable does. While
// it is down the client keeps the screen, says so in one line and sends nothing.
type Link interface {
	State() LinkState
	// Changed is closed, and replaced, when State changes.
	Changed() <-chan struct{}
	// Retry tries again now.
	Retry()
}

var _ Link = (*rpc.Resumable)(nil)
