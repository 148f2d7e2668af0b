package bootstrap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"towline/config"
	"towline/launcher/remote"
)

// Input is what a program run on a host has for standard input.
type Input string

// The inputs.
const (
	// InputNone: nothing. The channel's own input only says that we are still
	// there: the program, and all it started, ends with it, and a minute after it
	// fell silent. Standard error comes with standard output.
	InputNone Input = "none"
	// InputLine: the first line that is sent, whole, and then its end. A line that
	// does not come in full is not passed on, so that a cut link leaves no half of a
	// key in a store. It goes through no argument, environment or file.
	InputLine Input = "line"
	// InputAll: the channel's, as it comes.
	InputAll Input = "all"
)

// beatEvery is how often InputNone shows that we are there, and silentAfter, in
// seconds, when the other side gives us up: a link may be lost without a word.
const (
	beatEvery   = 15 * time.Second
	silentAfter = 60
)

// Program is a command to run on a host.
type Program struct {
	Path  string // absolute
	Args  []string
	Env   map[string]string // above the login environment
	Input Input             // "" is InputNone
}

// Run runs a program on a host as the person would at a prompt there: in the
// environment of their login shell, in their home folder. ctx bounds its start
// only; Close of the Process ends it, and with InputNone all it started. Errors
// are *config.Problem.
func Run(ctx context.Context, r Remote, rep Report, pr Program) (remote.Process, error) {
	return runSilent(ctx, r, rep, pr, silentAfter)
}

// runSilent is Run with another patience with silence, in seconds.
func runSilent(ctx context.Context, r Remote, rep Report, pr Program, silent int) (remote.Process, error) {
	o := rep.o.withDefaults()
	if rep.Door || !path.IsAbs(pr.Path) {
		return nil, &config.Problem{
			Stage: remote.StageStart, Err: fmt.Errorf("there is no %s to run on this host", printable(pr.Path)), Exit: config.ExitUnavailable,
			Hints: []string{"see what is there: `towline doctor " + o.host() + "`"},
		}
	}
	if pr.Input == "" {
		pr.Input = InputNone
	}
	extra, err := exports(rep, Choice{Env: pr.Env})
	if err != nil {
		return nil, &config.Problem{Stage: remote.StageStart, Err: err, Hints: []string{"check SetEnv in ssh_config"}, Exit: config.ExitConfig}
	}
	words := make([]string, len(pr.Args))
	for i, a := range pr.Args {
		if strings.ContainsRune(a, 0) {
			return nil, &config.Problem{Stage: remote.StageStart, Err: errors.New("an argument holds a zero byte"), Exit: config.ExitUsage}
		}
		words[i] = shellQuote(a)
	}
	t, err := start(ctx, r, o, "run", []variable{
		{"tl_bin", pr.Path},
		{"tl_input", string(pr.Input)},
		{"tl_envt", seconds(o.EnvTimeout)},
		{"tl_silent", strconv.Itoa(silent)},
		{"", extra + "set -- " + strings.Join(words, " ") + "\n"},
	}, remote.ExecOptions{})
	if err != nil {
		return nil, err
	}
	var opened Opened
	if _, err := begun(t, o, &opened); err != nil {
		t.close()
		return nil, err
	}
	if err := t.free(); err != nil {
		defer t.close()
		return nil, t.lost(err)
	}
	p := &program{t: t, out: t.r, over: make(chan struct{})}
	if pr.Input == InputNone {
		p.wg.Go(p.beat)
	}
	return p, nil
}

// program is a running Program.
type program struct {
	t    *talk
	out  *bufio.Reader // what follows the script's last word
	once sync.Once
	over chan struct{}
	wg   sync.WaitGroup
}

// beat shows the other side that we are there, until Close.
func (p *program) beat() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := io.WriteString(p.t.p.Stdin(), "\n"); err != nil {
				return // the channel is over
			}
		case <-p.over:
			return
		}
	}
}

func (p *program) Stdin() io.WriteCloser { return p.t.p.Stdin() }
func (p *program) Stdout() io.Reader     { return p.out }

// Stderr gives nothing: what the program said there is kept, bounded, for
// LastWords. Reading it twice would lose half.
func (p *program) Stderr() io.Reader { return strings.NewReader("") }

// LastWords is the end of what the program said on standard error, stripped of
// control characters.
func (p *program) LastWords() string { return p.t.lastWords() }

func (p *program) Wait() error { return p.t.p.Wait() }

func (p *program) Close() error {
	p.once.Do(func() {
		close(p.over)
		p.t.close()
	})
	p.wg.Wait()
	return nil
}
