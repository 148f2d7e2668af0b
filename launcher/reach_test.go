package launcher

import (
	"context"
	"errors"
	"testing"

	"towline/config"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// A host is looked at and nothing is opened there; the connection is ours to use
// and to end.
func TestReach(t *testing.T) {
	w := newWorld(t)
	w.report.Candidates = []bootstrap.Candidate{
		{Kind: bootstrap.Codex, Path: "/broken/codex", Fault: "it does not run"}, {Kind: bootstrap.Codex, Path: "/usr/bin/codex"}, w.choice.Candidate,
	}
	r, err := Reach(t.Context(), w.config())
	if err != nil {
		t.Fatal(err)
	}
	if w.opens != 0 || w.probes != 1 {
		t.Errorf("%d probes, %d opened", w.probes, w.opens)
	}
	for kind, want := range map[bootstrap.Kind]string{bootstrap.Codex: "/usr/bin/codex", bootstrap.Towline: "/usr/bin/towline", "other": ""} {
		if got := r.Program(kind); got != want {
			t.Errorf("%s is at %q", kind, got)
		}
	}
	if r.Lost() != nil || over(r.Conn) {
		t.Error("the connection is over")
	}
	if err := r.Close(); err != nil || !over(r.Conn) {
		t.Errorf("the connection is open after Close: %v", err)
	}
	var p *config.Problem
	if err := r.Lost(); !errors.As(err, &p) || len(p.Hints) == 0 || p.Exit != config.ExitUnavailable {
		t.Errorf("lost: %v", err)
	}
}

func TestReachFails(t *testing.T) {
	for part, stage := range map[string]string{"resolve": remote.StageResolve, "dial": remote.StageDial, "probe": remote.StageProbe, "choose": remote.StageFind} {
		t.Run(part, func(t *testing.T) {
			w := newWorld(t)
			w.fail[part] = errors.New("no")
			_, err := Reach(context.Background(), w.config())
			var p *config.Problem
			if !errors.As(err, &p) || p.Stage != stage || len(config.Hints(err)) == 0 {
				t.Errorf("%v", err)
			}
		})
	}
}
