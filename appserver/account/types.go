package account

import (
	"log/slog"
	"time"

	"towline/config/secret"
)

// Status is how a login stands. It holds no secret.
type Status struct {
	LoggedIn    bool
	Mode        secret.Mode
	Email       string // as the id token or the issuer says it; may be empty
	UserID      string
	AccountID   string // the workspace
	Plan        string
	Issuer      string // where the login is from; empty for keys
	Fingerprint string // secret.Auth.Fingerprint
	Masked      string // an API key with its middle hidden, as Codex shows it
	Where       secret.Where
	Expires     time.Time // of the access token; zero when it does not say
	LastRefresh time.Time
	Renews      bool   // a refresh token is there
	Ended       error  // why this login is known to be over; nil when it is not
	Env         string // the environment variable that stands before the store
	Lent        bool   // borrowed: in memory only
}

// Account names the account for a person: its email, else its id.
func (s Status) Account() string {
	if s.Email != "" {
		return s.Email
	}
	return s.AccountID
}

// Bearer authorises a request. It redacts itself wherever it is printed.
type Bearer struct {
	Token     string
	AccountID string // for the header ChatGPT-Account-Id; empty for keys
	Mode      secret.Mode
	Expires   time.Time // zero: unknown or never
}

// String hides the token.
func (b Bearer) String() string { return "[redacted " + string(b.Mode) + " bearer]" }

// GoString hides the token.
func (b Bearer) GoString() string { return b.String() }

// LogValue hides the token.
func (b Bearer) LogValue() slog.Value { return slog.StringValue(b.String()) }

// MarshalText hides the token, in JSON as well.
func (b Bearer) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// LentTokens is what a lender gives: Codex's chatgptAuthTokens. It redacts itself.
type LentTokens struct {
	AccessToken string
	AccountID   string // chatgptAccountId
	Plan        string // chatgptPlanType; may be empty
}

// String hides the token.
func (t LentTokens) String() string { return "[redacted tokens lent by " + t.AccountID + "]" }

// GoString hides the token.
func (t LentTokens) GoString() string { return t.String() }

// LogValue hides the token.
func (t LentTokens) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText hides the token, in JSON as well.
func (t LentTokens) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// BrowserOptions says how a browser login meets its person.
type BrowserOptions struct {
	// Ready is called once with the URL to open and the port that waits for the
	// redirect (1455, 1457, or 0 when no port could be had and Paste is the way).
	Ready func(url string, port int)
	// Step, when set, hears what is being done in words for the person: a login
	// taken over, a port that was busy. It may be called from several goroutines.
	Step func(text string)
	// Busy describes who holds a port, for the message; nil or "" says nothing.
	Busy func(port int) string
	// Paste delivers redirect URLs the person copied from the browser, for when it
	// cannot reach the port. A wrong one is told to Step and waited on. Without it,
	// no free port is an error.
	Paste <-chan string
	// Ports to wait on, in order; nil is 1455 then 1457, the only ones Codex's
	// issuer accepts.
	Ports []int
	// Timeout ends the wait; 0 is LoginTimeout.
	Timeout time.Duration
	// Originator is told to the issuer; empty is Codex's.
	Originator string
}

// DeviceCode is what the person needs to log in elsewhere.
type DeviceCode struct {
	URL         string // to open
	CompleteURL string // with the code in it, for a QR; empty when the issuer gives none
	Code        string // to type
	Expires     time.Time
}

// Prospect is what a ChatGPT login here would meet: what is logged in now and
// would be replaced, and which workspaces a mandate allows.
type Prospect struct {
	Current    Status
	Workspaces []string // empty: any
	Source     string   // the file that demands them
}
