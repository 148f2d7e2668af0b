package remote

import (
	"context"
	"time"
)

// The stages of a connection, in order. Problems, progress and doctor use these
// words and no others.
const (
	StageResolve   = "resolve"      // what ssh_config says about the name
	StageDial      = "dial"         // TCP, or a proxy command, to each hop
	StageHostKey   = "host key"     // is it the host we know
	StageAuth      = "authenticate" // keys, passwords, challenges
	StageShell     = "shell"        // the login shell ran our script
	StageProbe     = "probe"        // what machine this is
	StageFind      = "find"         // which app-server is there
	StageVersion   = "version"      // do we understand each other
	StageInstall   = "install"      // uploading our own
	StageStart     = "start"        // the app-server runs
	StageHandshake = "handshake"    // initialize was answered
	StageReady     = "ready"
)

// Event is one step of progress. A stage begins with an Event that is neither
// Done nor Err, and ends with one that is; details may come in between.
type Event struct {
	Stage   string
	Hop     string        // which host, when there are several; the target's alias otherwise
	Text    string        // one line, stripped of control characters
	Detail  bool          // only for those who asked for details
	Done    bool          // the stage is over, well
	Err     error         // the stage is over, badly
	Took    time.Duration // of the whole stage, when over
	Waiting bool          // on a person: deadlines are paused
}

// Decision is a person's answer to an unknown host key. The zero value refuses.
type Decision int

// The answers to a HostKeyQuestion.
const (
	Refuse     Decision = iota
	AcceptOnce          // this connection only
	AcceptSave          // and remember it in known_hosts
)

// HostKeyQuestion asks about a host nobody has met before. A key that changed
// is never asked about: it is an error.
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
	Challenge             // one prompt of keyboard-interactive
)

// SecretQuestion asks for something to type.
type SecretQuestion struct {
	Hop     string     // whose login this is for
	Kind    SecretKind // what it is
	Prompt  string     // the server's words for a Challenge, stripped; else ours
	Subject string     // user@host, or the key file
	Echo    bool       // what is typed may be shown
	Attempt int        // 1 for the first; more when the answer before was wrong
}

// Asker asks a person while a connection is made. Calls block until there is an
// answer or ctx ends; they may come from any goroutine, one at a time for each
// connection. An Asker that cannot ask answers with ErrNobody.
type Asker interface {
	HostKey(ctx context.Context, q HostKeyQuestion) (Decision, error)
	Secret(ctx context.Context, q SecretQuestion) (string, error)
	// Notice shows what a server or key has to say ("touch your security key"),
	// stripped of control characters.
	Notice(hop, text string)
}
