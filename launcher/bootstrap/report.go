package bootstrap

import (
	"time"

	"towline/appserver/protocol"
)

// Kind is which app-server.
type Kind string

// The kinds.
const (
	Towline Kind = "towline"
	Codex   Kind = "codex"
)

// Report is what a probe found. It is JSON-able: doctor prints it. Text in it
// comes from the remote, stripped of control characters; passwords inside proxy
// addresses are replaced.
type Report struct {
	OS       string `json:"os"`       // as Go names it: "linux", "darwin", …; "windows" for a POSIX shell on it
	Arch     string `json:"arch"`     // as Go names it: "amd64", "arm64", …
	Kernel   string `json:"kernel"`   // uname -sr
	Hostname string `json:"hostname"` //
	User     string `json:"user"`
	UID      int    `json:"uid"`
	Home     string `json:"home"`
	Shell    string `json:"shell"` // the login shell
	// Door is set when the other side is Towline's own SSH door, which has no
	// shell and needs none: most else is empty then.
	Door bool `json:"door,omitempty"`

	Env          map[string]string `json:"env"`          // captured: PATH, proxies, CODEX_HOME, TOWLINE_HOME, XDG_*, NVM_DIR, …
	EnvFrom      string            `json:"envFrom"`      // "login shell, interactive", "login shell", "this session"
	EnvNote      string            `json:"envNote"`      // why it is not the best of these
	PathBroken   bool              `json:"pathBroken"`   // PATH lacks even the basic tools; absolute ones were used
	PathSearched []string          `json:"pathSearched"` // folders looked through for binaries, in order
	Tools        []string          `json:"tools"`        // optional tools that exist: setsid, flock, gzip, sha256sum, …

	InstallDir   string `json:"installDir"`   // absolute
	StateDir     string `json:"stateDir"`     // where Towline's own state is: run/ in it holds sockets
	DiskFree     int64  `json:"diskFree"`     // bytes available at InstallDir; -1 unknown
	ReadOnlyHome bool   `json:"readOnlyHome"` // home cannot be written to
	NoExec       bool   `json:"noExec"`       // InstallDir lies on a file system mounted noexec
	NoExecTmp    bool   `json:"noExecTmp"`    // so does /tmp
	Writable     bool   `json:"writable"`     // InstallDir, or the closest folder above it that exists

	ClockSkew time.Duration `json:"clockSkewNs"` // the remote's clock minus ours, to a second; 0 within that
	Sandbox   Sandbox       `json:"sandbox"`
	Proxies   []string      `json:"proxies"` // "https_proxy=http://…", redacted
	Ports     []Port        `json:"ports"`   // 1455 and 1457
	Linger    Linger        `json:"linger"`

	Candidates []Candidate `json:"candidates"`         // binaries and daemons, in the order found
	Previous   string      `json:"previous,omitempty"` // the version a Rollback would return to

	Items []Item        `json:"items"` // how long each question took, and which stayed unanswered
	Took  time.Duration `json:"tookNs"`

	o Options // of the Probe, for what comes after it
}

// Sandbox is what the remote's kernel offers for confining commands.
type Sandbox struct {
	Landlock   string `json:"landlock"`             // "yes", "no", "unknown"
	UserNS     string `json:"userNamespaces"`       // for ordinary users: "yes", "no", "unknown"
	Bubblewrap string `json:"bubblewrap,omitempty"` // its path
}

// Port is whether something listens on a port the login needs.
type Port struct {
	Port  int    `json:"port"`
	State string `json:"state"` // "free", "in use", "unknown"
}

// Linger is whether what was started survives the last logout.
type Linger struct {
	Systemd bool   `json:"systemd"`
	State   string `json:"state"`              // "yes", "no", "unknown"
	Kills   bool   `json:"killsUserProcesses"` // logind ends everything of a user who left
}

// Item is one question of the probe.
type Item struct {
	Name string        `json:"name"`
	Took time.Duration `json:"tookNs"`
	Late bool          `json:"late,omitempty"` // no answer in time; it was given up
}

// Candidate is an app-server that could be used: a binary, a running daemon, or
// both.
type Candidate struct {
	Kind    Kind            `json:"kind"`
	Path    string          `json:"path"`              // of the binary
	Real    string          `json:"real,omitempty"`    // where Path leads, when elsewhere
	From    string          `json:"from"`              // "PATH", "well-known", "installed", "running", "door"
	Version string          `json:"version,omitempty"` // of the binary
	Window  protocol.Window `json:"protocol"`          // zero for Codex, and for a Towline that does not say
	Socket  string          `json:"socket,omitempty"`  // of a daemon that answers
	Private bool            `json:"private,omitempty"` // that daemon is a Codex of Towline's own starting
	Fault   string          `json:"fault,omitempty"`   // why it cannot be used
}
