package systemssh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"towline/config"
	"towline/launcher/remote"
)

// pollInterval is how often a login looks for its control socket between ssh's
// lines.
const pollInterval = 20 * time.Millisecond

// authPatience is how long ssh may be silent while it authenticates: a security
// key waits for a finger, a push for a phone. Servers give up after two minutes.
const authPatience = 150 * time.Second

// login is one ssh on its way to being logged in. One goroutine, in run, does
// all of it.
type login struct {
	c       Config
	r       release
	dir     *rundir
	asking  *asking
	child   *child
	track   *progress
	words   chan string   // ssh's stderr, until over
	over    chan struct{} // closed when the login is: the rest of the words go to after
	after   *tail
	last    string // the stage after the last one ssh tells of
	apart   *spool // the remote command's stderr, where ssh mixes it with its own
	scratch string // the known_hosts file in front; "" for none

	save     bool           // a key was accepted for good
	attempts map[string]int // prompts seen
	f        failure
}

// newLogin makes the private folder and the socket for questions.
func newLogin(c Config, r release) (*login, error) {
	dir, err := newRundir(c.RuntimeDir)
	if err != nil {
		return nil, &config.Problem{
			Stage: remote.StageDial, Err: fmt.Errorf("make a folder for sockets: %w", err),
			Hints: []string{"set XDG_RUNTIME_DIR or TMPDIR to a folder of yours with a short name"}, Exit: config.ExitConfig,
		}
	}
	l := &login{
		c: c, r: r, dir: dir, words: make(chan string, 64), over: make(chan struct{}), after: &tail{}, last: remote.StageAuth,
		attempts: map[string]int{}, f: failure{target: c.Target},
	}
	if l.asking, err = newAsking(dir.path, c.Self); err != nil {
		dir.remove()
		return nil, &config.Problem{
			Stage: remote.StageDial, Err: fmt.Errorf("listen for ssh's questions: %w", err),
			Hints: []string{"check that " + filepath.Dir(dir.path) + " is on a local disk with space left"},
		}
	}
	t := c.Target
	if c.Ask != nil && t.StrictHostKeyChecking == "ask" && len(t.UserKnownHosts) > 0 && !slices.ContainsFunc(t.UserKnownHosts, unquotable) && !isKnown(t) {
		scratch := dir.file("k")
		if err := os.WriteFile(scratch, nil, 0o600); err == nil {
			l.scratch = scratch
		}
	}
	return l, nil
}

// unquotable says that a path cannot stand in a list of files on ssh's command
// line, or is not a path.
func unquotable(path string) bool {
	return path == "" || path == "none" || strings.ContainsAny(path, "\"\n")
}

// start runs ssh. On an error nothing is left of the login.
func (l *login) start(args []string, pipes func(*exec.Cmd) error) error {
	l.track = newProgress(l.c.Target, l.last, l.c.Events, time.Now)
	var err error
	if l.child, err = startChild(l.c.Program, args, l.environ(), l.line, pipes); err != nil {
		l.asking.close()
		l.dir.remove()
		p := &config.Problem{
			Stage: remote.StageDial, Err: fmt.Errorf("run %s: %w", l.c.Program, err), Exit: config.ExitUnavailable,
			Hints: []string{"check that `" + l.c.Program + " -V` prints a version of OpenSSH"},
		}
		l.track.fail(p.Stage, p)
		return p
	}
	return nil
}

// environ is the environment of ssh.
func (l *login) environ() []string {
	extra := l.asking.environ()
	if !l.r.atLeast(8, 4) && os.Getenv("DISPLAY") == "" {
		extra = append(extra, "DISPLAY=:0") // before SSH_ASKPASS_REQUIRE only this makes ssh ask
	}
	return environ(extra...)
}

// line takes ssh's words while it runs, with their line ends.
func (l *login) line(raw string) {
	select {
	case <-l.over:
		l.late(raw)
		return
	default:
	}
	s := clean(raw)
	l.c.Log.Debug("ssh", "line", s)
	select {
	case l.words <- s:
	case <-l.over:
		l.after.add(s)
	}
}

// late takes what comes once the login is over. Without multiplexing the remote
// command's stderr comes the same way; ssh's own lines are those that begin with
// its debug prefix or end as ssh ends lines, in CR LF.
func (l *login) late(raw string) {
	if l.apart != nil {
		if !strings.HasSuffix(raw, "\r\n") {
			l.apart.write(raw)
			return
		}
		if i := strings.LastIndex(raw, "debug1: "); i > 0 { // behind a line the command did not end
			l.apart.write(raw[:i])
			raw = raw[i:]
		}
	}
	s := clean(raw)
	l.c.Log.Debug("ssh", "line", s)
	l.after.add(s)
}

// run waits until ready says that ssh is logged in. It consumes the login: on an
// error everything is ended, and the error is a *config.Problem.
func (l *login) run(ctx context.Context, ready func() (bool, error)) error {
	err := l.wait(ctx, ready)
	close(l.over)
	l.asking.close()
	if l.save && l.scratch != "" {
		if err := remember(l.scratch, l.c.Target.UserKnownHosts[0]); err != nil {
			l.c.Log.Warn("known_hosts was not written", "error", err)
			l.c.Events(remote.Event{Stage: remote.StageHostKey, Hop: destination(l.c.Target), Detail: true, Text: "the host key could not be saved: " + clean(err.Error())})
		}
	}
	if err == nil {
		l.track.finish()
		return nil
	}
	l.child.stop()
	l.dir.remove()
	var p *config.Problem
	if !errors.As(err, &p) {
		p = &config.Problem{Stage: l.track.where(), Err: err, Hints: []string{"connect again when you want to"}}
		if errors.Is(err, context.Canceled) {
			p.Exit = config.ExitInterrupted
		}
	}
	l.track.fail(p.Stage, p)
	return p
}

// answered is what came of asking a person.
type answered struct {
	q     question
	reply askReply
	err   error
	note  func(*login) // what the login must know of it
}

func (l *login) wait(ctx context.Context, ready func() (bool, error)) error {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	answers := make(chan answered, 1)
	person := false // is being asked
	var asks context.CancelFunc = func() {}
	defer func() {
		asks()
		if person {
			<-answers // the Asker has returned before we do
		}
	}()
	heard := time.Now()
	for {
		questions := l.asking.questions
		if person {
			questions = nil
		}
		select {
		case s := <-l.words:
			l.track.line(s)
			heard = time.Now()
		case q := <-questions:
			person = true
			var actx context.Context
			actx, asks = joined(ctx, q.ctx)
			l.put(actx, q, answers)
		case a := <-answers:
			person, heard = false, time.Now()
			asks()
			if err := l.take(a); err != nil {
				return err
			}
		case <-poll.C:
			if ok, err := ready(); ok || err != nil {
				l.drain()
				return err
			}
			if !person && time.Since(heard) > l.patience() {
				l.f.silence = true
				return l.failed(nil)
			}
		case <-l.child.done:
			l.drain()
			return l.failed(l.child.err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// joined is a context that ends with either of two.
func joined(a, b context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(a)
	stop := context.AfterFunc(b, func() { cancel(context.Cause(b)) })
	return ctx, func() { stop(); cancel(nil) }
}

// patience is how long ssh may be silent where it is.
func (l *login) patience() time.Duration {
	if l.track.where() == remote.StageAuth {
		return max(authPatience, l.c.Patience)
	}
	return l.c.Patience
}

// drain takes what ssh said before it ended.
func (l *login) drain() {
	for {
		select {
		case s := <-l.words:
			l.track.line(s)
		default:
			return
		}
	}
}

func (l *login) failed(err error) error {
	l.f.stage, l.f.hop, l.f.said = l.track.where(), l.track.hop, l.track.said
	l.f.hostKey, l.f.err = l.track.hostKey, err
	return l.f.problem()
}

// put asks a person, in a goroutine that answers on a channel with room.
func (l *login) put(ctx context.Context, q question, to chan<- answered) {
	p := parsePrompt(q.text, q.hint)
	hop, jump := destination(l.c.Target), q.parent != l.child.cmd.Process.Pid
	if jump && l.track.hop != "" {
		hop = l.track.hop
	}
	ask := l.c.Ask
	l.attempts[q.text]++
	attempt := l.attempts[q.text]
	if p.kind != promptNotice && ask != nil {
		l.c.Events(remote.Event{Stage: l.track.where(), Hop: hop, Text: waitText(p), Waiting: true})
	}
	if p.kind == promptHostKey {
		p.key.Hop = hop
		if len(l.c.Target.UserKnownHosts) > 0 && !jump {
			p.key.File = l.c.Target.UserKnownHosts[0]
		}
		if name, print, ok := strings.Cut(l.track.hostKey, " "); ok && print == p.key.Fingerprint {
			p.key.Type = name
		}
	}
	p.secret.Hop, p.secret.Attempt = hop, attempt
	scratch := l.scratch != "" && !jump // where what ssh remembers is ours to keep
	go func() {                         // waited for through the channel
		a := answered{q: q}
		switch {
		case ask == nil:
			a.err = remote.ErrNobody
		case p.kind == promptNotice:
			ask.Notice(hop, p.text)
			a.reply.OK = true
		case p.kind == promptHostKey:
			for _, text := range p.more {
				ask.Notice(hop, text)
			}
			var d remote.Decision
			d, a.err = ask.HostKey(ctx, p.key)
			a.reply, a.note = decided(d, scratch)
		default:
			a.reply.Answer, a.err = ask.Secret(ctx, p.secret)
			a.reply.OK = a.err == nil
			if p.kind == promptConfirm {
				yes := strings.ToLower(strings.TrimSpace(a.reply.Answer))
				a.reply.OK = a.err == nil && (yes == "y" || yes == "yes")
			} else {
				a.note = func(l *login) { l.f.asked = true }
			}
		}
		to <- a
	}()
}

func waitText(p prompt) string {
	if p.kind == promptHostKey {
		return "is this the right host? " + p.key.Fingerprint
	}
	return "waiting for " + strings.TrimRight(p.secret.Prompt, ": ")
}

// decided turns a decision about a host key into ssh's yes or no. ssh remembers a
// key it is told to trust, in the scratch file if there is one: then it can be
// for once.
func decided(d remote.Decision, scratch bool) (askReply, func(*login)) {
	yes, no := askReply{Answer: "yes", OK: true}, askReply{Answer: "no", OK: true}
	switch {
	case d == remote.AcceptSave:
		// Without a scratch file, as at a jump host, ssh itself remembers it.
		return yes, func(l *login) { l.save = l.save || scratch }
	case d == remote.AcceptOnce && scratch:
		return yes, nil
	case d == remote.AcceptOnce:
		return no, func(l *login) { l.f.refused, l.f.once = true, true }
	}
	return no, func(l *login) { l.f.refused = true }
}

// take passes a person's answer on to ssh. Nobody there is an answer too: ssh may
// have other ways to log in. Any other error ends the login.
func (l *login) take(a answered) error {
	switch {
	case a.err == nil:
		if a.note != nil {
			a.note(l)
		}
	case errors.Is(a.err, remote.ErrNobody):
		l.f.nobody = true
		a.reply = askReply{}
	case a.q.ctx.Err() != nil: // ssh gave up first, and says why itself
		return nil
	default:
		return a.err
	}
	a.q.reply <- a.reply
	return nil
}
