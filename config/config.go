package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pelletier/go-toml/v2"
)

// Engine kinds. Auto takes a usable Codex, else the native engine when it has
// an endpoint; it never falls back to the rehearsal model by itself.
const (
	EngineAuto   = "auto"
	EngineCodex  = "codex"
	EngineNative = "native"
)

// maxFile bounds config.toml, in bytes; anything larger is not one.
const maxFile = 1 << 20

// Config is config.toml. Every member has a default; an absent file is a valid
// configuration.
type Config struct {
	// Project is the folder new threads work in. Empty: where serve was started.
	Project string `toml:"project"`
	// Store is where credentials are kept, cli_auth_credentials_store as Codex
	// spells it; it may stand under [auth] instead. [Config.CredentialStore] says
	// what counts.
	Store     string    `toml:"cli_auth_credentials_store"`
	Auth      Auth      `toml:"auth"`
	Engine    Engine    `toml:"engine"`
	SSH       SSH       `toml:"ssh"`
	AppServer AppServer `toml:"app_server"`
	Gate      Gate      `toml:"gate"`
	Audit     Audit     `toml:"audit"`
	// SSHConfig is read instead of ~/.ssh/config when connecting to hosts, as
	// `ssh -F` does; "none" reads nothing.
	SSHConfig string `toml:"ssh_config"`
	// Hosts says more about ssh aliases, by name.
	Hosts map[string]Host `toml:"hosts"`
}

// How to reach a host. Auto is in process where that can do what the ssh
// configuration asks for, else through the system's ssh.
const (
	TransportAuto    = "auto"
	TransportSystem  = "system"
	TransportBuiltin = "builtin"
)

// Host is what there is to say about a host besides its ssh configuration. All
// paths are on that host, absolute or beginning with ~/.
type Host struct {
	// Project is the folder to begin in.
	Project string `toml:"project"`
	// Hidden keeps the host out of lists; it can still be named.
	Hidden bool `toml:"hidden"`
	// Transport is auto, system or builtin; empty is auto.
	Transport string `toml:"transport"`
	// Towline pins the program to run there, instead of looking for one.
	Towline string `toml:"towline"`
	// InstallDir is where our own program is put when the host has none.
	InstallDir string `toml:"install_dir"`
}

// Host is what the file says about one alias, with its defaults.
func (c Config) Host(alias string) Host {
	h := c.Hosts[alias]
	if h.Transport == "" {
		h.Transport = TransportAuto
	}
	return h
}

// Engine chooses and sets up what does the work.
type Engine struct {
	Kind   string `toml:"kind"` // auto, codex or native
	Codex  Codex  `toml:"codex"`
	Native Native `toml:"native"`
}

// Codex sets up the real Codex.
type Codex struct {
	// Binary is the program; empty looks for `codex` on the PATH.
	Binary string `toml:"binary"`
	// Home is CODEX_HOME; empty leaves it to the environment.
	Home string `toml:"home"`
	// ShareControlSocket lets a plain `codex` typed on this host join the same
	// app-server. On unless set to false.
	ShareControlSocket *bool `toml:"share_control_socket"`
}

// Native sets up the built-in engine.
type Native struct {
	// BaseURL is an endpoint that speaks the Responses API, with its version
	// path: "https://api.openai.com/v1".
	BaseURL string `toml:"base_url"`
	Model   string `toml:"model"`
	// APIKeyEnv names the environment variable that holds the key. The key
	// itself is never in this file.
	APIKeyEnv string `toml:"api_key_env"`
	// RequiresOpenAIAuth sends the host's login to BaseURL. Without it a login goes
	// to its owner's endpoints only, which are used when BaseURL is empty.
	RequiresOpenAIAuth bool `toml:"requires_openai_auth"`
	// LoginWait is how long a turn waits for somebody to log in after the login
	// expired, as "24h"; empty is a day.
	LoginWait string `toml:"login_wait"`
	// ContextWindow is the model's window in tokens.
	ContextWindow int64 `toml:"context_window"`
	// ApprovalPolicy and SandboxMode are what new threads begin with.
	ApprovalPolicy string `toml:"approval_policy"`
	SandboxMode    string `toml:"sandbox_mode"`
	// Rehearsal answers with the offline model instead of an endpoint.
	Rehearsal bool `toml:"rehearsal"`
}

// SSH sets up the front door.
type SSH struct {
	// Listen is ADDR:PORT, or "off".
	Listen string `toml:"listen"`
	// HostKey and AuthorizedKeys default to files of Paths.
	HostKey        string `toml:"host_key"`
	AuthorizedKeys string `toml:"authorized_keys"`
}

// Default is the configuration of an absent file. Paths supplies file names.
func Default(p Paths) Config {
	share := true
	return Config{
		Engine: Engine{
			Kind:  EngineAuto,
			Codex: Codex{ShareControlSocket: &share},
			Native: Native{
				Model: "gpt-5.5", APIKeyEnv: "OPENAI_API_KEY", ContextWindow: 272_000,
				ApprovalPolicy: "on-request", SandboxMode: "workspace-write",
			},
		},
		SSH:       SSH{Listen: ":2222", HostKey: p.HostKey(), AuthorizedKeys: p.AuthorizedKeys()},
		AppServer: AppServer{TLS: AppServerTLS{ACMECache: p.ACME()}},
		Gate:      Gate{Rate: defaultRates()},
	}
}

// Load reads and validates the configuration. Unknown keys are errors; every
// mistake is reported at once, with its line and, where one is close, the key
// that was probably meant.
func Load(p Paths) (Config, error) {
	path := p.ConfigFile()
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Default(p), nil
	}
	if err != nil {
		return Config{}, &Problem{Stage: "config", Err: err, Exit: ExitConfig}
	}
	if len(raw) > maxFile {
		return Config{}, &Problem{Stage: "config", Err: fmt.Errorf("%s has %d bytes; at most %d are read", path, len(raw), maxFile), Exit: ExitConfig}
	}
	c, err := Parse(raw, p)
	if err != nil {
		return Config{}, &Problem{
			Stage: "config", Err: fmt.Errorf("%s:\n%w", path, err),
			Hints: []string{"the keys are described in docs/configuration.md, and by `towline help config`"}, Exit: ExitConfig,
		}
	}
	return c, nil
}

// Parse reads a configuration file's text on top of the defaults.
func Parse(raw []byte, p Paths) (Config, error) {
	c := Default(p)
	d := toml.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Config{}, explain(err)
	}
	if c.Engine.Codex.ShareControlSocket == nil {
		c.Engine.Codex.ShareControlSocket = Default(p).Engine.Codex.ShareControlSocket
	}
	for _, f := range []*string{&c.Project, &c.SSH.HostKey, &c.SSH.AuthorizedKeys, &c.Engine.Codex.Home} {
		*f = expand(*f, p.Config)
	}
	c.AppServer.expandPaths(p.Config)
	if c.SSHConfig != "none" {
		c.SSHConfig = expand(c.SSHConfig, p.Config)
	}
	return c, errors.Join(storeTwice(raw, c), c.Validate())
}

// expand makes ~/x and paths relative to the configuration folder absolute.
func expand(path, base string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return filepath.Join(base, path)
}

// explain is [ExplainTOML] for config.toml.
func explain(err error) error { return ExplainTOML(err, Keys()) }

// ExplainTOML turns go-toml's errors into one line each: line, key, and of the
// keys the one that was probably meant.
func ExplainTOML(err error, known []string) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var errs []error
		for _, e := range strict.Errors {
			line, _ := e.Position()
			key := dotted(e.Key())
			msg := fmt.Sprintf("line %d: unknown key %q", line, key)
			if near := nearest(e.Key(), known); near != "" {
				msg += fmt.Sprintf(", did you mean %q?", near)
			} else if k := e.Key(); len(k) > 2 && k[0] == "hosts" {
				msg += fmt.Sprintf(`; a name with dots stands in quotes: [hosts.%q]`, strings.Join(k[1:], "."))
			}
			errs = append(errs, errors.New(msg))
		}
		return errors.Join(errs...)
	}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		line, col := de.Position()
		return fmt.Errorf("line %d, column %d: %s", line, col, strings.TrimPrefix(de.Error(), "toml: "))
	}
	return err
}

// Validate reports every value that cannot work.
func (c Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	oneOf := func(key, v string, allowed ...string) {
		if !slices.Contains(allowed, v) {
			bad(key, "%q is none of %s", v, strings.Join(allowed, ", "))
		}
	}
	oneOf("engine.kind", c.Engine.Kind, EngineAuto, EngineCodex, EngineNative)
	for key, v := range map[string]string{"cli_auth_credentials_store": c.Store, "auth.cli_auth_credentials_store": c.Auth.Store} {
		if err := validStore(v); err != nil {
			bad(key, "%v", err)
		}
	}
	c.Auth.validate(bad)
	c.Gate.validate(bad)
	c.Audit.validate(bad)
	n := c.Engine.Native
	oneOf("engine.native.approval_policy", n.ApprovalPolicy, "untrusted", "on-request", "never")
	oneOf("engine.native.sandbox_mode", n.SandboxMode, "read-only", "workspace-write", "danger-full-access")
	if n.LoginWait != "" {
		if d, err := time.ParseDuration(n.LoginWait); err != nil || d <= 0 {
			bad("engine.native.login_wait", "%q is no length of time; write it as \"24h\" or \"90m\"", n.LoginWait)
		}
	}
	if n.BaseURL != "" {
		if u, err := url.Parse(n.BaseURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			bad("engine.native.base_url", "%q is not an http or https URL", n.BaseURL)
		} else if u.User != nil {
			bad("engine.native.base_url", "holds credentials; name the variable with the key in api_key_env")
		}
	}
	if n.ContextWindow < 4096 {
		bad("engine.native.context_window", "%d tokens is too small to work in; use at least 4096", n.ContextWindow)
	}
	if c.SSH.Listen != "off" {
		if _, _, err := net.SplitHostPort(c.SSH.Listen); err != nil {
			bad("ssh.listen", "%q is neither ADDR:PORT nor \"off\"", c.SSH.Listen)
		}
	}
	c.AppServer.validate(bad)
	for _, name := range slices.Sorted(maps.Keys(c.Hosts)) {
		h, key := c.Hosts[name], "hosts."+quoteKey(name)
		if name == "" || strings.ContainsAny(name, "*?!") {
			bad(key, "names no single host; use the alias as you type it after ssh")
		}
		if h.Transport != "" {
			oneOf(key+".transport", h.Transport, TransportAuto, TransportSystem, TransportBuiltin)
		}
		for _, p := range []struct{ key, path string }{{"project", h.Project}, {"towline", h.Towline}, {"install_dir", h.InstallDir}} {
			if !remotePath(p.path) {
				bad(key+"."+p.key, "%q is not a path on the host; begin it with / or ~/", p.path)
			}
		}
	}
	return errors.Join(errs...)
}

// remotePath says whether a path can be one on a POSIX host. Whether it is there
// only the host knows. An empty one stands for the default.
func remotePath(p string) bool {
	absolute := p == "" || p == "~" || strings.HasPrefix(p, "/") || strings.HasPrefix(p, "~/")
	return absolute && !strings.ContainsFunc(p, unicode.IsControl)
}

// quoteKey writes a name as a part of a dotted key.
func quoteKey(name string) string {
	bare := strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
	if bare && name != "" {
		return name
	}
	return strconv.Quote(name)
}
