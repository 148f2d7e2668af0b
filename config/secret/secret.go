// Package secret keeps the credential of this machine where Codex keeps it, in
// Codex's own formats, so that both programs share one login. It speaks to no
// issuer: who logs in, refreshes and revokes is somebody else's business.
//
// Start with [Open] and [Store.Load]. A refresh is
//
//	unlock, err := store.Lock(ctx)            // one refresher a host
//	was, _, err := store.Load(ctx)            // another may just have done it
//	now := …                                  // ask the issuer
//	where, err := store.Replace(ctx, was, now) // journal, compare, store
//	unlock()
//
// and a login ends in [Store.Save]. What lies where:
//
//	file       $CODEX_HOME/auth.json, see [Auth]: 0600, replaced in one step
//	keyring    Linux, BSD: Codex's own entry in the Secret Service. macOS,
//	           Windows: a key in the keychain, and a sealed file in Towline's
//	           state folder; Codex keeps its own there, and does not share it
//	encrypted  a sealed file in Towline's state folder, which Codex cannot read.
//	           Its key is a systemd credential, else a passphrase, else a key in
//	           the kernel's memory (a reboot ends that one)
//	auto       the keyring; else encrypted, if there is a systemd credential or
//	           somebody to type a passphrase; else the file
//	ephemeral  the memory of one Store
//
// The journal (see [Store.Journal]) holds a refreshed login for the moment until
// it is stored. Beside auth.json lie Codex's auth.lock and auth.json.lock, and
// auth.towline.lock of ours; what is known of them is in lock.go. In Towline's
// state folder, named with the hash Codex has for its home:
//
//	credentials-….sealed   the encrypted store
//	keyring-….sealed       the keyring store of macOS and Windows
//	refresh-….journal      the journal
//	credentials-….lock     so that one process makes a key
package secret

import "errors"

// Mode is how a credential proves who one is. A mode that is not one of these
// comes from a newer Codex; it is kept, and nobody here uses it.
type Mode string

// The modes, by the names Codex gives them.
const (
	ModeNone    Mode = ""
	ModeAPIKey  Mode = "apikey"
	ModeChatGPT Mode = "chatgpt"
	ModePAT     Mode = "personalAccessToken"
	ModeAgent   Mode = "agentIdentity"
)

// Kind is a sort of store, by the name the setting cli_auth_credentials_store
// has for it.
type Kind string

// The kinds. All but the last are Codex's.
const (
	KindFile      Kind = "file"      // $CODEX_HOME/auth.json
	KindKeyring   Kind = "keyring"   // the system's keyring
	KindAuto      Kind = "auto"      // the keyring, else an encrypted file if there is a key, else the file
	KindEphemeral Kind = "ephemeral" // the memory of this Store
	KindEncrypted Kind = "encrypted" // a file of Towline's own, unreadable without its key
)

// Kinds lists every kind, for messages and flags.
func Kinds() []Kind {
	return []Kind{KindFile, KindKeyring, KindAuto, KindEphemeral, KindEncrypted}
}

// What went wrong, to branch on. Errors of this package wrap one of these
// where the reason is known; none ever holds a secret.
var (
	ErrNone      = errors.New("no credential is stored")                           // Load: nobody is logged in here
	ErrLocked    = errors.New("the keyring is locked")                             // it would have to ask a person
	ErrTimeout   = errors.New("the keyring does not answer")                       // within Options.KeyringTimeout
	ErrNoKeyring = errors.New("there is no keyring")                               // no bus, no service, no default collection
	ErrUnsafe    = errors.New("not private to this user")                          // mode, owner, link or size of a file
	ErrNoKey     = errors.New("the key of the encrypted file is not there")        // no passphrase, systemd credential or kernel key
	ErrWrongKey  = errors.New("the key does not fit the encrypted file")           // a wrong passphrase, another machine
	ErrDamaged   = errors.New("damaged")                                           // not what was written
	ErrBusy      = errors.New("another program is refreshing this login just now") // Lock, when ctx ended first
)

// Limits, each with its reason.
const (
	maxStored = 1 << 20 // a login is a few KB; more is not one
	maxShown  = 256     // characters of a claim: names and addresses
)
