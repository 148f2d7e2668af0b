// Package login logs a host in through the browser of this machine.
//
// The login runs on the host: a real `codex login`, or Towline's own. What it
// prints says which page to open and at which port it waits for the browser to
// come back. The broker takes that port of this machine, carries what comes there
// to the host's (package sshfwd), opens the page, and waits until the host says
// that it is logged in. Nothing of the credential passes through this program but
// the redirect, inside connections it does not read.
//
// Ports are 1455 and 1457, because the issuer accepts redirects to these alone.
// When the first is taken here, the other is; when neither can be had on both
// sides, the host shows a code to type instead; and when that is not to be had
// either, the person pastes the address their browser ended at. Each step is told.
//
// Start with [Run]. Whom to tell and ask is a [Person], the other side a [Host].
package login

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"towline/config"
	"towline/forward/sshfwd"
)

// Stage is the stage of this package's Problems, next to sshfwd.Stage.
const Stage = "login"

// Limits on what a host says, and on waiting.
const (
	maxLine     = 64 << 10         // a line of a login's output
	maxOutput   = 4 << 20          // all of it
	beginWait   = 90 * time.Second // start files, then a login that waits for busy ports
	loginWait   = 20 * time.Minute // a person in front of a page; logins give up earlier themselves
	statusWait  = 45 * time.Second // asking how it went
	accountWait = 15 * time.Second // asking whose login it is, which may need the network
	probeWait   = 2 * time.Second  // a program of this machine that may be a login
	freeWait    = 5 * time.Second  // until a cancelled login has let go of its port
	freePoll    = 50 * time.Millisecond
	lastPage    = 5 * time.Second // for the browser to read the login's last page
)

// The ports an issuer redirects to: the one that is tried first, and the other.
const (
	FirstPort  = 1455
	SecondPort = 1457
)

// Method is how to log in.
type Method int

// The methods.
const (
	Browser     Method = iota
	DeviceCode         // a code to type in a browser anywhere
	APIKey             // Config.Secret
	AccessToken        // Config.Secret
)

// Program is what runs the login on the host.
type Program int

// The programs.
const (
	Codex Program = iota
	Towline
)

func (p Program) String() string {
	if p == Codex {
		return "codex"
	}
	return "towline"
}

// Input is what a program of the host has for standard input.
type Input int

// The inputs.
const (
	Watched Input = iota // nothing; the program ends with the channel, whether it reads or not
	Open                 // the channel's
	Line                 // one line, then the end; never half of it
)

// Command is a program to run on the host, in the login environment of its
// person.
type Command struct {
	Program Program
	Args    []string
	Input   Input
}

// Host is the other side.
type Host interface {
	sshfwd.Host
	// Run starts a program. Its standard error comes with standard output, or is
	// given by LastWords() string of the Process.
	Run(ctx context.Context, c Command) (sshfwd.Process, error)
}

// Person is who wants to log in. Methods may be called from any goroutine, Confirm
// and Paste from one at a time.
type Person interface {
	// Tell says what happened. It must not block.
	Tell(Event)
	// Confirm asks a question of yes or no; ErrNobody when nobody is there.
	Confirm(ctx context.Context, question string) (bool, error)
	// Paste waits for an address the person pastes; ErrNobody when nobody can. What
	// it gives is a secret.
	Paste(ctx context.Context) (string, error)
}

// ErrNobody is a Person's answer when there is none.
var ErrNobody = errors.New("nobody is here to answer")

// Secret is a key or token. It redacts itself wherever it is printed.
type Secret string

// String hides it.
func (Secret) String() string { return "[redacted]" }

// GoString hides it.
func (Secret) GoString() string { return "[redacted]" }

// LogValue hides it.
func (Secret) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalText hides it.
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// Config is what Run works with. Host, Name and Person are required.
type Config struct {
	Host   Host
	Name   string // the host as the person types it
	Person Person
	Method Method
	Secret Secret // for APIKey and AccessToken
	// Open opens a page in the browser of this machine; nil, or an error of its,
	// leaves that to the person.
	Open func(ctx context.Context, url string) error
	// Known reports whether a site is one that this machine knows to log in at. A
	// host names the page, and might name any: others are shown, and left to the
	// person. Nil knows all.
	Known func(site string) bool
	// HasCodex and TowlinePath are what is there to log in with. Door: it is
	// Towline's own SSH door, which runs nothing else.
	HasCodex    bool
	TowlinePath string
	Door        bool
	// CodexHome is where Codex keeps its credentials there.
	CodexHome string
	// Lost says, as a *config.Problem, that the connection is over; nil while it is
	// not. May be nil.
	Lost func() error
	Log  *slog.Logger

	ports [2]int // for tests
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.ports == [2]int{} {
		c.ports = [2]int{FirstPort, SecondPort}
	}
	return c
}

func (c Config) hasTowline() bool { return c.Door || c.TowlinePath != "" }

// problem is one of this package's, with what to type next.
func problem(exit int, err error, hints ...string) *config.Problem {
	return &config.Problem{Stage: Stage, Err: err, Hints: hints, Exit: exit}
}
