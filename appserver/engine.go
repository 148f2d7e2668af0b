package appserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"towline/appserver/engine/codex"
	"towline/appserver/engine/elder"
	"towline/appserver/engine/native"
	"towline/appserver/engine/native/model"
	"towline/appserver/engine/native/rehearsal"
	"towline/appserver/engine/native/tool/exec"
	"towline/appserver/gate"
	"towline/appserver/handover"
	"towline/config"
)

// Engine is a chosen engine and what a person should know about the choice.
type Engine struct {
	gate.Engine
	Kind      string // config.EngineCodex or config.EngineNative
	Rehearsal bool   // answers come from the offline instrument
	Why       string // one line: why this one
	// Native is the engine itself where it is the native one, and Elders stands
	// before it: turns of an earlier daemon that go on in their own process.
	Native *native.Engine
	Elders *elder.Engine
	// Codex is the engine itself where it is that one.
	Codex *codex.Engine
}

// EngineConfig is what the choice depends on.
type EngineConfig struct {
	Config  config.Engine
	Paths   config.Paths
	Project string
	Version string
	Environ func(string) string // a lookup such as os.Getenv
	Env     []string            // the same, as a list for child processes
	Self    string              // path of this program, re-executed as the sandbox helper
	// Accounts is the host's login, for the native engine; nil when there is none.
	Accounts native.Accounts
	// CodexHome is where Codex, and Towline with it, keeps its login; "" for nowhere.
	CodexHome string
	// CodexArgs are settings for the codex app-server that is started here, as flags
	// of its own. Another engine has no use for them.
	CodexArgs []string
	// ChatGPTBaseURL is Codex's chatgpt_base_url; empty is its default.
	ChatGPTBaseURL string
	// Remote is the switch of remote control, for the native engine; nil is none.
	Remote *RemoteControl
	// AwaitsLogin: whoever has this started is about to lend it a login, so that
	// having none is no reason to refuse.
	AwaitsLogin bool
	// Network is how engines get to the network where a client may lend its own; nil
	// is this machine's way.
	Network Network
	Log     *slog.Logger
}

// Network is a way to the network that may change while an engine runs.
type Network interface {
	codex.Network
	// Transport makes a transport of this process go that way.
	Transport(base *http.Transport) *http.Transport
}

// OpenEngine makes the engine the configuration asks for. For "auto" that is
// Codex when it is installed, new enough and has an account (or needs none),
// else the native engine when it has an endpoint, or was told to rehearse.
// Rehearsing is never a silent fallback: without any of these it is an error
// that says how to get each.
func OpenEngine(ctx context.Context, c EngineConfig) (Engine, error) {
	switch c.Config.Kind {
	case config.EngineCodex:
		// A missing or logged-out Codex is the engine's state, not an error here:
		// it is shown to whoever attaches, and mended without a restart.
		return c.withCodex("configured"), nil
	case config.EngineNative:
		return c.native(ctx, "configured")
	}
	ok, err := codex.LoggedIn(ctx, c.codex())
	if ok {
		return c.withCodex("codex is installed and logged in"), nil
	}
	hints := config.Hints(err)
	var problem *config.Problem
	if errors.As(err, &problem) {
		err = problem.Err // of its stage, which is ours
	}
	if err == nil && c.AwaitsLogin {
		return c.withCodex("codex is installed, and gets a login lent"), nil
	}
	if err == nil {
		err = errors.New("codex is installed but not logged in")
		hints = []string{"log it in: `codex login` (without a browser: `codex login --device-auth`), then start again"}
	}
	if c.Config.Native.Rehearsal || c.endpoint() != "" || c.loggedIn(ctx) {
		return c.native(ctx, fmt.Sprintf("codex is not usable: %v", err))
	}
	return Engine{}, &config.Problem{
		Stage: "engine",
		Err:   fmt.Errorf("nothing here can do the work: %w, and the native engine has no endpoint", err),
		Hints: append(hints,
			"or name an OpenAI-compatible endpoint: base_url under [engine.native] in "+c.Paths.ConfigFile()+", or set "+c.Config.Native.APIKeyEnv,
			"or log in for the native engine: `towline login`",
			"or look around offline: `towline try`",
		),
		Exit: config.ExitUnavailable,
	}
}

func (c EngineConfig) withCodex(why string) Engine {
	eng, elders := codex.New(c.codex()), c.elders()
	elders.Use(joined{eng})
	return Engine{Engine: elders, Codex: eng, Elders: elders, Kind: config.EngineCodex, Why: why}
}

// elders is what stands before the engine of this process.
func (c EngineConfig) elders() *elder.Engine {
	return elder.NewEngine(elder.Config{Dir: func() string { return filepath.Dir(handover.Socket(c.Paths.Socket())) }, Log: c.Log})
}

func (c EngineConfig) codex() codex.Config {
	share := c.Config.Codex.ShareControlSocket
	return codex.Config{
		Binary: c.Config.Codex.Binary, CodexHome: c.Config.Codex.Home, RuntimeDir: c.Paths.Runtime,
		ShareControlSocket: share == nil || *share, Args: c.CodexArgs, Environ: c.Env, Cwd: c.Project, Network: c.codexNetwork(), Log: c.Log,
	}
}

// codexNetwork is the network as the Codex engine takes it; a nil one would not be
// nil there.
func (c EngineConfig) codexNetwork() codex.Network {
	if c.Network == nil {
		return nil
	}
	return c.Network
}

// endpoint is where the native engine would send requests, "" for nowhere. A
// key without a base_url means its usual owner.
func (c EngineConfig) endpoint() string {
	n := c.Config.Native
	if n.BaseURL != "" {
		return n.BaseURL
	}
	if n.APIKeyEnv != "" && c.Environ(n.APIKeyEnv) != "" {
		return model.OpenAIURL
	}
	return ""
}

// needsLogin reports whether the native engine's requests are authorised by the
// host's login. An endpoint somebody configured gets it only when they said so:
// it may be anyone's.
func (c EngineConfig) needsLogin() bool {
	n := c.Config.Native
	hasKey := n.APIKeyEnv != "" && c.Environ(n.APIKeyEnv) != ""
	return c.Accounts != nil && !n.Rehearsal && !hasKey && (n.BaseURL == "" || n.RequiresOpenAIAuth)
}

// loggedIn reports whether there is a login the native engine could use, or one
// that ran out: somebody can renew that from any client, once there is a host.
func (c EngineConfig) loggedIn(ctx context.Context) bool {
	if !c.needsLogin() {
		return false
	}
	if c.AwaitsLogin {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	s, err := c.Accounts.Status(ctx)
	if err != nil {
		c.Log.Warn("the login cannot be read", "err", err)
	}
	return err == nil && s.LoggedIn
}

// loginTimeout bounds the look at the credential store before an engine is chosen.
const loginTimeout = 20 * time.Second

// chatGPT is where requests of a ChatGPT login go, and that address's origin.
func (c EngineConfig) chatGPT() (endpoint, origin string) {
	base := strings.TrimSuffix(c.ChatGPTBaseURL, "/")
	if base == "" {
		base = strings.TrimSuffix(model.ChatGPTURL, "/codex")
	}
	if u, err := url.Parse(base); err == nil {
		origin = u.Scheme + "://" + u.Host
	}
	return base + "/codex", origin
}

func (c EngineConfig) native(ctx context.Context, why string) (Engine, error) {
	n := c.Config.Native
	mc := model.Config{BaseURL: c.endpoint(), APIKey: func() string { return c.Environ(n.APIKeyEnv) }, Log: c.Log}
	provider := "openai"
	needsLogin := c.needsLogin()
	accountURL, origin := c.chatGPT()
	if needsLogin {
		mc.Auth, mc.AccountURL = c.Accounts, accountURL
	}
	switch {
	case n.Rehearsal:
		// The endpoint exists in memory only; its name must never resolve.
		mc = model.Config{BaseURL: "http://rehearsal.invalid/v1", HTTPClient: &http.Client{Transport: rehearsal.Transport()}, Log: c.Log}
		provider = "rehearsal"
	case mc.BaseURL == "" && !n.RequiresOpenAIAuth && !c.loggedIn(ctx):
		return Engine{}, &config.Problem{
			Stage: "engine", Err: errors.New("the native engine has no endpoint"),
			Hints: []string{
				"set base_url under [engine.native] in " + c.Paths.ConfigFile() + " to an endpoint that speaks the Responses API",
				"or log in: `towline login`; to start first and log in from a client, set `requires_openai_auth = true` there",
				"or rehearse offline: `rehearsal = true` there",
			},
			Exit: config.ExitConfig,
		}
	}
	wait, _ := time.ParseDuration(n.LoginWait) // validated; empty is the default
	if c.Network != nil {
		mc.Transport = c.Network.Transport
	}
	streamer := model.New(mc)
	var remote native.RemoteControl
	if c.Remote != nil { // a nil one would not be nil there
		remote = c.Remote
	}
	elders := c.elders()
	eng, err := native.New(native.Config{
		Elsewhere: elders,
		Remote:    remote, Accounts: c.Accounts, NeedsLogin: needsLogin, ChatGPTOrigin: origin, LoginWait: wait,
		Dir: c.Paths.Threads(), Home: c.Paths.Home(), Cwd: c.Project, Version: c.Version, Provider: provider,
		Models:   []native.Model{{ID: n.Model, ContextWindow: n.ContextWindow, Efforts: []string{"low", "medium", "high"}, DefaultEffort: "medium"}},
		Streamer: streamer, Approval: n.ApprovalPolicy, Sandbox: n.SandboxMode,
		Environ: exec.Scrub(c.Env, n.APIKeyEnv), SandboxSelf: c.Self, Hidden: c.hidden(), Log: c.Log,
	})
	if err != nil {
		return Engine{}, &config.Problem{Stage: "engine", Err: err, Exit: config.ExitConfig}
	}
	elders.Use(eng)
	return Engine{Engine: elders, Native: eng, Elders: elders, Kind: config.EngineNative, Rehearsal: n.Rehearsal, Why: why}, nil
}

// hidden is what confined commands must not see: the daemon's sockets and
// database, through which one with network could act as its user, and the login,
// which a model must not be talked into printing. That is also in the keyring, which
// a program with network asks for it over the session's bus, and behind the key that
// systemd gives a service. A project that lies inside stays visible, or nothing could
// work in it.
func (c EngineConfig) hidden() []string {
	var out []string
	dirs := []string{c.Paths.Runtime, c.Paths.State, c.Paths.Config, c.CodexHome, c.Environ("CREDENTIALS_DIRECTORY")}
	if dir := c.Environ("XDG_RUNTIME_DIR"); ownersOnly(dir) {
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue
		}
		if rel, err := filepath.Rel(dir, c.Project); err == nil && filepath.IsLocal(rel) || slices.Contains(out, dir) {
			continue
		}
		out = append(out, dir)
	}
	return out
}

// ownersOnly reports whether dir is a folder that is nobody else's: what a login's
// runtime folder is, and a folder that is only called so may not be.
func ownersOnly(dir string) bool {
	if !filepath.IsAbs(dir) {
		return false
	}
	info, err := os.Stat(dir)
	return err == nil && info.IsDir() && info.Mode().Perm()&0o077 == 0
}
