package launcher

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"towline/appserver/rpc"
	"towline/config"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

type (
	remoteOf = bootstrap.Remote
	reportOf = bootstrap.Report
	choiceOf = bootstrap.Choice
	openedOf = bootstrap.Opened
)

// everyStage is what a first connection goes through when nothing is installed.
var everyStage = []string{
	remote.StageResolve, remote.StageDial, remote.StageHostKey, remote.StageAuth, remote.StageShell, remote.StageProbe,
	remote.StageFind, remote.StageVersion, remote.StageStart, remote.StageHandshake, remote.StageReady,
}

func TestConnectTellsEveryStageOnce(t *testing.T) {
	w := newWorld(t)
	w.connect(w.config())
	if diff := cmp.Diff(everyStage, w.stages()); diff != "" {
		t.Errorf("stages:\n%s", diff)
	}
	for _, e := range w.events {
		if e.Hop == "" || e.Done && e.Took <= 0 {
			t.Errorf("an event lacks its hop or time: %+v", e)
		}
	}
}

// No failure may reach a person without the stage, the cause and what to type.
func TestNoFailureLacksAStage(t *testing.T) {
	for part, stage := range map[string]string{
		"resolve": remote.StageResolve, "dial": remote.StageDial, "probe": remote.StageProbe,
		"choose": remote.StageFind, "install": remote.StageInstall, "open": remote.StageStart,
	} {
		for name, made := range map[string]func(error) error{
			"bare":          func(err error) error { return err },
			"without stage": func(err error) error { return &config.Problem{Err: err} },
			"foreign stage": func(err error) error { return &config.Problem{Stage: "listen", Err: err} },
			"staged":        func(err error) error { return &config.Problem{Stage: stage, Err: err} },
		} {
			t.Run(part+" "+name, func(t *testing.T) {
				w := newWorld(t)
				broken := errors.New("it broke")
				w.setFailure(part, made(broken))
				cfg := w.config()
				if part == "install" {
					w.choice = bootstrap.Choice{Action: bootstrap.Offer}
					cfg.Install, cfg.Build = InstallAlways, aBuild
				}
				_, err := Connect(t.Context(), cfg)
				p := problemOf(t, err)
				if p.Stage != stage || !errors.Is(err, broken) {
					t.Errorf("failed at %q with %v", p.Stage, err)
				}
				if got := w.stages(); !slices.Contains(got, "!"+stage) || strings.Count(strings.Join(got, " "), "!") != 1 {
					t.Errorf("told: %v", got)
				}
			})
		}
	}
}

func TestAWrongTransportIsRefused(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Transport = "pigeon"
	_, err := Connect(t.Context(), cfg)
	if p := problemOf(t, err); p.Stage != remote.StageResolve || p.Exit != config.ExitUsage {
		t.Errorf("got %+v", p)
	}
}

func TestTheSecondConnectionRemembersTheFirst(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Memory = NewMemory(t.TempDir())
	s := w.connect(cfg)
	s.Used("/src/shop")
	_ = s.Close()
	h := cfg.Memory.Load("dev")
	if h.Kind != "towline" || h.Version != "1.2.3" || h.OS != "linux" || h.Arch != "amd64" || h.Project != "/src/shop" || h.Took <= 0 {
		t.Errorf("remembered %+v", h)
	}
	w.events = nil
	_ = w.connect(cfg).Close()
	want := []string{
		remote.StageResolve, remote.StageDial, remote.StageHostKey, remote.StageAuth,
		remote.StageStart, remote.StageHandshake, remote.StageReady,
	}
	if diff := cmp.Diff(want, w.stages()); diff != "" || w.probes != 1 {
		t.Errorf("the second connection, after %d probes:\n%s", w.probes, diff)
	}

	// What is no longer so costs a look, not the connection.
	w.setFailure("open", errors.New("no such file"))
	w.events = nil
	cfg.parts.open = func(ctx context.Context, r remoteOf, rep reportOf, ch choiceOf) (rpc.Stream, openedOf, error) {
		st, o, err := w.parts().open(ctx, r, rep, ch)
		w.setFailure("open", nil)
		return st, o, err
	}
	_ = w.connect(cfg).Close()
	if w.probes != 2 || !slices.Contains(w.stages(), remote.StageReady) {
		t.Errorf("%d probes; %v", w.probes, w.stages())
	}

	// Neither another version of this program, nor another account, nor a pin
	// fits what was found.
	for name, change := range map[string]func(c *Config){
		"version": func(c *Config) { c.Version = "1.2.4" },
		"pin":     func(c *Config) { c.Pin = "/opt/towline" },
		"fresh":   func(c *Config) { c.Fresh = true },
	} {
		other, before := cfg, w.probes
		change(&other)
		_ = w.connect(other).Close()
		if w.probes != before+1 {
			t.Errorf("%s: %d probes", name, w.probes-before)
		}
		_ = w.connect(cfg).Close() // remember the first again
	}
}

func TestWhatWasFoundGrowsOld(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	f := &found{At: now.Add(-time.Hour), Client: "1", Target: "t", Choice: bootstrap.Choice{Action: bootstrap.Join}}
	if !f.fits(now, "1", "t") {
		t.Error("an hour is too old")
	}
	for name, bad := range map[string]found{
		"a day":        {At: now.Add(-maxAge), Client: "1", Target: "t", Choice: f.Choice},
		"tomorrow":     {At: now.Add(time.Hour), Client: "1", Target: "t", Choice: f.Choice},
		"nothing":      {At: now, Client: "1", Target: "t"},
		"an offer":     {At: now, Client: "1", Target: "t", Choice: bootstrap.Choice{Action: bootstrap.Offer}},
		"incompatible": {At: now, Client: "1", Target: "t", Choice: bootstrap.Choice{Action: bootstrap.Join, Skew: bootstrap.Skew{Block: true}}},
	} {
		if bad.fits(now, "1", "t") {
			t.Errorf("%s fits", name)
		}
	}
	if (*found)(nil).fits(now, "1", "t") {
		t.Error("nothing fits")
	}
}

func TestNothingThereIsOfferedAnInstall(t *testing.T) {
	for name, tc := range map[string]struct {
		install Install
		answer  string // yes, no, error, none
		arch    string
		stage   string // of the failure, "" for none
		hint    string
	}{
		"yes":            {install: InstallAsk, answer: "yes"},
		"no":             {install: InstallAsk, answer: "no", stage: remote.StageFind, hint: "towline connect dev --install"},
		"nobody to ask":  {install: InstallAsk, answer: "none", stage: remote.StageFind, hint: "towline connect dev --install"},
		"asking fails":   {install: InstallAsk, answer: "error", stage: remote.StageInstall, hint: "towline doctor dev"},
		"told not to":    {install: InstallNever, answer: "yes", stage: remote.StageFind, hint: "towline connect dev --install"},
		"told to":        {install: InstallAlways, answer: "none"},
		"no such build":  {install: InstallAlways, answer: "none", arch: "sparc", stage: remote.StageFind, hint: "make builds"},
		"never no build": {install: InstallNever, answer: "none", arch: "sparc", stage: remote.StageFind, hint: "--install"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.choice = bootstrap.Choice{Action: bootstrap.Offer}
			w.report.PathSearched = []string{"/usr/bin", "/home/ana/.local/bin"}
			if tc.arch != "" {
				w.report.Arch = tc.arch
			}
			cfg := w.config()
			cfg.Install, cfg.Build = tc.install, aBuild
			var offered Offer
			if tc.answer != "none" {
				cfg.Offer = func(_ context.Context, o Offer) (bool, error) {
					offered = o
					if tc.answer == "error" {
						return false, errors.New("the terminal is gone")
					}
					return tc.answer == "yes", nil
				}
			}
			s, err := Connect(t.Context(), cfg)
			if tc.stage == "" {
				if err != nil {
					t.Fatal(err)
				}
				_ = s.Close()
				if !slices.Contains(w.stages(), remote.StageInstall) {
					t.Errorf("stages: %v", w.stages())
				}
				if tc.answer == "yes" && (offered.Host != "dev" || offered.Dir == "" || offered.Build.Size != 100 || len(offered.Looked) != 2) {
					t.Errorf("offered %+v", offered)
				}
				return
			}
			p := problemOf(t, err)
			if p.Stage != tc.stage || !strings.Contains(strings.Join(config.Hints(p), "\n"), tc.hint) {
				t.Errorf("failed at %q: %v, hints %q", p.Stage, err, config.Hints(p))
			}
			if w.opens != 0 {
				t.Error("something was started")
			}
		})
	}
}

func TestInstallReplacesAnotherVersionOnlyWhenTold(t *testing.T) {
	w := newWorld(t)
	w.choice.Candidate.Version = "1.0.0"
	cfg := w.config()
	cfg.Build, cfg.Offer = aBuild, func(context.Context, Offer) (bool, error) { t.Error("asked"); return true, nil }
	s := w.connect(cfg)
	if v := s.Info().Opened.Version; v != "1.0.0" {
		t.Errorf("uses %s", v)
	}
	cfg.Install = InstallAlways
	s = w.connect(cfg)
	if v := s.Info().Opened.Version; v != "1.2.3" || !slices.Contains(w.stages(), remote.StageInstall) {
		t.Errorf("uses %s; %v", v, w.stages())
	}
	w.choice.Candidate.Version, w.events = "1.2.3", nil
	w.connect(cfg)
	if slices.Contains(w.stages(), remote.StageInstall) {
		t.Error("the same version was put there again")
	}
}

// Work is never ended for an update: a daemon that is busy goes on, and is worked
// with as the version it is.
func TestAnUpdateWaitsForWork(t *testing.T) {
	for name, tc := range map[string]struct {
		busy bool
		err  error
		want string
	}{
		"idle":      {want: "1.2.3"},
		"busy":      {busy: true, want: "1.0.0"},
		"no answer": {err: errors.New("it does not stop"), want: "1.0.0"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.choice.Candidate.Version, w.choice.Candidate.Socket = "1.0.0", "/run/towline.sock"
			w.busy = tc.busy
			if tc.err != nil {
				w.setFailure("handOver", tc.err)
			}
			cfg := w.config()
			cfg.Install, cfg.Build = InstallAlways, aBuild
			info := w.connect(cfg).Info()
			if info.Opened.Version != tc.want {
				t.Errorf("works with %s", info.Opened.Version)
			}
			if notice := info.Choice.Skew.Notice; (tc.want == "1.0.0") != strings.Contains(notice, "towline 1.2.3 is installed on dev") {
				t.Errorf("notice: %q", notice)
			}
		})
	}
}

// Nor for the way back, which says so.
func TestARollbackWaitsForWork(t *testing.T) {
	for _, busy := range []bool{false, true} {
		w := newWorld(t)
		w.choice.Candidate.Version, w.choice.Candidate.Socket = "1.2.3", "/run/towline.sock"
		w.busy = busy
		cfg := w.config()
		cfg.parts.rollback = func(context.Context, remoteOf, reportOf) (choiceOf, error) {
			return choiceOf{Action: bootstrap.Start, Candidate: bootstrap.Candidate{Kind: bootstrap.Towline, Version: "1.1.0"}}, nil
		}
		ch, err := Rollback(t.Context(), cfg)
		if err != nil || strings.Contains(ch.Skew.Notice, "at work") != busy {
			t.Errorf("busy %v: %+v, %v", busy, ch, err)
		}
	}
}

func TestCheckLooksAndAsksNobody(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	c := Check(t.Context(), cfg)
	if c.Err != nil || c.Kind != "towline" || c.Version != "1.2.3" || !c.Running || c.Target != "ana@192.0.2.7:22" || w.opens != 0 {
		t.Errorf("checked %+v, %d opened", c, w.opens)
	}
	w.choice = bootstrap.Choice{Action: bootstrap.Offer}
	if c := Check(t.Context(), cfg); c.Err != nil || c.Kind != "" {
		t.Errorf("a host with nothing: %+v", c)
	}
	w.setFailure("dial", remote.ErrNobody)
	if p := problemOf(t, Check(t.Context(), cfg).Err); p.Stage != remote.StageAuth || !strings.Contains(config.Hints(p)[0], "towline dev") {
		t.Errorf("a host that would ask: %+v", p)
	}
	w.setFailure("dial", nil)
	w.reach = make(chan struct{}) // never
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if p := problemOf(t, Check(ctx, cfg).Err); p.Stage != remote.StageDial || p.Err.Error() != "no answer in time" {
		t.Errorf("a host that is silent: %+v", p)
	}
	if w.asks.asked != 0 {
		t.Errorf("asked %d times", w.asks.asked)
	}
}

func TestRollback(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Memory = NewMemory(t.TempDir())
	cfg.parts.rollback = func(context.Context, remoteOf, reportOf) (choiceOf, error) {
		return choiceOf{Action: bootstrap.Start, Candidate: bootstrap.Candidate{Kind: bootstrap.Towline, Version: "1.1.0"}}, w.failure("rollback")
	}
	ch, err := Rollback(t.Context(), cfg)
	if err != nil || ch.Candidate.Version != "1.1.0" {
		t.Fatalf("%+v, %v", ch, err)
	}
	if got := w.connect(cfg).Info().Opened.Version; got != "1.1.0" {
		t.Errorf("the next connection uses %s", got)
	}
	w.setFailure("rollback", errors.New("nothing to go back to"))
	_, err = Rollback(t.Context(), cfg)
	if p := problemOf(t, err); p.Stage != remote.StageInstall {
		t.Errorf("failed at %q", p.Stage)
	}
}
