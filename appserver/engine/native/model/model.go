package model

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"towline/appserver/protocol"
)

// The limits of one request and its answer.
const (
	// DefaultIdleTimeout is how long an endpoint may say nothing at all. Models
	// think for minutes before the first byte; Codex waits as long.
	DefaultIdleTimeout = 5 * time.Minute

	maxEventBytes    = 16 << 20  // one event: an item with an image in it, several times over
	maxResponseBytes = 256 << 20 // a whole stream: beyond this the endpoint is broken or hostile
	maxErrorBytes    = 64 << 10  // body of an HTTP error
	dialTimeout      = 15 * time.Second
	userAgent        = "towline"
)

// Config says which endpoint to speak to.
type Config struct {
	// BaseURL is such as "https://api.openai.com/v1"; "/responses" is added. Empty
	// is the endpoint that belongs to the login: OpenAIURL or AccountURL.
	BaseURL string
	APIKey  func() string // read before each request; nil or "" leaves it to Auth
	Auth    Auth          // nil sends no Authorization
	// AccountURL takes the place of ChatGPTURL.
	AccountURL string
	HTTPClient *http.Client // nil means one of our own
	// Transport changes the one of our own; nil leaves it.
	Transport   func(*http.Transport) *http.Transport
	Provider    string        // the name people see in errors, such as "OpenAI"
	IdleTimeout time.Duration // 0 means DefaultIdleTimeout
	Log         *slog.Logger  // nil discards
}

// Client streams responses from one endpoint. It keeps no state between
// requests except idle connections, and may be used by many goroutines.
type Client struct {
	cfg     Config
	service responses.ResponseService
	own     *http.Transport // ours to close; nil with a caller's HTTPClient
}

// New makes a client. It does no I/O and trusts BaseURL, which comes from the
// host's own configuration.
func New(cfg Config) *Client {
	if cfg.IdleTimeout <= 0 {
		cfg.IdleTimeout = DefaultIdleTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.APIKey == nil {
		cfg.APIKey = func() string { return "" }
	}
	if cfg.AccountURL == "" {
		cfg.AccountURL = ChatGPTURL
	}
	if cfg.Provider == "" {
		cfg.Provider = "the model's endpoint"
	}
	c := &Client{cfg: cfg}
	if cfg.HTTPClient == nil {
		c.own = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSHandshakeTimeout:   dialTimeout,
			ForceAttemptHTTP2:     true,
			IdleConnTimeout:       90 * time.Second,
			MaxIdleConnsPerHost:   8,
			ExpectContinueTimeout: time.Second,
		}
		if cfg.Transport != nil {
			c.own = cfg.Transport(c.own)
		}
		cfg.HTTPClient = &http.Client{Transport: c.own}
	}
	c.service = responses.NewResponseService(
		option.WithHTTPClient(cfg.HTTPClient),
		option.WithMaxRetries(0),
		option.WithHeader("User-Agent", userAgent),
		option.WithHeader("Accept", "text/event-stream"),
		option.WithMiddleware(c.refuse),
	)
	return c
}

// Close drops idle connections of a client that made its own.
func (c *Client) Close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

// Request is one sampling of the model.
type Request struct {
	Model             string
	Input             []json.RawMessage // Responses items, sent byte for byte
	Tools             []json.RawMessage // Responses tool definitions, likewise
	ParallelToolCalls bool
	Effort            string          // reasoning effort; "" leaves the choice to the endpoint
	Summary           string          // reasoning summary: "auto", "concise", "detailed"; "" or "none" for none
	OutputSchema      json.RawMessage // JSON schema the final answer must have; nil for text
	CacheKey          string          // the same for all requests of a thread
	NoEncrypted       bool            // asks for no encrypted reasoning, which some models refuse
}

// Kind tells events apart.
type Kind uint8

// What the model can say. In brackets the members of [Event] that are set.
const (
	ItemAdded          Kind = iota + 1 // an item begins [ItemID, Item]
	TextDelta                          // text of a message [ItemID, Delta]
	ReasoningPart                      // a part of the summary begins [ItemID, Index]
	ReasoningDelta                     // text of that part [ItemID, Index, Delta]
	ReasoningTextDelta                 // unsummarised thinking [ItemID, Index, Delta]
	ItemDone                           // an item is complete; keep Item for replay [ItemID, Item]
	Completed                          // the response is complete [ResponseID, Usage]
	RateLimits                         // what is left of the account's allowance [Limits]
)

// Event is one thing the model said. ItemID may be empty: endpoints leave it
// out, and then the event is about the item last begun.
type Event struct {
	Kind       Kind
	ItemID     string
	Item       json.RawMessage
	Index      int
	Delta      string
	ResponseID string
	Usage      *protocol.TokenUsage // nil when the endpoint did not say
	Limits     *Limits
}

// Limits is the allowance as the endpoint's headers tell it.
type Limits struct {
	Primary   *Window `json:"primary"`
	Secondary *Window `json:"secondary"`
}

// Window is one allowance, as a rateLimits notification carries it.
type Window struct {
	UsedPercent   int    `json:"usedPercent"`
	DurationMins  *int64 `json:"windowDurationMins"`
	ResetsAtEpoch *int64 `json:"resetsAt"` // Unix seconds
}

// Stream sends one request and calls on for every event, in order and from this
// goroutine. It returns nil when the response completed, ctx's error when ctx
// ended it, and otherwise an [*Error]. Events before an error were said and may
// have been acted on.
func (c *Client) Stream(ctx context.Context, req Request, on func(Event)) error {
	params, err := req.params()
	if err != nil {
		return &Error{Message: "the request could not be encoded", Info: infoOther, Err: err}
	}
	g, err := c.authorise(ctx)
	if err != nil {
		return c.unauthorised(ctx, g, err)
	}
	err = c.stream(ctx, params, req.CacheKey, g, on)
	if !rejected(g, err) {
		return err
	}
	// Nothing was said yet: a 401 comes instead of an answer.
	next, aerr := c.again(ctx, g)
	if aerr != nil {
		return c.unauthorised(ctx, next, aerr)
	}
	return c.stream(ctx, params, req.CacheKey, next, on)
}

// stream is one try.
func (c *Client) stream(ctx context.Context, params responses.ResponseNewParams, thread string, g grant, on func(Event)) error {
	// The idle timer covers the wait for headers as well as the gaps between
	// lines. Its cause tells a silent endpoint from a cancelled turn.
	sctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(c.cfg.IdleTimeout, func() { cancel(errIdle) })
	defer idle.Stop()

	var res *http.Response
	opts := append(c.options(g, thread), option.WithJSONSet("stream", true), option.WithResponseBodyInto(&res))
	if _, err := c.service.New(sctx, params, opts...); err != nil {
		return c.explain(ctx, sctx, err, false, g)
	}
	defer func() { _ = res.Body.Close() }()
	if l := limits(res.Header); l != nil {
		on(Event{Kind: RateLimits, Limits: l})
	}
	alive := func() { idle.Reset(c.cfg.IdleTimeout) }
	alive()
	if err := read(io.LimitReader(res.Body, maxResponseBytes), alive, on, c.cfg.Log); err != nil {
		return c.explain(ctx, sctx, err, true, g)
	}
	return nil
}
