package launcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"towline/appserver/rpc"
	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// Install says what to do when nothing usable is on the host.
type Install int

// The answers to an absent app-server.
const (
	InstallAsk    Install = iota // where nothing usable is, ask the person through Config.Offer
	InstallNever                 // fail, and say how
	InstallAlways                // put this version there, unless it is there already
)

// Config is what Connect needs. Host is required.
type Config struct {
	Host      string            // an alias of ssh_config, or anything ssh takes
	Transport string            // config's TransportAuto, TransportBuiltin or TransportSystem; "" is config.TransportAuto
	SSH       sshconfig.Options // where ssh_config is
	// Ask answers questions while connecting, at the first connection and, seldom,
	// at later ones. Nil: nobody is there.
	Ask remote.Asker
	// Events is told of progress, while Connect runs and when a connection is made
	// anew; may be nil. It may be called from any goroutine and must not block.
	Events func(remote.Event)
	// Environ looks up this machine's environment; nil is os.Getenv.
	Environ func(string) string
	// Version is this build's.
	Version string
	// Memory is what is known of hosts; the zero one forgets.
	Memory Memory
	// Pin and InstallDir go to bootstrap.
	Pin, InstallDir string
	// Install says what to do when nothing is there. Offer asks the person, for
	// InstallAsk; nil is a no. Build finds a binary to upload.
	Install Install
	Offer   func(ctx context.Context, o Offer) (bool, error)
	Build   func(os, arch string) (bootstrap.Build, error)
	// Progress hears how much of an upload is done, in bytes, from one goroutine at
	// a time; nil tells it as Events.
	Progress func(done, total int64)
	// Self is this program, which the system's ssh starts to ask questions; ""
	// is os.Executable.
	Self string
	// RuntimeDir is a private folder for sockets.
	RuntimeDir string
	// Fresh looks at the host anew even when it is remembered.
	Fresh bool
	// Keep is how long the host shall keep what a stream missed while there is no
	// link; zero leaves it to the host, which then keeps it for an hour.
	Keep time.Duration
	// LendsLogin: this machine lends its login to the host's app-server. A stock Codex
	// is then run as a child of each stream, with its login in memory.
	LendsLogin bool
	Log        *slog.Logger

	parts parts // tests put others in their place
}

// Offer is an installation a person is asked about.
type Offer struct {
	Host   string
	Reason string // what was looked for and not found, one line
	Dir    string // where it would go
	Build  bootstrap.Build
	Update string // the version that is there and would be replaced; "" for none
	Looked []string
}

// parts are what Connect composes.
type parts struct {
	resolve func(ctx context.Context, o sshconfig.Options, name string) (sshconfig.Target, error)
	dial    func(ctx context.Context, d dialing) (remote.Conn, error)
	probe   func(ctx context.Context, r bootstrap.Remote, o bootstrap.Options) (bootstrap.Report, error)
	choose  func(rep bootstrap.Report, o bootstrap.Options) (bootstrap.Choice, error)
	install func(ctx context.Context, r bootstrap.Remote, rep bootstrap.Report, b bootstrap.Build, progress func(done, total int64)) (bootstrap.Choice, error)
	open    openFunc

	handOver func(ctx context.Context, r bootstrap.Remote, rep bootstrap.Report, ch bootstrap.Choice) (bool, error)
	rollback func(ctx context.Context, r bootstrap.Remote, rep bootstrap.Report) (bootstrap.Choice, error)
}

func (c Config) withDefaults() Config {
	if c.Transport == "" {
		c.Transport = config.TransportAuto
	}
	if c.Environ == nil {
		c.Environ = os.Getenv
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p := &c.parts
	if p.resolve == nil {
		p.resolve = sshconfig.Resolve
	}
	if p.dial == nil {
		p.dial = dial
	}
	if p.probe == nil {
		p.probe = bootstrap.Probe
	}
	if p.choose == nil {
		p.choose = bootstrap.Choose
	}
	if p.install == nil {
		p.install = bootstrap.Install
	}
	if p.open == nil {
		p.open = bootstrap.Open
	}
	if p.handOver == nil {
		p.handOver = bootstrap.HandOver
	}
	if p.rollback == nil {
		p.rollback = bootstrap.Rollback
	}
	return c
}

func (c Config) options(tell func(remote.Event)) bootstrap.Options {
	return bootstrap.Options{Host: c.Host, InstallDir: c.InstallDir, Pin: c.Pin, Version: c.Version, Events: tell, Log: c.Log}
}

// Connect makes a connection to cfg.Host and gets an app-server stream out of
// it, which the Session's first Dial returns. Errors are *config.Problem, with a
// stage and what to type next. ctx bounds the connecting only; Close ends what
// came of it.
func Connect(ctx context.Context, cfg Config) (*Session, error) {
	cfg = cfg.withDefaults()
	s := newSession(cfg)
	if err := s.connect(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// connect walks the stages for the first time.
func (s *Session) connect(ctx context.Context) error {
	p := newProgress(s.cfg.Host, s.cfg.Events)
	if err := s.resolve(ctx, p); err != nil {
		return err
	}
	conn, err := s.cfg.parts.dial(ctx, s.dialing(p.event))
	if err != nil {
		return p.fail(remote.StageDial, s.explainDial(err))
	}
	s.adopt(conn)
	current, err := s.openFirst(ctx, p, conn)
	if err != nil {
		return err
	}
	took := p.elapsed()
	p.event(remote.Event{Stage: remote.StageReady, Text: s.summary(), Done: true, Took: took})
	s.remember(took)
	s.start()
	if !current {
		s.wg.Go(func() { s.refresh(conn) })
	}
	return nil
}

// resolve asks ssh_config what the name means.
func (s *Session) resolve(ctx context.Context, p *progress) error {
	if t := s.cfg.Transport; t != config.TransportAuto && t != config.TransportBuiltin && t != config.TransportSystem {
		return p.fail(remote.StageResolve, &config.Problem{
			Stage: remote.StageResolve, Err: fmt.Errorf("%q is no transport", oneLine(t)),
			Hints: []string{"use auto, builtin or system"}, Exit: config.ExitUsage,
		})
	}
	p.begin(remote.StageResolve, "")
	t, err := s.cfg.parts.resolve(ctx, s.cfg.SSH, s.cfg.Host)
	if err != nil {
		return p.fail(remote.StageResolve, err)
	}
	for _, w := range t.Warnings {
		p.detail(remote.StageResolve, w)
	}
	for _, o := range t.Ignored {
		p.detail(remote.StageResolve, "left out here: "+o)
	}
	s.target = t
	p.done(remote.StageResolve, describe(t))
	return nil
}

// explainDial turns a question that nobody answered into what to do about it.
func (s *Session) explainDial(err error) error {
	var p *config.Problem
	if !unanswered(err) || errors.As(err, &p) && len(config.Hints(p)) > 0 {
		return err
	}
	stage := remote.StageAuth
	if errors.As(err, &p) && known(p.Stage) {
		stage = p.Stage
	}
	return &config.Problem{
		Stage: stage, Err: err, Exit: config.ExitDenied,
		Hints: []string{"run `towline " + s.cfg.Host + "` in a terminal and answer there"},
	}
}

// openFirst finds out what is there and gets a stream out of it: by what is
// remembered when that still fits, else by looking. current says that looking
// again, once nobody waits, would teach nothing.
func (s *Session) openFirst(ctx context.Context, p *progress, conn remote.Conn) (current bool, err error) {
	if s.cfg.Install != InstallAlways && !s.cfg.Fresh {
		if f := s.cfg.Memory.Load(s.cfg.Host).Found; f.fits(time.Now(), s.cfg.Version, s.identity()) {
			age := time.Since(f.At)
			p.detail(remote.StageProbe, "remembered from "+ago(age))
			st, _, err := s.open(ctx, p, conn, f)
			if err == nil {
				s.keep(st)
				s.wg.Go(func() { s.holdAgent(s.ctx, conn) })
				return age < refreshAfter && f.settled(), nil
			}
			if ctx.Err() != nil || over(conn) {
				return false, p.fail(remote.StageStart, err)
			}
			p.detail(remote.StageProbe, "what was remembered is no longer so: "+err.Error())
			p.begin(remote.StageFind, "looking again")
		}
	}
	f, err := s.look(ctx, p, conn, s.cfg.Install)
	if err != nil {
		return false, err
	}
	f.Agent = s.holdAgent(ctx, conn) // what is started is told its path
	st, _, err := s.open(ctx, p, conn, f)
	if err != nil && f.Choice.Action == bootstrap.Join && !f.Report.Door && ctx.Err() == nil && !over(conn) {
		p.detail(remote.StageStart, "what ran a moment ago does not: "+err.Error())
		st, _, err = s.open(ctx, p, conn, f.unstarted())
	}
	if err != nil {
		return false, p.fail(remote.StageStart, err)
	}
	s.keep(st)
	return f.settled(), nil
}

// keep holds st for the first Dial.
func (s *Session) keep(st rpc.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first, s.firstOn, s.firstAt = st, s.conn, time.Now()
}

// look probes and chooses, and installs when it must and may.
func (s *Session) look(ctx context.Context, p *progress, conn remote.Conn, install Install) (*found, error) {
	o := s.cfg.options(p.event)
	p.begin(remote.StageShell, "")
	rep, err := s.cfg.parts.probe(ctx, conn, o)
	if err != nil {
		return nil, p.fail(remote.StageProbe, err)
	}
	ch, err := s.cfg.parts.choose(rep, o)
	if err != nil {
		return nil, p.fail(remote.StageFind, err)
	}
	if ch.Action == bootstrap.Offer || install == InstallAlways && !rep.Door && !s.current(ch) {
		if ch, err = s.put(ctx, p, conn, rep, ch, install); err != nil {
			return nil, err
		}
	} else {
		p.done(remote.StageFind, oneLine(chosen(ch)))
		for _, other := range ch.Others {
			p.detail(remote.StageFind, "not "+other)
		}
	}
	p.done(remote.StageVersion, versionText(ch))
	return &found{At: time.Now(), Client: s.cfg.Version, Target: s.identity(), Report: rep, Choice: ch}, nil
}

// current reports whether ch is this very version of Towline.
func (s *Session) current(ch bootstrap.Choice) bool {
	return ch.Candidate.Kind == bootstrap.Towline && s.cfg.Version != "" && ch.Candidate.Version == s.cfg.Version
}

// put installs this program there, if that is wanted.
func (s *Session) put(ctx context.Context, p *progress, conn remote.Conn, rep bootstrap.Report, ch bootstrap.Choice, install Install) (bootstrap.Choice, error) {
	var none bootstrap.Choice
	nothing := ch.Action == bootstrap.Offer
	missing := func(err error, hints ...string) error {
		p.detail(remote.StageFind, "looked in "+strings.Join(rep.PathSearched, " "))
		if nothing {
			err = fmt.Errorf("%w; %s", err, lookedIn(rep))
		}
		hints = append(hints, "see everything that was tried: `towline doctor "+s.cfg.Host+"`")
		return p.fail(remote.StageFind, &config.Problem{Stage: remote.StageFind, Err: err, Hints: hints, Exit: config.ExitUnavailable})
	}
	why := nothingThere(ch)
	offer := "put this program there (no sudo, no internet needed): `towline connect " + s.cfg.Host + " --install`"
	if s.cfg.Build == nil || install == InstallNever {
		return none, missing(errors.New(why), offer)
	}
	b, err := s.cfg.Build(rep.OS, rep.Arch)
	if err != nil {
		if nothing {
			return none, missing(fmt.Errorf("%s, and it cannot be put there: %w", why, err), config.Hints(err)...)
		}
		return none, p.fail(remote.StageInstall, err)
	}
	if install == InstallAsk && s.cfg.Offer == nil {
		return none, missing(errors.New(why), offer)
	}
	if nothing {
		p.done(remote.StageFind, oneLine(why))
	} else {
		p.done(remote.StageFind, oneLine(chosen(ch)))
	}
	if install == InstallAsk {
		p.event(remote.Event{Stage: remote.StageInstall, Text: "asking", Waiting: true})
		yes, err := s.cfg.Offer(ctx, Offer{Host: s.cfg.Host, Reason: why, Dir: rep.InstallDir, Build: b, Looked: rep.PathSearched})
		if err != nil {
			return none, p.fail(remote.StageInstall, err)
		}
		if !yes {
			return none, missing(errors.New(why), offer)
		}
	}
	next, err := s.upload(ctx, p, conn, rep, b)
	if err != nil {
		return none, err
	}
	return s.takeOver(ctx, p, conn, rep, ch, next)
}

// takeOver lets what was just installed take the place of a daemon of another
// version, as soon as that one has nothing to do. Until then it is joined: work
// is never ended for an update.
func (s *Session) takeOver(ctx context.Context, p *progress, conn remote.Conn, rep bootstrap.Report, was, next bootstrap.Choice) (bootstrap.Choice, error) {
	if was.Action != bootstrap.Join || was.Candidate.Kind != bootstrap.Towline || was.Candidate.Version == next.Candidate.Version {
		return next, nil
	}
	over, err := s.cfg.parts.handOver(ctx, conn, rep.With(s.cfg.options(p.event)), next)
	if err != nil {
		p.detail(remote.StageInstall, "the daemon that runs stays: "+err.Error())
	}
	if over {
		p.detail(remote.StageInstall, "the daemon of "+oneLine(was.Candidate.Version)+" had nothing to do and has ended")
		return next, nil
	}
	was.Skew.Notice = oneLine(fmt.Sprintf("towline %s is installed on %s, and takes over once %s, which is at work, has ended: `towline connect %s --install`",
		next.Candidate.Version, s.cfg.Host, was.Candidate.Version, s.cfg.Host))
	return was, nil
}

// nothingThere says in a line what was looked for and not found.
func nothingThere(ch bootstrap.Choice) string {
	if ch.Action != bootstrap.Offer {
		return ch.Why
	}
	return strings.Join(append([]string{"neither towline nor codex is there"}, ch.Others...), "; ")
}

// lookedIn says where it was looked for: people know their PATH, and see from it
// what the login shell there did not do.
func lookedIn(rep bootstrap.Report) string {
	if path := rep.Env["PATH"]; path != "" {
		return "looked in its PATH (" + oneLine(path) + ") and where they usually are"
	}
	return "looked in " + oneLine(strings.Join(rep.PathSearched, " "))
}

// upload installs b and tells how far it is.
func (s *Session) upload(ctx context.Context, p *progress, conn remote.Conn, rep bootstrap.Report, b bootstrap.Build) (bootstrap.Choice, error) {
	p.begin(remote.StageInstall, fmt.Sprintf("towline %s, %s, to %s", b.Version, megabytes(b.Size), rep.InstallDir))
	percent := int64(-1)
	ch, err := s.cfg.parts.install(ctx, conn, rep, b, func(done, total int64) {
		if s.cfg.Progress != nil {
			s.cfg.Progress(done, total)
		} else if total > 0 && done*20/total != percent {
			percent = done * 20 / total
			p.event(remote.Event{Stage: remote.StageInstall, Text: fmt.Sprintf("%s of %s", megabytes(done), megabytes(total))})
		}
	})
	if err != nil {
		return bootstrap.Choice{}, p.fail(remote.StageInstall, err)
	}
	p.done(remote.StageInstall, oneLine(fmt.Sprintf("towline %s in %s", b.Version, rep.InstallDir)))
	return ch, nil
}

// describe is the one line of a resolved target.
func describe(t sshconfig.Target) string {
	text := t.User + "@" + t.HostName + ":" + strconv.Itoa(t.Port)
	switch {
	case len(t.ProxyJump) > 0:
		text += " via " + strings.Join(t.ProxyJump, ", ")
	case t.ProxyCommand != "":
		text += " through a command"
	}
	return oneLine(text)
}

func chosen(ch bootstrap.Choice) string {
	if ch.Why != "" {
		return ch.Why
	}
	return strings.TrimSpace(string(ch.Candidate.Kind) + " " + ch.Candidate.Version)
}

func versionText(ch bootstrap.Choice) string {
	if ch.Skew.Notice != "" {
		return oneLine(ch.Skew.Notice)
	}
	return ""
}

func megabytes(n int64) string {
	switch {
	case n < 1<<20:
		return fmt.Sprintf("%d KB", (n+1023)>>10)
	case n >= 10<<30:
		return fmt.Sprintf("%d GB", n>>30)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
}

func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	}
	return fmt.Sprintf("%d h ago", int(d.Hours()))
}

func itoa(n int) string { return strconv.Itoa(n) }

func over(c remote.Conn) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}
