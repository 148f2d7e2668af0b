package model

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
)

// Config says which endpoint to speak to.
type Config struct {
	BaseURL    string        // "https://api.openai.com/v1"; "/responses" is added
	APIKey     func() string // read before each request; nil or "" sends no Authorization
	HTTPClient *http.Client  // nil means a client of our own with dial and header timeouts
	Provider   string        // the name people see in errors, such as "OpenAI"
	Log        *slog.Logger
}

// Client streams responses from one endpoint. It keeps no state between
// requests and may be used by many goroutines.
type Client struct{ cfg Config }

// New makes a client. It does no I/O.
func New(cfg Config) *Client { return &Client{cfg: cfg} }

// Request is one sampling of the model.
type Request struct {
	Model             string
	Input             []json.RawMessage // Responses items, sent byte for byte
	Tools             []json.RawMessage
	ParallelToolCalls bool
	Effort            string          // reasoning effort; "" leaves the choice to the endpoint
	Summary           string          // reasoning summary: "auto", "concise", "detailed" or "none"
	OutputSchema      json.RawMessage // JSON schema the final answer must have; nil for text
	CacheKey          string          // the same for all requests of a thread
}

// Stream sends one request and calls on for every event in order. It returns
// nil when the response completed, and an [*Error] or ctx's error otherwise.
func (c *Client) Stream(ctx context.Context, req Request, on func(Event)) error { return nil }

// Event is one thing the model said; Kind tells which members are set.
type Event struct {
	Kind   Kind
	ItemID string
	Item   json.RawMessage
	Index  int
	Delta  string
}

// Kind tells events apart.
type Kind uint8
