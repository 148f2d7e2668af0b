package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"towline/config"
	"towline/launcher/remote"
)

// HandOver ends the Towline daemon that runs there if no thread of it works or
// waits for somebody, so that ch, a newer program, can take its place. over says
// that nothing is in the way any more; a daemon that is busy is left alone.
func HandOver(ctx context.Context, r Remote, rep Report, ch Choice) (over bool, err error) {
	o := rep.o.withDefaults()
	extra, err := exports(rep, ch)
	if err != nil {
		return false, err
	}
	t, err := start(ctx, r, o, "handover", []variable{{"tl_bin", ch.Candidate.Path}, {"", extra}}, remote.ExecOptions{})
	if err != nil {
		return false, err
	}
	defer t.close()
	for {
		a, err := t.next()
		if err != nil {
			return false, err
		}
		switch a.key {
		case "fail":
			return false, handOverProblem(o, a.fields(2)[1])
		case "status":
			said := a.fields(2)
			var result struct {
				Status string `json:"status"`
			}
			if i := strings.IndexByte(said[1], '{'); i >= 0 {
				_ = json.NewDecoder(strings.NewReader(said[1][i:])).Decode(&result) // what is no JSON is an error below
			}
			switch result.Status {
			case "stopped", "notRunning":
				return true, nil
			case "busy":
				return false, nil
			}
			return false, handOverProblem(o, said[1])
		case "bye":
			return false, handOverProblem(o, "")
		}
	}
}

func handOverProblem(o Options, said string) error {
	if said == "" {
		said = "the old daemon did not say whether it works"
	}
	return &config.Problem{
		Stage: remote.StageInstall, Err: errors.New(said), Exit: config.ExitUnavailable,
		Hints: []string{"stop it there: `ssh " + o.host() + " towline app-server stop`"},
	}
}
