package launcher

import (
	"context"
	"errors"
	"strings"
	"testing"

	"towline/config"
	"towline/launcher/remote"
)

func TestEveryErrorGetsAStageAndAHint(t *testing.T) {
	cause := errors.New("it broke")
	for name, tc := range map[string]struct {
		err         error
		stage, hint string
		exit        int
	}{
		"bare":                 {cause, remote.StageProbe, "towline doctor dev", config.ExitUnavailable},
		"without a stage":      {&config.Problem{Err: cause, Hints: []string{"do this"}}, remote.StageProbe, "do this", config.ExitUnavailable},
		"with another's stage": {&config.Problem{Stage: "listen", Err: cause}, remote.StageProbe, "towline doctor dev", config.ExitUnavailable},
		"without a hint":       {&config.Problem{Stage: remote.StageDial, Err: cause}, remote.StageDial, "ssh -v dev true", config.ExitUnavailable},
		"complete":             {&config.Problem{Stage: remote.StageAuth, Err: cause, Hints: []string{"do that"}, Exit: config.ExitDenied}, remote.StageAuth, "do that", config.ExitDenied},
		"interrupted":          {context.Canceled, remote.StageProbe, "doctor", config.ExitInterrupted},
	} {
		t.Run(name, func(t *testing.T) {
			p := staged("dev", remote.StageProbe, tc.err)
			if p.Stage != tc.stage || !strings.Contains(strings.Join(config.Hints(p), "\n"), tc.hint) {
				t.Errorf("stage %q, hints %q", p.Stage, config.Hints(p))
			}
			if tc.exit != config.ExitInterrupted && (!errors.Is(p, cause) || config.ExitCode(p) == 0) {
				t.Errorf("error %v, exit %d", p, config.ExitCode(p))
			}
			if config.ExitCode(p) != tc.exit {
				t.Errorf("exit %d, want %d", config.ExitCode(p), tc.exit)
			}
		})
	}
}

func TestProgressKnowsWhereItIs(t *testing.T) {
	var got []remote.Event
	p := newProgress("dev", func(e remote.Event) { got = append(got, e) })
	p.begin(remote.StageDial, "10.0.0.4:22\x1b[31m\nport 22")
	p.done(remote.StageDial, "")
	p.event(remote.Event{Stage: remote.StageAuth, Hop: "bastion"})
	_ = p.fail(remote.StageAuth, errors.New("no key was accepted"))
	if len(got) != 4 {
		t.Fatalf("%d events", len(got))
	}
	if got[0].Hop != "dev" || got[0].Text != "10.0.0.4:22[31m port 22" {
		t.Errorf("first event %+v", got[0])
	}
	if !got[1].Done || got[1].Took <= 0 {
		t.Errorf("a stage that is over has a time: %+v", got[1])
	}
	if got[3].Hop != "bastion" || got[3].Err == nil || got[3].Stage != remote.StageAuth || got[3].Took <= 0 {
		t.Errorf("the failure belongs to the hop it happened at: %+v", got[3])
	}
}
