// Package config says where Towline keeps things and how a person set it up:
// paths, config.toml, and the error type every command shows to people. It
// imports nothing of ours, so every package may use it.
package config

import (
	"errors"
	"strings"
	"unicode"
)

// Exit statuses of the towline command. They are part of its contract: scripts
// branch on them, and `towline help exit-codes` prints the same table.
const (
	ExitOK          = 0
	ExitFailure     = 1   // the thing asked for did not work
	ExitUsage       = 2   // the command line makes no sense
	ExitConfig      = 3   // a configuration or state file is wrong, or looser than it may be
	ExitUnavailable = 4   // the daemon or engine is not there
	ExitDenied      = 5   // the role, a rule or a person does not allow it
	ExitApproval    = 6   // an approval was needed, and nobody gave it
	ExitLost        = 7   // the connection to a running turn was lost
	ExitTimeout     = 124 // the time given was over, as timeout(1) says it
	ExitInterrupted = 130 // SIGINT, as a shell counts it
)

// Problem is an error shown to a person: at which stage, because of what, and
// what to type next.
type Problem struct {
	Stage string   // one or two words: "config", "listen", "engine"; may be empty
	Err   error    // the cause, wrapped
	Hints []string // lower case, imperative: "run `codex login --device-auth`"
	Exit  int      // an Exit constant; 0 means ExitFailure
}

// Error is the stage and the cause on one line; hints are for [Explain].
func (p *Problem) Error() string {
	if p.Stage == "" {
		return p.Err.Error()
	}
	return p.Stage + ": " + p.Err.Error()
}

// Unwrap gives the cause.
func (p *Problem) Unwrap() error { return p.Err }

// ExitCode is the status a command that ended with err leaves with.
func ExitCode(err error) int {
	var p *Problem
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &p) && p.Exit != 0:
		return p.Exit
	}
	return ExitFailure
}

// Explain renders err for a terminal: the error, then one line a hint.
func Explain(err error) string {
	var b strings.Builder
	b.WriteString("error: ")
	b.WriteString(err.Error())
	b.WriteByte('\n')
	for _, h := range Hints(err) {
		b.WriteString("hint: ")
		b.WriteString(h)
		b.WriteByte('\n')
	}
	return b.String()
}

// Hints collects what every Problem inside err advises, outermost first.
func Hints(err error) []string {
	var p *Problem
	if !errors.As(err, &p) {
		return nil
	}
	return append(append([]string(nil), p.Hints...), Hints(p.Err)...)
}

// OneLine makes text from elsewhere fit for an error or a line of a terminal: no
// control characters, nothing that is not printed, and not too long.
func OneLine(s string) string {
	const longest = 200 // runes
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s))
	if r := []rune(s); len(r) > longest {
		return string(r[:longest]) + "…"
	}
	return s
}
