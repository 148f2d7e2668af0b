package agent

import (
	"path/filepath"
	"strings"
	"sync"
	"time"

	"towline/appserver/engine/native/sandbox"
	"towline/appserver/engine/native/tool/exec"
	"towline/appserver/protocol"
)

// Bounds of commands.
const (
	defaultYield      = 10 * time.Second
	minYield          = 250 * time.Millisecond
	maxYield          = 30 * time.Second
	maxDeltaBytes     = 1 << 20 // output streamed for one command; the item keeps head and tail of the rest
	maxUnread         = 64      // exited background commands the model has not read to the end
	maxCommandBytes   = 256 << 10
	maxJustification  = 2000
	sourceAgent       = "agent"
	sourceUnifiedExec = "unifiedExecStartup"
)

// execArgs are the arguments of exec_command, as Codex names them.
type execArgs struct {
	Cmd           *string  `json:"cmd"`
	Workdir       string   `json:"workdir"`
	Shell         string   `json:"shell"`
	Login         *bool    `json:"login"`
	TTY           bool     `json:"tty"`
	Yield         float64  `json:"yield_time_ms"`
	MaxTokens     float64  `json:"max_output_tokens"`
	Permissions   string   `json:"sandbox_permissions"`
	Justification string   `json:"justification"`
	PrefixRule    []string `json:"prefix_rule"`
}

// command is one commandExecution item and the process behind it.
type command struct {
	t    *turn
	args execArgs
	argv []string
	// instead is the id of the process this one repeats; "" for a first try.
	instead string

	// typing is held while input is sent and told of, so that the item completes
	// after clients heard what ended it. Taken before mu.
	typing sync.Mutex

	// mu guards what follows; it is held over the start of the process, so that
	// the item is announced before its first output.
	mu     sync.Mutex
	item   protocol.Item
	body   protocol.CommandExecution
	deltas int

	proc      *exec.Process // set before the command is shared
	announced bool
	ended     chan struct{} // closed when the item is completed, or another process goes on with it
}

// over reports whether the process is gone; c.proc must be set.
func (c *command) over() bool {
	select {
	case <-c.proc.Done():
		return true
	default:
		return false
	}
}

// execCommand runs a command: asks first where the rules want it, waits a
// while, and leaves what still runs to write_stdin.
func (t *turn) execCommand(call *call) result {
	var a execArgs
	if err := call.decode(&a); err != nil {
		return text("%v", err)
	}
	if a.Cmd == nil {
		return text("failed to parse function arguments: missing field `cmd`")
	}
	if len(*a.Cmd) > maxCommandBytes || strings.ContainsRune(*a.Cmd, 0) {
		return text("exec_command failed: the command is too long or holds a zero byte")
	}
	c := t.newCommand(call.id, a)
	escalated := a.Permissions == "require_escalated" && sandbox.Restricted(t.Sandbox)
	if escalated && t.Approval == protocol.ApproveNever {
		return text("approval policy is never; rejected: escalated permissions cannot be asked for under it")
	}
	policy := t.Sandbox
	if escalated {
		policy = protocol.SandboxPolicy{Type: protocol.PolicyFullAccess}
	}
	if t.mustAsk(c, escalated) {
		c.announce(sourceAgent)
		v := t.approveCommand(c, reasonFor(a, escalated), escalated)
		if out, ok := c.refused(v); !ok {
			return out
		}
	}
	return t.runCommand(c, policy, escalated)
}

func (t *turn) newCommand(id string, a execArgs) *command {
	cwd := t.Cwd
	if a.Workdir != "" {
		cwd = a.Workdir
		if !filepath.IsAbs(cwd) {
			cwd = filepath.Join(t.Cwd, cwd)
		}
	}
	argv := []string{shellFor(a.Shell), "-lc", *a.Cmd}
	if a.Login != nil && !*a.Login {
		argv[1] = "-c"
	}
	return &command{
		t: t, args: a, argv: argv, ended: make(chan struct{}),
		item: protocol.Item{ID: id},
		body: protocol.CommandExecution{
			Command: shellJoin(argv), Cwd: cwd, Source: sourceUnifiedExec, Status: protocol.ItemInProgress,
			CommandActions: actions(*a.Cmd, cwd),
		},
	}
}

func reasonFor(a execArgs, escalated bool) *string {
	if !escalated || a.Justification == "" {
		return nil
	}
	r := cut(a.Justification, maxJustification)
	return &r
}

// announce tells clients of the item, once.
func (c *command) announce(source string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.announceLocked(source)
}

func (c *command) announceLocked(source string) {
	if c.announced {
		return
	}
	c.announced = true
	c.body.Source = source
	body := c.body
	c.item.Body = &body
	c.t.started(&c.item)
}

// complete ends the item with what the process left, or with status and output
// when there was none.
func (c *command) complete(status, output string, exit *int) {
	c.typing.Lock()
	defer c.typing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.body.Status = status
	if c.proc != nil {
		out, _ := c.proc.Output()
		ms := c.proc.Duration().Milliseconds()
		code := c.proc.ExitCode()
		c.body.DurationMs, c.body.ExitCode = &ms, &code
		if out != "" {
			c.body.AggregatedOutput = &out
		}
		if status == "" {
			c.body.Status = protocol.ItemCompleted
			if code != 0 {
				c.body.Status = protocol.ItemFailed
			}
		}
	} else if exit != nil {
		zero := int64(0)
		c.body.AggregatedOutput, c.body.DurationMs, c.body.ExitCode = &output, &zero, exit
	}
	body := c.body
	c.item.Body = &body
	c.t.completed(&c.item)
	close(c.ended)
}

// refused ends a command that may not run. ok is true when it may.
func (c *command) refused(v verdict) (out result, ok bool) {
	switch v.kind {
	case verdictAllow:
		return result{}, true
	case verdictDecline:
		c.complete(protocol.ItemDeclined, "", nil)
		return text("exec_command failed: rejected by user%s", v.because()), false
	case verdictCancel:
		c.complete(protocol.ItemDeclined, "", nil)
		c.t.cancel(errCancelled)
		return text(abortedByUser), false
	case verdictAborted:
		c.complete(protocol.ItemFailed, "", nil)
		return text(abortedByUser), false
	default:
		c.complete(protocol.ItemFailed, "", nil)
		return text("exec_command failed: the approval request was not answered: %s", v.reason), false
	}
}

// runCommand starts the process and reports what happened within the yield time.
func (t *turn) runCommand(c *command, policy protocol.SandboxPolicy, escalated bool) result {
	began := t.s.cfg.Clock()
	if err := c.start(policy); err != nil {
		code := -1
		c.announce(sourceUnifiedExec)
		c.complete(protocol.ItemFailed, err.Error(), &code)
		return text("exec_command failed: %v", err)
	}
	got, exited := c.proc.Take(t.ctx, yieldTime(c.args.Yield, defaultYield, minYield, maxYield), 0)
	if t.ctx.Err() != nil {
		c.proc.Kill()
		<-c.proc.Done()
		c.complete("", "", nil)
		return text("Wall time: %.1f seconds\n%s", t.s.cfg.Clock().Sub(began).Seconds(), abortedByUser)
	}
	if !exited {
		t.s.keep(c)
		return text("%s", report(t.s.cfg.Clock().Sub(began), nil, c.proc.ID(), got, c.args.MaxTokens))
	}
	code := c.proc.ExitCode()
	out := report(c.proc.Duration(), &code, "", got, c.args.MaxTokens)
	if t.Approval == protocol.ApproveUntrusted || t.Approval == protocol.ApproveNever ||
		escalated || !sandbox.Restricted(policy) || !sandbox.Denied(code, got) {
		c.complete("", "", nil)
		return text("%s", out)
	}
	return t.retryUnconfined(c, policy, out)
}

// retryUnconfined offers to run again, without the sandbox, a command that the
// sandbox made fail. Saying no is no refusal: the command did run.
func (t *turn) retryUnconfined(c *command, policy protocol.SandboxPolicy, out string) result {
	reason := "The sandbox blocked this command. Run it again without the sandbox?"
	if !t.allowedCommand(c, true) {
		v := t.approveCommand(c, &reason, true)
		if v.kind != verdictAllow {
			c.complete("", "", nil)
			switch v.kind {
			case verdictCancel:
				t.cancel(errCancelled)
			case verdictDecline:
				out += "\n(The user declined to run it again without the sandbox" + v.because() + ")"
			}
			return text("%s", out)
		}
	}
	close(c.ended) // the item goes on under another process
	again := t.newCommand(c.item.ID, c.args)
	again.announced, again.item, again.instead = true, c.item, c.proc.ID()
	return t.runCommand(again, protocol.SandboxPolicy{Type: protocol.PolicyFullAccess}, true)
}

// start runs the process and announces it.
func (c *command) start(policy protocol.SandboxPolicy) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.t.s.cfg.Exec.Start(c.t.s.life, exec.Command{
		Argv: c.argv, Cwd: c.body.Cwd, TTY: c.args.TTY, Policy: policy, MergeOutput: true, Instead: c.instead,
		OnOutput: func(_ string, chunk []byte) { c.output(chunk) },
	})
	if err != nil {
		return err
	}
	c.proc = p
	id := p.ID()
	c.body.ProcessID = &id
	c.announceLocked(sourceUnifiedExec)
	c.body.Source = sourceUnifiedExec // also of one that was announced for its approval
	c.t.mu.Lock()
	c.t.spawned = append(c.t.spawned, c)
	c.t.mu.Unlock()
	return nil
}

// output streams one chunk. exec cuts at character boundaries, so what is not
// UTF-8 here never was.
func (c *command) output(chunk []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deltas >= maxDeltaBytes {
		return
	}
	c.deltas += len(chunk)
	c.t.notify("item/commandExecution/outputDelta", deltaNote{
		ThreadID: c.t.s.cfg.ThreadID, TurnID: c.t.ID, ItemID: c.item.ID,
		Delta: strings.ToValidUTF8(string(chunk), "\uFFFD"),
	})
}

// keep makes a command that outlived its call reachable for write_stdin and
// completes its item when it ends, in whichever turn that is.
func (s *Session) keep(c *command) {
	s.mu.Lock()
	s.commands[c.proc.ID()] = c
	unread := 0
	for id, old := range s.commands {
		if old != c && old.over() {
			if unread++; unread > maxUnread {
				delete(s.commands, id)
			}
		}
	}
	s.mu.Unlock()
	s.work.Go(func() {
		<-c.proc.Done()
		c.complete("", "", nil)
	})
}

// killSpawned ends the turn's commands and waits until their items are complete.
func (t *turn) killSpawned() {
	t.mu.Lock()
	list := t.spawned
	t.mu.Unlock()
	if t.ctx.Err() == nil {
		return // a failed turn is no reason to end what it started
	}
	for _, c := range list {
		c.proc.Kill()
	}
	for _, c := range list {
		<-c.ended
	}
}
