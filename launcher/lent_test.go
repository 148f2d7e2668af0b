package launcher

import (
	"testing"

	"towline/launcher/bootstrap"
)

// What is lent must go when its lender goes: a stock Codex is a process of the
// connection's own, with its login in memory; a Towline sees to it itself.
func TestAConnectionThatLendsALogin(t *testing.T) {
	for name, tc := range map[string]struct {
		kind   bootstrap.Kind
		lends  bool
		action bootstrap.Action
		forget bool
		env    string
	}{
		"codex":          {bootstrap.Codex, true, bootstrap.Stdio, true, "1"},
		"towline":        {bootstrap.Towline, true, bootstrap.Join, false, "1"},
		"codex, as ever": {bootstrap.Codex, false, bootstrap.Join, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(Config{Host: "dev", LendsLogin: tc.lends}.withDefaults())
			defer func() { _ = s.Close() }()
			f := &found{Choice: bootstrap.Choice{Action: bootstrap.Join, Candidate: bootstrap.Candidate{Kind: tc.kind}}}
			got := s.choice(f)
			if got.Action != tc.action || got.Forget != tc.forget || got.Env[awaitLogin] != tc.env {
				t.Errorf("chose %+v with %v", got, got.Env)
			}
			if f.Choice.Action != bootstrap.Join || f.Choice.Forget {
				t.Error("what was found is another now")
			}
		})
	}
}
