package bootstrap

// Action is what a Choice means to do.
type Action string

// The actions.
const (
	Join  Action = "join"    // a daemon runs: connect to it
	Start Action = "start"   // start a daemon, then connect to it
	Stdio Action = "stdio"   // a bare child on stdin and stdout: a cut link ends its turn
	Offer Action = "install" // nothing is there: offer to install Towline
)

// Choice is what will be used and why.
type Choice struct {
	Action    Action    `json:"action"`
	Candidate Candidate `json:"candidate"` // empty for Offer
	Why       string    `json:"why"`       // one line for a person
	Others    []string  `json:"others"`    // what was passed over, each with its reason
	Skew      Skew      `json:"skew"`      // the client's version against the candidate's
	// Env is set for what is started, above its login environment: ssh_config's
	// SetEnv, SSH_AUTH_SOCK of a forwarded agent. Filled by the caller.
	Env map[string]string `json:"-"`
	// ForwardAgent asks for agent forwarding on the channel. Filled by the caller.
	ForwardAgent bool `json:"-"`
}

// Choose picks what to use, in this order: a Towline daemon that runs, a
// Towline binary, a Codex daemon that runs, a Codex binary, and else the offer
// to install. It is a pure function of its arguments.
func Choose(rep Report, o Options) (Choice, error) { panic("being written") }
