package protocol

import "encoding/json"

// Methods Towline adds. They live in the same protocol: requests any client may
// send to a Towline gate, and notifications sent only to clients whose
// initialize carried capabilities.extensions.towline (see [Extension]). A stock
// app-server answers the requests with an error, which clients treat as "the
// peer is not Towline".
const (
	// ExtSession is asked once after initialize: who am I, where was I.
	// Params {} -> [Session].
	ExtSession = "towline/session/read"
	// ExtPresence lists who is attached. Params {} -> {"data":[Presence]}.
	ExtPresence = "towline/presence/read"
	// ExtApprovalList lists open approvals and recently answered ones.
	// Params {"threadId"?, "open"?:true} -> {"data":[Approval]}.
	ExtApprovalList = "towline/approval/list"
	// ExtApprovalAnswer answers one without being subscribed to its thread.
	// Params {"id","result"} -> {"approval":Approval}; an error names the winner.
	ExtApprovalAnswer = "towline/approval/answer"
	// ExtStatus is what `towline status` prints. Params {} -> [HostStatus].
	ExtStatus = "towline/status/read"
	// ExtCredentialNote has the host's audit say what a command did to a credential
	// of this machine: the daemon holds the file. Params {"event":"credential.…",
	// "facts":{name:text}} -> {}. For admins.
	ExtCredentialNote = "towline/credential/note"

	// The access tokens of the host, for admins. What they take and answer is
	// package access/token's (wire.go).
	ExtTokenCreate = "towline/token/create"
	ExtTokenList   = "towline/token/list"
	ExtTokenShow   = "towline/token/read"
	ExtTokenRotate = "towline/token/rotate"
	ExtTokenRevoke = "towline/token/revoke"
	// ExtRemoteControl opens or closes, at once, what other machines reach without
	// SSH: Params {"enabled":bool} -> {"enabled":bool}. For admins.
	ExtRemoteControl = "towline/remoteControl/set"
	// ExtHandOver has the daemon give its listeners to a successor. For admins.
	ExtHandOver = "towline/handOver"

	// NotePresence: {"data":[Presence]}, on every change.
	NotePresence = "towline/presence/changed"
	// NoteApprovalOpened and NoteApprovalClosed: {"approval":Approval}.
	NoteApprovalOpened = "towline/approval/opened"
	NoteApprovalClosed = "towline/approval/closed"
	// NoteEngine: [EngineState], when the engine dies, restarts or recovers.
	NoteEngine = "towline/engine/changed"
)

// Extension is the value of capabilities.extensions.towline in initialize.
type Extension struct {
	Version int    `json:"version"` // 1
	Label   string `json:"label,omitempty"`
}

// Session answers [ExtSession].
type Session struct {
	Principal  Presence    `json:"principal"`
	Host       string      `json:"host"` // the host's short name
	Project    string      `json:"project"`
	LastThread *ThreadID   `json:"lastThread"` // where this principal was when it left
	Engine     EngineState `json:"engine"`
	Rehearsal  bool        `json:"rehearsal"`           // answers come from the offline instrument
	Restarted  *Restarted  `json:"restarted,omitempty"` // as in [HostStatus]
}

// Presence is one attached connection, or the person behind it.
type Presence struct {
	ID          string    `json:"id"`   // of the connection
	Kind        string    `json:"kind"` // "local", "key", "token", "device"
	Name        string    `json:"name"` // for people: key comment, token name, user name
	Role        Role      `json:"role"`
	Client      string    `json:"client"`      // clientInfo.name
	Via         string    `json:"via"`         // "ssh", "unix", "ws", "stdio"
	Thread      *ThreadID `json:"thread"`      // what it looks at
	ConnectedAt int64     `json:"connectedAt"` // Unix milliseconds
	// AwaySince is when the link of a client that will resume was lost, in Unix
	// milliseconds; absent while it is there.
	AwaySince int64 `json:"awaySince,omitempty"`
	You       bool  `json:"you"`
}

// EngineState says which engine works here and how it is.
type EngineState struct {
	Kind    string `json:"kind"`  // "codex" or "native"
	State   string `json:"state"` // "starting", "ready", "restarting", "failed"
	Version string `json:"version,omitempty"`
	Model   string `json:"model,omitempty"`
	// Problem is one sentence for a person, then Hints what to type. It is empty
	// when all is well; a ready engine can have one too (Codex without an account:
	// clients may attach, and log in through the protocol).
	Problem string   `json:"problem,omitempty"`
	Hints   []string `json:"hints,omitempty"`
	// Detail is the tail of the engine's stderr when it died.
	Detail string `json:"detail,omitempty"`
	// RetryInMs is the time to the next start attempt while restarting.
	RetryInMs int64 `json:"retryInMs,omitempty"`
}

// Approval is a question to a person as an object: it outlives the connection
// that showed it, and says who answered.
type Approval struct {
	ID        string          `json:"id"`
	ThreadID  ThreadID        `json:"threadId"`
	RequestID json.RawMessage `json:"requestId"` // the server request's id on the wire
	Method    string          `json:"method"`
	Params    json.RawMessage `json:"params"`         // the exact request
	Item      json.RawMessage `json:"item,omitempty"` // the item it is about, when known: carries a patch's diff
	State     string          `json:"state"`          // an Approval constant
	OpenedAt  int64           `json:"openedAt"`       // Unix milliseconds
	ClosedAt  int64           `json:"closedAt,omitempty"`
	By        *Presence       `json:"by,omitempty"`     // who answered
	Result    json.RawMessage `json:"result,omitempty"` // what they answered
}

// Approval states.
const (
	ApprovalOpen     = "open"
	ApprovalAnswered = "answered"
	ApprovalGone     = "gone" // the turn ended or the engine died before anyone answered
)

// HostStatus answers [ExtStatus].
type HostStatus struct {
	Version   string      `json:"version"`
	PID       int         `json:"pid"`
	StartedAt int64       `json:"startedAt"`
	Home      string      `json:"home"`
	Project   string      `json:"project"`
	SSH       string      `json:"ssh,omitempty"`
	Listen    []string    `json:"listen"`
	HostKey   string      `json:"hostKey,omitempty"`
	Engine    EngineState `json:"engine"`
	Attached  []Presence  `json:"attached"`
	Threads   struct {
		Working int `json:"working"`
		Waiting int `json:"waiting"`
		// Interrupted are those whose last turn the end of the host cut short, and
		// nobody has gone on with.
		Interrupted int `json:"interrupted,omitempty"`
	} `json:"threads"`
	// Restarted says why the daemon had to be started again; absent when nothing
	// went wrong before it.
	Restarted *Restarted `json:"restarted,omitempty"`
	// Audit tells that the log of who did what cannot be written; absent when it can.
	Audit *AuditTrouble `json:"audit,omitempty"`
	// Lent is the account a client lends this host, absent when none does.
	Lent *Lent `json:"lent,omitempty"`
}

// Restarted is the end of the daemon before this one, when that was not asked for.
type Restarted struct {
	At     int64  `json:"at"` // Unix milliseconds
	Reason string `json:"reason"`
}

// AuditTrouble is a log of who did what that cannot be written.
type AuditTrouble struct {
	Since   int64  `json:"since"`   // Unix milliseconds
	Waiting int    `json:"waiting"` // entries kept until it can
	Lost    int    `json:"lost"`    // entries of which only the number is kept
	Problem string `json:"problem"`
	Refuses bool   `json:"refuses"` // nothing is done meanwhile that would be on record
}

// Lent is an account that somebody lends. Of it only its name is told.
type Lent struct {
	Account string   `json:"account"` // the ChatGPT workspace (account id)
	By      Presence `json:"by"`
}
