package protocol

import "log/slog"

// Methods and notifications about the account a host works with.
const (
	AccountRead      = "account/read"
	AccountStart     = "account/login/start"
	AccountCancel    = "account/login/cancel"
	AccountLogout    = "account/logout"
	AccountCompleted = "account/login/completed" // to every client: a login ended, well or not
	AccountUpdated   = "account/updated"         // to every client: another account, or none
	// AuthStatus is Codex's older account/read, and the one that tells a lent
	// account from the host's own.
	AuthStatus = "getAuthStatus"
)

// How account/login/start logs in.
const (
	LoginAPIKey  = "apiKey"
	LoginBrowser = "chatgpt"
	LoginDevice  = "chatgptDeviceCode"
	// LoginLend hands over a short-lived access token of the client's own account.
	// The engine keeps it in memory and asks for the next with ReqTokensRefresh.
	LoginLend = "chatgptAuthTokens"
)

// AuthModeLent is the authMode of an account that is lent.
const AuthModeLent = "chatgptAuthTokens"

// AccountStatus is the answer to account/read.
type AccountStatus struct {
	Account *Account `json:"account"`
	UserID  *string  `json:"userId"`
	// Required is true when the model's endpoint works with an account at all.
	// Without Account somebody has to log in then.
	Required bool              `json:"requiresOpenaiAuth"`
	Routing  *WorkspaceRouting `json:"workspaceRouting"`
}

// Account is who a host works as.
type Account struct {
	Type      string  `json:"type"` // "apiKey", "chatgpt" and others of Codex's
	Email     *string `json:"email,omitempty"`
	Plan      string  `json:"planType,omitempty"`
	Workspace *string `json:"workspaceName,omitempty"`
}

// WorkspaceRouting is where Codex sends a workspace's requests.
type WorkspaceRouting struct {
	AccountID string `json:"chatgptAccountId"`
	Origin    string `json:"backendOrigin"`
	Override  string `json:"accountRoutingOverride"`
}

// LoginStart is the params of account/login/start. It redacts itself in logs.
type LoginStart struct {
	Type        string  `json:"type"`
	APIKey      string  `json:"apiKey,omitempty"`
	AccessToken string  `json:"accessToken,omitempty"`
	AccountID   string  `json:"chatgptAccountId,omitempty"`
	Plan        *string `json:"chatgptPlanType,omitempty"`
}

// String hides the secrets.
func (l LoginStart) String() string { return "[redacted " + l.Type + " login]" }

// GoString hides the secrets.
func (l LoginStart) GoString() string { return l.String() }

// LogValue hides the secrets.
func (l LoginStart) LogValue() slog.Value { return slog.StringValue(l.String()) }

// LoginStarted is the answer to account/login/start. LoginID is set when the
// login goes on; AuthURL or VerificationURL and UserCode are for the person.
type LoginStarted struct {
	Type            string `json:"type"`
	LoginID         string `json:"loginId,omitempty"`
	AuthURL         string `json:"authUrl,omitempty"`
	VerificationURL string `json:"verificationUrl,omitempty"`
	UserCode        string `json:"userCode,omitempty"`
}

// LoginCompleted is the params of account/login/completed.
type LoginCompleted struct {
	LoginID *string `json:"loginId"` // null for keys and lent tokens
	Success bool    `json:"success"`
	Error   *string `json:"error"`
	// Entrypoint is a desktop client's; always null here.
	Entrypoint *string `json:"onboardingEntrypoint"`
}

// AccountChange is the params of account/updated.
type AccountChange struct {
	AuthMode *string `json:"authMode"`
	Plan     *string `json:"planType"`
}

// TokensRefresh is the params of ReqTokensRefresh. Codex sends it after the
// model's endpoint answered 401, waits 10 s for the answer, and asks again with
// each of its retries.
type TokensRefresh struct {
	Reason          string  `json:"reason"` // "unauthorized"
	PreviousAccount *string `json:"previousAccountId"`
}

// RefreshedTokens is the answer to it. It redacts itself in logs.
type RefreshedTokens struct {
	AccessToken string  `json:"accessToken"`
	AccountID   string  `json:"chatgptAccountId"`
	Plan        *string `json:"chatgptPlanType"`
}

// String hides the token.
func (t RefreshedTokens) String() string { return "[redacted tokens]" }

// GoString hides the token.
func (t RefreshedTokens) GoString() string { return t.String() }

// LogValue hides the token.
func (t RefreshedTokens) LogValue() slog.Value { return slog.StringValue(t.String()) }
