package native

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"towline/appserver/engine/native/agent"
	"towline/appserver/engine/native/tool/exec"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// shellTimeout is how long a shell command may take when its sender names no
// other limit, as in Codex.
const shellTimeout = time.Hour

// shellDeltas bounds the output streamed for one shell command, in bytes; the
// item keeps head and tail of the rest.
const shellDeltas = 1 << 20

// shellCommand runs what a person typed after "!": outside the sandbox, as part
// of the running turn or as a turn of its own.
func (c *conn) shellCommand(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		Command   string `json:"command"`
		TimeoutMs *int64 `json:"timeoutMs"`
	}
	if err := decode(r, &p, "threadId", "command"); err != nil {
		return nil, err
	}
	limit := shellTimeout
	if p.TimeoutMs != nil {
		if *p.TimeoutMs < 0 {
			return nil, protocol.Errorf("Invalid request: timeoutMs must not be negative")
		}
		limit = time.Duration(*p.TimeoutMs) * time.Millisecond
	}
	return nil, c.with(p.ThreadID, func(l *live) error {
		cwd := l.settings().Cwd
		if l.turn == nil {
			return l.run(false, func(string) { r.Reply(nil) }, func(ctx context.Context, id string) agent.Outcome {
				l.shell(ctx, id, p.Command, cwd, limit)
				if ctx.Err() != nil {
					return agent.Outcome{Status: protocol.TurnInterrupted}
				}
				return agent.Outcome{Status: protocol.TurnCompleted}
			})
		}
		// The turn may end before the command does: its item then completes late,
		// under the turn's id.
		turn := l.turn.id
		l.shells.Add(1)
		l.typed++
		if !l.e.spawn(func() {
			defer l.shells.Done()
			defer l.typedEnded()
			l.shell(l.e.life, turn, p.Command, cwd, limit)
		}) {
			l.shells.Done()
			l.typed--
			return draining()
		}
		r.Reply(nil)
		return nil
	})
}

func (l *live) typedEnded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.typed--
}

// shell runs one command and blocks until it ended. It dies with ctx and with
// the thread's processes.
func (l *live) shell(ctx context.Context, turnID, command, cwd string, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	argv := []string{loginShell(), "-lc", command}
	it := protocol.Item{ID: uuid.NewString(), StartedAtMs: l.e.now().UnixMilli()}
	body := protocol.CommandExecution{
		Command: argv[0] + " -lc " + quote(command), Cwd: cwd, Source: "userShell", Status: protocol.ItemInProgress,
		CommandActions: []protocol.CommandAction{{Type: "unknown", Command: command}},
	}
	started := body
	it.Body = &started
	l.ItemStarted(turnID, it)

	streamed := 0
	p, err := l.procs.Start(ctx, exec.Command{
		Argv: argv, Cwd: cwd, Policy: protocol.SandboxPolicy{Type: protocol.PolicyFullAccess}, MergeOutput: true,
		OnOutput: func(_ string, chunk []byte) {
			if streamed += len(chunk); streamed > shellDeltas {
				return
			}
			l.Notify("item/commandExecution/outputDelta", map[string]any{
				"threadId": l.id, "turnId": turnID, "itemId": it.ID, "delta": string(chunk),
			})
		},
	})
	var out string
	var took int64
	code := -1
	if err != nil {
		out = err.Error()
	} else {
		<-p.Done()
		out, _ = p.Output()
		code, took = p.ExitCode(), p.Duration().Milliseconds()
	}
	body.AggregatedOutput, body.ExitCode, body.DurationMs = &out, &code, &took
	if body.Status = protocol.ItemCompleted; code != 0 {
		body.Status = protocol.ItemFailed
	}
	it.Body = &body
	it.CompletedAtMs = l.e.now().UnixMilli()
	l.ItemCompleted(turnID, it)
	l.hear(command, out, code, took)
}

// maxHeardOutput is how many bytes of each end of an output the model is told.
const maxHeardOutput = 8 << 10

// hear makes a shell command part of the conversation: people expect to be able
// to talk about what they have just run. The form is the one models trained for
// Codex know.
func (l *live) hear(command, out string, code int, tookMs int64) {
	if len(out) > 2*maxHeardOutput {
		out = strings.ToValidUTF8(out[:maxHeardOutput], "") + "\n…\n" + strings.ToValidUTF8(out[len(out)-maxHeardOutput:], "")
	}
	note := fmt.Sprintf("<user_shell_command>\n<command>\n%s\n</command>\n<result>\nExit code: %d\nDuration: %.4f seconds\nOutput:\n%s\n</result>\n</user_shell_command>",
		command, code, float64(tookMs)/1000, out)
	if err := l.session.Note(l, note); err != nil {
		l.e.log.Error("shell command not made part of the conversation", "thread", l.id, "err", err)
	}
}

// loginShell is bash, or what every Unix has.
func loginShell() string {
	if _, err := os.Stat("/bin/bash"); err == nil {
		return "/bin/bash"
	}
	return "/bin/sh"
}

// quote makes one shell word of s.
func quote(s string) string {
	out := []byte{'\''}
	for i := range len(s) {
		if s[i] == '\'' {
			out = append(out, `'\''`...)
			continue
		}
		out = append(out, s[i])
	}
	return string(append(out, '\''))
}
