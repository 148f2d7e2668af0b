package codex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"towline/config"
)

const (
	// askTimeout bounds `codex --version` and `codex login status`; npm's wrapper
	// on a cold disk takes seconds, and login status may ask a server.
	askTimeout = 20 * time.Second
	// maxConfig bounds how much of Codex's config.toml is read.
	maxConfig = 1 << 20
)

var (
	errMissing = errors.New("codex is not installed, or not where Towline looks for it")
	errTooOld  = errors.New("too old")
)

// Find locates codex for an environment and asks its version, which takes a
// moment. What it finds may be the program itself or npm's wrapper around it.
// Errors are *config.Problem.
func Find(ctx context.Context, environ []string) (path, version string, err error) {
	return find(ctx, Config{Environ: environ}.withDefaults())
}

func find(ctx context.Context, c Config) (path, version string, err error) {
	path = c.Binary
	if path == "" {
		path = search(c.Environ)
	}
	if path == "" || !executable(path) {
		cause := errMissing
		if path != "" {
			cause = fmt.Errorf("%s is not a program that can be run: %w", path, errMissing)
		}
		return "", "", &config.Problem{
			Stage: "engine", Err: cause, Exit: config.ExitUnavailable,
			Hints: []string{
				"install it: `npm install -g @openai/codex`",
				"or say where it is: `binary = \"/path/to/codex\"` under [engine.codex] in config.toml",
			},
		}
	}
	out, err := ask(ctx, c, path, "--version")
	if err != nil {
		return path, "", &config.Problem{
			Stage: "engine", Err: fmt.Errorf("%s --version: %w", path, err), Exit: config.ExitUnavailable,
			Hints: []string{"run `" + path + " --version` to see what is wrong with it"},
		}
	}
	version = versionPattern.FindString(out)
	if version == "" {
		return path, "", &config.Problem{
			Stage: "engine", Err: fmt.Errorf("%s does not say its version, so it is not the Codex CLI", path), Exit: config.ExitUnavailable,
			Hints: []string{"name the right program: `binary = \"/path/to/codex\"` under [engine.codex] in config.toml"},
		}
	}
	if older(version, c.MinVersion) {
		return path, version, &config.Problem{
			Stage: "engine", Err: fmt.Errorf("codex %s at %s is %w: Towline needs %s or newer", version, path, errTooOld, c.MinVersion),
			Exit: config.ExitUnavailable, Hints: []string{"update it: `npm install -g @openai/codex@latest`"},
		}
	}
	return path, version, nil
}

// search looks through PATH and then where installers put codex: a daemon's
// PATH is often shorter than its owner's. Relative entries are passed over,
// because they mean a different program in every folder.
func search(environ []string) string {
	name := "codex"
	if runtime.GOOS == "windows" {
		name = "codex.exe"
	}
	dirs := filepath.SplitList(getenv(environ, "PATH"))
	if home := getenv(environ, "HOME"); home != "" {
		dirs = append(dirs, filepath.Join(home, ".local", "bin"), filepath.Join(home, ".npm-global", "bin"), filepath.Join(home, "bin"))
	}
	dirs = append(dirs, "/usr/local/bin", "/opt/homebrew/bin")
	for _, dir := range dirs {
		if p := filepath.Join(dir, name); filepath.IsAbs(dir) && executable(p) {
			return p
		}
	}
	return ""
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && (runtime.GOOS == "windows" || info.Mode().Perm()&0o111 != 0)
}

// ask runs codex for a short answer and returns what it printed on either
// stream: login status answers on standard error.
func ask(ctx context.Context, c Config, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, fmt.Errorf("no answer in %v", askTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var out tail
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.environ(), c.Cwd, &out, &out
	ownGroup(cmd)
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil && out.String() != "":
		err = fmt.Errorf("%w: %s", err, verdict(out.String()))
	}
	return out.String(), err
}

var versionPattern = regexp.MustCompile(`\b\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?\b`)

// older compares the numbers of two versions. What a developer built says 0.0.0
// and counts as new.
func older(version, than string) bool {
	v, t := numbers(version), numbers(than)
	if v == [3]int{} {
		return false
	}
	for i := range v {
		if v[i] != t[i] {
			return v[i] < t[i]
		}
	}
	return false
}

func numbers(version string) (out [3]int) {
	version, _, _ = strings.Cut(version, "-")
	for i, s := range strings.SplitN(version, ".", 3) {
		out[i], _ = strconv.Atoi(s) // what is no number counts as 0
	}
	return out
}

// LoggedIn reports whether Codex could work right now: it has an account, or
// its configuration names a model provider that needs none. It is the cheap
// check that the choice of an engine needs, made without starting a server: of
// the configuration it reads only the user's own file and not what profiles,
// projects or administrators add. The truth is what account/read of the running
// app-server says, and State tells that. The error says why Codex cannot be
// used at all; it is nil when there is just no account.
func LoggedIn(ctx context.Context, cfg Config) (bool, error) {
	c := cfg.withDefaults()
	path, _, err := find(ctx, c)
	if err != nil {
		return false, err
	}
	if needsNoAccount(c) {
		return true, nil
	}
	out, err := ask(ctx, c, path, "login", "status")
	if err == nil {
		return true, nil
	}
	if strings.Contains(strings.ToLower(out), "not logged in") {
		return false, nil
	}
	return false, &config.Problem{
		Stage: "engine", Err: fmt.Errorf("ask codex for its account: %w", err), Exit: config.ExitUnavailable,
		Hints: []string{"run `codex login status` to see what is wrong"},
	}
}

// needsNoAccount reports whether Codex's config.toml chooses a model provider
// that works without an OpenAI account.
func needsNoAccount(c Config) bool {
	file, ok := readProviders(c)
	if !ok || file.ModelProvider == "" || file.ModelProvider == "openai" {
		return false
	}
	p := file.ModelProviders[file.ModelProvider]
	return !p.RequiresOpenAIAuth && (p.EnvKey == "" || getenv(c.Environ, p.EnvKey) != "")
}

// providersFile is what Codex's config.toml says of model providers.
type providersFile struct {
	ModelProvider  string `toml:"model_provider"`
	ModelProviders map[string]struct {
		BaseURL            string `toml:"base_url"`
		RequiresOpenAIAuth bool   `toml:"requires_openai_auth"`
		EnvKey             string `toml:"env_key"`
	} `toml:"model_providers"`
}

func readProviders(c Config) (file providersFile, ok bool) {
	f, err := os.Open(filepath.Join(c.home(), "config.toml"))
	if err != nil {
		return file, false
	}
	defer func() { _ = f.Close() }() // read-only
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return file, false
	}
	return file, toml.Unmarshal(raw, &file) == nil
}

// ProviderURL is the address of the model provider that Codex's own config.toml
// chooses for an environment, "" for OpenAI's and where none is said. It reads the
// user's file alone, as LoggedIn does.
func ProviderURL(cfg Config) string {
	c := cfg.withDefaults()
	file, ok := readProviders(c)
	if !ok {
		return ""
	}
	return file.ModelProviders[file.ModelProvider].BaseURL
}
