package protocol

import "encoding/json"

// InitializeParams opens every conversation; nothing else is answered before.
type InitializeParams struct {
	ClientInfo   ClientInfo    `json:"clientInfo"`
	Capabilities *Capabilities `json:"capabilities,omitempty"`
}

// ClientInfo names the program. Name becomes the originator of its threads.
type ClientInfo struct {
	Name    string  `json:"name"`
	Title   *string `json:"title,omitempty"`
	Version string  `json:"version"`
}

// Capabilities is what the client can take.
type Capabilities struct {
	ExperimentalAPI           bool                       `json:"experimentalApi,omitempty"`
	RequiredHumanApproval     bool                       `json:"requiredHumanApproval,omitempty"`
	OptOutNotificationMethods []string                   `json:"optOutNotificationMethods,omitempty"`
	Extensions                map[string]json.RawMessage `json:"extensions,omitempty"` // see [Extension]
}

// Initialized answers initialize. UserAgent is "NAME/VERSION (…) …"; stock
// clients compare that version with their own.
type Initialized struct {
	UserAgent      string `json:"userAgent"`
	CodexHome      string `json:"codexHome"`
	PlatformFamily string `json:"platformFamily"` // "unix" or "windows"
	PlatformOS     string `json:"platformOs"`     // "linux", "macos", …
}
