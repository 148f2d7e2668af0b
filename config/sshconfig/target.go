package sshconfig

import "time"

// Target is everything the configuration says about one host, with tokens and
// `~` expanded, as ssh would use it.
type Target struct {
	Alias    string // the name asked for, without user@ or ssh://
	HostName string // where to connect; equals Alias when nothing else is configured
	User     string // whom to be there
	Port     int

	// IdentityFiles and CertificateFiles are absolute where the configuration
	// allows it. Files may be absent, as with ssh.
	IdentityFiles, CertificateFiles []string
	// IdentityFilesDefault says that nobody configured an IdentityFile: the list
	// is ssh's own, and absent files in it are not worth a word.
	IdentityFilesDefault bool
	// IdentitiesOnly forbids keys of the agent that no IdentityFile names.
	IdentitiesOnly bool
	// IdentityAgent is a socket, "none", or "" for $SSH_AUTH_SOCK.
	IdentityAgent string
	// AddKeysToAgent is no, yes, ask or confirm, perhaps with a lifetime behind.
	AddKeysToAgent string
	// ForwardAgent is no, yes, a socket path or a $VARIABLE holding one.
	ForwardAgent string

	// ProxyJump lists the hops, first to dial first, each [user@]host[:port] or
	// ssh://…, tokens expanded. [ResolveHop] resolves one; of what it says about
	// proxies only the first hop's counts, as with ssh: the others are reached
	// through the hop before them. Nil when there are none.
	ProxyJump []string
	// ProxyCommand is for the user's shell, tokens expanded; "" for none. Never
	// set together with ProxyJump.
	ProxyCommand string

	UserKnownHosts, GlobalKnownHosts []string
	// StrictHostKeyChecking is yes, no, ask or accept-new.
	StrictHostKeyChecking string
	HostKeyAlias          string
	HashKnownHosts        bool
	CheckHostIP           bool
	UpdateHostKeys        bool
	// KnownHostsCommand is as written: its tokens are known only once the server
	// has shown its key. It is also in NeedsSystem.
	KnownHostsCommand string
	// VerifyHostKeyDNS is yes, no or ask.
	VerifyHostKeyDNS string
	// RevokedHostKeys names a file of keys never to trust. Also in NeedsSystem.
	RevokedHostKeys string
	// NoHostAuthenticationForLocalhost skips the host key check on loopback.
	NoHostAuthenticationForLocalhost bool

	ConnectTimeout      time.Duration // 0: none set
	ConnectionAttempts  int
	ServerAliveInterval time.Duration // 0: none set
	ServerAliveCountMax int
	TCPKeepAlive        bool
	AddressFamily       string // any, inet or inet6
	BindAddress         string
	BindInterface       string

	Ciphers, KexAlgorithms, MACs                []string
	HostKeyAlgorithms, PubkeyAcceptedAlgorithms []string
	PasswordAuthentication                      bool
	KbdInteractiveAuthentication                bool
	PubkeyAuthentication                        bool
	BatchMode                                   bool     // ask nothing
	PreferredAuthentications                    []string // nil: ssh's own order
	NumberOfPasswordPrompts                     int
	// GSSAPIAuthentication is on. Debian turns it on for everybody, so this alone
	// is no reason for the system ssh: it is one more thing to try with it, once
	// everything else was refused. See NeedsSystem for when it is a reason.
	GSSAPIAuthentication bool

	SetEnv      map[string]string
	SendEnv     []string // patterns of variable names
	Compression bool

	// ControlPath is the expanded socket path, "" for none.
	ControlPath   string
	ControlMaster string // no, yes, ask, auto or autoask

	// Ignored lists options that are set and that our channel leaves out, with
	// their values: "RemoteCommand tmux attach". For verbose output.
	Ignored []string
	// NeedsSystem lists the options only the system's ssh can honour.
	NeedsSystem []string

	// Source is "ssh -G" or "library".
	Source string
	// Warnings are what ssh or the library had to say; one line each, stripped.
	Warnings []string
	// Options is every option by lower-case name, unexpanded, as Source gave it:
	// for what has no field here.
	Options map[string][]string
}

// Values of Target.Source.
const (
	SourceSSH     = "ssh -G"
	SourceLibrary = "library"
)
