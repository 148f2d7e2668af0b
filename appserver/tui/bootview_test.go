package tui

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/charmbracelet/x/ansi"

	"towline/appserver/tui/theme"
	"towline/config"
)

func TestHintsShowTheirCommandsAlone(t *testing.T) {
	for hint, want := range map[string][]string{
		"run `ssh-add ~/.ssh/id`":               {"ssh-add ~/.ssh/id"},
		"see every step: `towline doctor dev`":  {"towline doctor dev   see every step"},
		"`towline hosts`: those that are known": {"towline hosts   those that are known"},
		"check it, or add `Host x` to the file": {"check it, or add `Host x` to the file"},
		"`a` or `b`":                            {"`a` or `b`"},
		"is sshd running?":                      {"is sshd running?"},
		"use an ` odd one":                      {"use an ` odd one"},
	} {
		if got := hintLines(theme.Plain(), hint, 60); !slices.Equal(plainLines(got), want) {
			t.Errorf("%q is shown as %q, want %q", hint, plainLines(got), want)
		}
	}
}

func TestExplainTakesAProblemApart(t *testing.T) {
	inner := &config.Problem{Stage: "start", Err: errors.New("it died\nits last words\n\n"), Hints: []string{"try again"}}
	for name, err := range map[string]error{
		"bare": inner, "wrapped": fmt.Errorf("connect: %w", inner),
		"twice": &config.Problem{Stage: "start", Err: inner},
	} {
		f := explain(err)
		if f.stage != "start" || f.cause != "it died" || !slices.Equal(f.said, []string{"its last words"}) || !slices.Equal(f.hints, []string{"try again"}) {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if f := explain(errors.New("odd")); f.cause != "odd" || f.stage != "" {
		t.Errorf("%+v", f)
	}
}

func plainLines(lines []string) (out []string) {
	for _, l := range lines {
		out = append(out, ansi.Strip(l))
	}
	return out
}
