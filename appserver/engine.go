package appserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"

	"towline/appserver/engine/codex"
	"towline/appserver/engine/native"
	"towline/appserver/engine/native/model"
	"towline/appserver/engine/native/rehearsal"
	"towline/appserver/engine/native/tool/exec"
	"towline/appserver/gate"
	"towline/config"
)

// Engine is a chosen engine and what a person should know about the choice.
type Engine struct {
	gate.Engine
	Kind      string // config.EngineCodex or config.EngineNative
	Rehearsal bool   // answers come from the offline instrument
	Why       string // one line: why this one
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
	Log     *slog.Logger
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
		return Engine{Engine: codex.New(c.codex()), Kind: config.EngineCodex, Why: "configured"}, nil
	case config.EngineNative:
		return c.native("configured")
	}
	ok, err := codex.LoggedIn(ctx, c.codex())
	if ok {
		return Engine{Engine: codex.New(c.codex()), Kind: config.EngineCodex, Why: "codex is installed and logged in"}, nil
	}
	hints := config.Hints(err)
	var problem *config.Problem
	if errors.As(err, &problem) {
		err = problem.Err // of its stage, which is ours
	}
	if err == nil {
		err = errors.New("codex is installed but not logged in")
		hints = []string{"log it in: `codex login` (without a browser: `codex login --device-auth`), then start again"}
	}
	if c.Config.Native.Rehearsal || c.endpoint() != "" {
		return c.native(fmt.Sprintf("codex is not usable: %v", err))
	}
	return Engine{}, &config.Problem{
		Stage: "engine",
		Err:   fmt.Errorf("nothing here can do the work: %w, and the native engine has no endpoint", err),
		Hints: append(hints,
			"or name an OpenAI-compatible endpoint: base_url under [engine.native] in "+c.Paths.ConfigFile()+", or set "+c.Config.Native.APIKeyEnv,
			"or look around offline: `towline try`",
		),
		Exit: config.ExitUnavailable,
	}
}

func (c EngineConfig) codex() codex.Config {
	share := c.Config.Codex.ShareControlSocket
	return codex.Config{
		Binary: c.Config.Codex.Binary, CodexHome: c.Config.Codex.Home, RuntimeDir: c.Paths.Runtime,
		ShareControlSocket: share == nil || *share, Environ: c.Env, Cwd: c.Project, Log: c.Log,
	}
}

// endpoint is where the native engine would send requests, "" for nowhere. A
// key without a base_url means its usual owner.
func (c EngineConfig) endpoint() string {
	n := c.Config.Native
	if n.BaseURL != "" {
		return n.BaseURL
	}
	if n.APIKeyEnv != "" && c.Environ(n.APIKeyEnv) != "" {
		return "https://api.openai.com/v1"
	}
	return ""
}

func (c EngineConfig) native(why string) (Engine, error) {
	n := c.Config.Native
	mc := model.Config{BaseURL: c.endpoint(), APIKey: func() string { return c.Environ(n.APIKeyEnv) }, Log: c.Log}
	provider := "openai"
	switch {
	case n.Rehearsal:
		// The endpoint exists in memory only; its name must never resolve.
		mc = model.Config{BaseURL: "http://rehearsal.invalid/v1", HTTPClient: &http.Client{Transport: rehearsal.Transport()}, Log: c.Log}
		provider = "rehearsal"
	case mc.BaseURL == "":
		return Engine{}, &config.Problem{
			Stage: "engine", Err: errors.New("the native engine has no endpoint"),
			Hints: []string{
				"set base_url under [engine.native] in " + c.Paths.ConfigFile() + " to an endpoint that speaks the Responses API",
				"or rehearse offline: `rehearsal = true` there",
			},
			Exit: config.ExitConfig,
		}
	}
	streamer := model.New(mc)
	eng, err := native.New(native.Config{
		Dir: c.Paths.Threads(), Home: c.Paths.Home(), Cwd: c.Project, Version: c.Version, Provider: provider,
		Models:   []native.Model{{ID: n.Model, ContextWindow: n.ContextWindow, Efforts: []string{"low", "medium", "high"}, DefaultEffort: "medium"}},
		Streamer: streamer, Approval: n.ApprovalPolicy, Sandbox: n.SandboxMode,
		Environ: exec.Scrub(c.Env, n.APIKeyEnv), SandboxSelf: c.Self, Hidden: c.hidden(), Log: c.Log,
	})
	if err != nil {
		return Engine{}, &config.Problem{Stage: "engine", Err: err, Exit: config.ExitConfig}
	}
	return Engine{Engine: eng, Kind: config.EngineNative, Rehearsal: n.Rehearsal, Why: why}, nil
}

// hidden is what confined commands must not see: the daemon's sockets and
// database, through which one with network could act as its user. A project
// that lies inside stays visible, or nothing could work in it.
func (c EngineConfig) hidden() []string {
	var out []string
	for _, dir := range []string{c.Paths.Runtime, c.Paths.State, c.Paths.Config} {
		if rel, err := filepath.Rel(dir, c.Project); err == nil && filepath.IsLocal(rel) || slices.Contains(out, dir) {
			continue
		}
		out = append(out, dir)
	}
	return out
}
