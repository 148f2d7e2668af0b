package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"towline/appserver"
	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
	"towline/config/managed"
	"towline/sshd"
)

// serveOptions are the flags of serve; a set one wins over config.toml.
type serveOptions struct {
	listenFlags
	codex                      codexFlags
	engine, sshListen, project string
	json                       bool
	verbose                    bool
	stopWithStdin              bool
	comeBack                   string
	takeOver                   bool // see takeOverFlag
	detached                   bool // nobody waits for this process
	lasting                    bool // it may be succeeded
}

func newServe() *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the host: the daemon and its SSH door",
		Long: "serve keeps an app-server on this machine and opens it by SSH to the keys in\n" +
			"Towline's authorized_keys, on a private unix socket to you, and on the\n" +
			"listeners you name. It prints where once it is ready and runs until SIGTERM.",
		Example: "  cat ~/.ssh/id_ed25519.pub >> ~/.config/towline/authorized_keys\n" +
			"  towline serve --project ~/src/shop\n" +
			"  towline serve --ssh-listen 127.0.0.1:0 --listen ws://127.0.0.1:4500 --json",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, cfg, err := setup()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			if o.stopWithStdin {
				// Nobody waits for this: reading a standard stream cannot be
				// interrupted, and the process ends with it.
				go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
			}
			if slices.Contains(o.listen, stdioURL) {
				return o.usageError("standard input and output are for `towline app-server`")
			}
			return serve(ctx, o, paths, cfg, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVar(&o.engine, "engine", "", "what does the work: auto, codex or native")
	f.StringVar(&o.sshListen, "ssh-listen", "", "`ADDR:PORT` of the SSH door, or off (port 0 picks one)")
	o.flags(c, nil, "ws://IP:PORT, wss://IP:PORT or unix://PATH; off is none, whatever config.toml says")
	f.StringVar(&o.project, "project", "", "`DIR` new threads work in (default: here)")
	f.BoolVar(&o.json, "json", false, "print the ready line as one JSON object")
	f.BoolVar(&o.verbose, "verbose", false, "log what happens in detail")
	// For programs that start a host and may be killed: their end of the pipe
	// closes whatever happens to them.
	f.BoolVar(&o.stopWithStdin, "stop-with-stdin", false, "stop when standard input ends")
	f.StringVar(&o.comeBack, "come-back", "", "what people type to come back, when it is not ssh")
	f.BoolVar(&o.takeOver, strings.TrimPrefix(takeOverFlag, "--"), false, "succeed the daemon that runs")
	f.BoolVar(&o.detached, strings.TrimPrefix(detachedFlag, "--"), false, "nobody waits for this process")
	for _, name := range []string{"stop-with-stdin", "come-back", "take-over", "detached"} {
		_ = f.MarkHidden(name) // it exists
	}
	foldUsages(f)
	return c
}

// ready is the one JSON object `serve --json` prints. Scripts rely on it.
type ready struct {
	Ready   bool     `json:"ready"`
	SSH     string   `json:"ssh"`
	Listen  []string `json:"listen"`
	HostKey string   `json:"host_key"`
	Engine  string   `json:"engine"`
	Home    string   `json:"home"`
	Metrics string   `json:"metrics,omitempty"`
}

func serve(ctx context.Context, o serveOptions, paths config.Paths, cfg config.Config, out, errOut io.Writer) error {
	o.lasting = true
	h, err := openHost(ctx, o, paths, cfg, errOut)
	if err != nil {
		return err
	}
	defer h.close()
	if err := announce(out, o.json, h); err != nil {
		return err
	}
	return h.run(ctx)
}

// openHost opens the engine, the daemon and the SSH door. Nobody is served
// before run; close releases what was opened.
func openHost(ctx context.Context, o serveOptions, paths config.Paths, cfg config.Config, errOut io.Writer) (h *host, err error) {
	if o.engine != "" {
		cfg.Engine.Kind = o.engine
	}
	if o.sshListen != "" {
		cfg.SSH.Listen = o.sshListen
	}
	if o.project != "" {
		cfg.Project = o.project
	}
	urls, _, off, err := o.addresses("unix://" + paths.Socket())
	if err != nil {
		return nil, err
	}
	if off {
		cfg.AppServer.Listen = nil
	}
	cfg.AppServer = o.over(cfg.AppServer)
	cfg.AppServer.Listen = append(cfg.AppServer.Listen, urls...)
	if err := cfg.Validate(); err != nil {
		return nil, &config.Problem{Stage: "serve", Err: err, Hints: []string{"see `towline serve --help`"}, Exit: config.ExitUsage}
	}
	project, err := projectDir(cfg.Project, "--project")
	if err != nil {
		return nil, err
	}
	if err := paths.Ensure(); err != nil {
		return nil, err
	}
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: level}))

	if err := policyAtStart(ctx, paths, cfg, log); err != nil {
		return nil, err
	}
	if p, err := managed.Load(managed.Options{}); err == nil && p.AuditOnFailure.Set {
		cfg.Audit.OnFailure = p.AuditOnFailure.Value
	}
	self, err := selfPath()
	if err != nil {
		return nil, &config.Problem{Stage: "engine", Err: fmt.Errorf("find this program, which is its own sandbox helper: %w", err)}
	}
	listeners, metrics, err := o.listeners(cfg.AppServer, log)
	if err != nil {
		return nil, err
	}
	network := newLentNetwork(os.Getenv, log)
	var server atomic.Pointer[appserver.Server] // there before anything is asked of an engine
	login, err := hostLogin(paths, cfg, network, func(event string, p access.Principal, attrs ...slog.Attr) {
		if s := server.Load(); s != nil {
			s.Record(event, p, attrs...)
		}
	}, log)
	if err != nil {
		return nil, err
	}
	remote := remoteSwitch(paths, urls, log)
	engine, err := appserver.OpenEngine(ctx, appserver.EngineConfig{
		CodexArgs: o.codex.args(), Config: cfg.Engine, Paths: paths, Project: project, Version: version(),
		Environ: os.Getenv, Env: os.Environ(), Self: self, Log: log,
		Accounts: login.accounts(), CodexHome: login.home, ChatGPTBaseURL: login.baseURL,
		AwaitsLogin: os.Getenv(awaitLogin) != "", Network: network, Remote: remote,
	})
	if err != nil {
		return nil, err
	}
	if err := o.codex.fit(engine.Kind); err != nil {
		return nil, err
	}
	if engine.Kind == config.EngineCodex {
		if err := login.mayServe(ctx); err != nil {
			return nil, err
		}
	}
	h = &host{log: log, login: login, network: network, name: hostName(), comeBack: o.comeBack, engine: engine, paths: paths, ssh: cfg.SSH}
	succession, err := o.succession(ctx, h, paths)
	if err != nil {
		return nil, err
	}
	h.server, err = appserver.Open(ctx, appserver.Config{
		Succession: succession,
		Paths:      paths, Engine: engine, Listen: cfg.AppServer.Listen, Listeners: listeners, Metrics: metrics, Host: h.name, Project: project,
		Version: version(), DisableUnsandboxed: cfg.Gate.DisableUnsandboxed, Rate: cfg.Gate.Rate, Audit: cfg.Audit, Describe: h.describe, HostLogin: login.stored,
		MayLogIn: func(params json.RawMessage) error { return login.mayLogIn(engine.Kind, params) },
		MayRelay: mayRelay, Remote: remote,
		Egress: h.egress, Log: log,
	})
	if err != nil {
		return nil, err
	}
	server.Store(h.server)
	err = h.openDoor(ctx, cfg.SSH)
	if err == nil {
		err = h.server.Confirm(ctx)
	}
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// run serves until ctx ends, and waits for everything it started.
func (h *host) run(ctx context.Context) error {
	outer := ctx
	g, ctx := errgroup.WithContext(ctx)
	// The door closes after the daemon has told its clients how their turns ended.
	door, closeDoor := context.WithCancel(context.WithoutCancel(ctx))
	defer closeDoor()
	if h.door != nil {
		left := make(chan struct{})
		h.server.AddDoor(doorSSH, h.door, left)
		g.Go(func() error {
			defer close(left)
			return h.door.Serve(door)
		})
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	g.Go(func() error {
		defer end() // also when the daemon has been succeeded
		defer closeDoor()
		return h.server.Run(ctx)
	})
	g.Go(func() error { return h.network.run(door) })
	g.Go(func() error { settle(ctx); return nil })
	// An engine may be given time to end its turns: say so rather than hang.
	defer context.AfterFunc(ctx, func() { h.log.Info("stopping; a second signal ends at once") })()
	err := g.Wait()
	h.log.Info("stopped")
	if heir := h.server.Succeeded(); heir != 0 && err == nil {
		err = h.heirs.stay(outer, heir)
	}
	return err
}

func (h *host) close() {
	_ = h.server.Close() // nothing is left to do about it
	h.login.close()
}

// selfPath is this program, for running it again. Linux has a name for it that
// stays right when an upgrade replaces the file.
func selfPath() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	return os.Executable()
}

// projectDir is dir as an absolute path; flag is what a person names it with.
func projectDir(dir, flag string) (string, error) {
	abs, err := filepath.Abs(dir) // "" is where we are
	if err == nil {
		var info os.FileInfo
		if info, err = os.Stat(abs); err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is not a folder", abs)
		}
	}
	if err != nil {
		return "", &config.Problem{Stage: "project", Err: err, Hints: []string{"name an existing folder with " + flag}, Exit: config.ExitUsage}
	}
	return abs, nil
}

// hostName is the machine's name without its domain.
func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "this host"
	}
	short, _, _ := strings.Cut(name, ".")
	return short
}

// announce says, once, where the host can be reached.
func announce(out io.Writer, asJSON bool, h *host) error {
	e := h.engine
	if asJSON {
		return json.NewEncoder(out).Encode(ready{
			Ready: true, SSH: h.sshAddr(), Listen: h.server.Addresses(), HostKey: h.fingerprint(), Engine: e.Kind, Home: h.paths.Home(), Metrics: h.server.MetricsURL(),
		})
	}
	var b strings.Builder
	kind := e.Kind
	if e.Rehearsal {
		kind += ", rehearsal: an offline model, nothing leaves this machine"
	}
	fmt.Fprintf(&b, "towline %s is ready on %s\n\n  engine     %s (%s)\n", version(), h.name, kind, e.Why)
	if h.door != nil {
		fmt.Fprintf(&b, "  ssh        %s\n  host key   %s\n", h.sshCommand(), h.fingerprint())
	}
	for _, l := range h.server.Addresses() {
		b.WriteString(wayIn(l, h.server.NeedsCredential(l)))
	}
	if url := h.server.MetricsURL(); url != "" {
		fmt.Fprintf(&b, "  metrics    %s\n", url)
	}
	fmt.Fprintf(&b, "  here       towline attach\n")
	if h.door != nil && !hasKeys(h.ssh.AuthorizedKeys) {
		fmt.Fprintf(&b, "\nnobody can log in by ssh yet; add a key:\n  cat ~/.ssh/id_ed25519.pub >> %s\n", h.ssh.AuthorizedKeys)
	}
	_, err := io.WriteString(out, b.String()+"\n")
	return err
}

func hasKeys(path string) bool {
	raw, err := os.ReadFile(path)
	return err == nil && len(strings.TrimSpace(string(raw))) > 0
}

// host is the daemon together with its SSH door.
type host struct {
	server *appserver.Server
	door   *sshd.Server // nil when ssh.listen is "off"
	name   string
	// comeBack is what to type to get here again; empty is ssh.
	comeBack string
	engine   appserver.Engine
	paths    config.Paths
	ssh      config.SSH
	login    servedLogin
	network  *lentNetwork
	heirs    *heirs
	log      *slog.Logger
}

func (h *host) describe(st *protocol.HostStatus) {
	st.SSH, st.HostKey = h.sshAddr(), h.fingerprint()
	st.Restarted = restartedAfter(h.paths, st.StartedAt)
}

func (h *host) sshAddr() string {
	if h.door == nil {
		return ""
	}
	return h.door.Addr()
}

func (h *host) fingerprint() string {
	if h.door == nil {
		return ""
	}
	return h.door.Fingerprint()
}
