package rehearsal

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

const (
	toolExec  = "exec_command"
	toolStdin = "write_stdin"

	maxPolls   = 30    // how often a command that is still running is looked after
	shownLines = 12    // of a command's output, in the summary
	readTokens = 20000 // asked for when a file is read to be edited
)

// execArgs are the arguments of exec_command and write_stdin that are used.
type execArgs struct {
	Cmd           string `json:"cmd"`
	Workdir       string `json:"workdir,omitempty"`
	TTY           bool   `json:"tty,omitempty"`
	Login         *bool  `json:"login,omitempty"`
	YieldMs       int    `json:"yield_time_ms,omitempty"`
	MaxTokens     int    `json:"max_output_tokens,omitempty"`
	Permissions   string `json:"sandbox_permissions,omitempty"`
	Justification string `json:"justification,omitempty"`
}

// plainShell keeps what login scripts print out of a file that is read to be
// edited. What a person asks to run gets the client's usual shell.
func plainShell() *bool { return new(bool) }

type stdinArgs struct {
	Session int    `json:"session_id"`
	Chars   string `json:"chars"`
	YieldMs int    `json:"yield_time_ms,omitempty"`
}

// function makes a call whose arguments are JSON.
func function(name string, args any) toolCall {
	b, err := json.Marshal(args)
	if err != nil {
		b = []byte("{}") // only our own structs come here
	}
	return toolCall{name: name, input: string(b)}
}

// result is what a command's output says.
type result struct {
	ran     bool // false: refused, rejected, failed to start; output is why
	exit    int
	running bool
	session int
	output  string
}

var resultHead = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^Process (exited with code (-?\d+)|running with session ID (\d+))`)
})

// parseResult reads the text form of Codex: some header lines, one of which says
// how the process stands, then "Output:" and the output.
func parseResult(s string) result {
	head, output, found := strings.Cut(s, "\nOutput:\n")
	if !found {
		if head, found = strings.CutSuffix(s, "\nOutput:"); !found {
			return result{output: strings.TrimSpace(s)}
		}
	}
	m := resultHead().FindStringSubmatch(head)
	if m == nil {
		return result{output: strings.TrimSpace(s)}
	}
	r := result{ran: true, output: output}
	if m[3] != "" {
		r.running = true
		r.session, _ = strconv.Atoi(m[3]) // digits by the pattern
	} else {
		r.exit, _ = strconv.Atoi(m[2])
	}
	return r
}

// finished gathers the outputs of the last command and of the looks after it,
// and says what to do while it runs: nil when it ended (or there is none).
func (c *conversation) finished() (result, *toolCall) {
	var r result
	polls := 0
	for _, k := range c.calls {
		switch k.name {
		case toolExec:
			r, polls = parseResult(k.output), 0
		case toolStdin:
			polls++
			next := parseResult(k.output)
			next.output = r.output + next.output
			r = next
		}
	}
	if r.running && polls < maxPolls && c.tools.has(toolStdin) {
		poll := function(toolStdin, stdinArgs{Session: r.session, YieldMs: 10000})
		return r, &poll
	}
	return r, nil
}

// wants splits off what a person says about how to run a command.
type wants struct {
	escalated, tty, background bool
	workdir                    string
}

var manner = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)[\s,(]*\b(outside (?:of )?(?:the |my )?sandbox|with (?:an |my )?approval|with escalat(?:ed|ion)\w*(?: permissions)?|escalated|unsandboxed|ask(?:ing)? (?:me )?first|in the background|in a terminal|with a (?:tty|terminal|pty))\b[\s,.)]*`)
})

var inFolder = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile("^(`[^`]+`|``.+?``)\\s+in\\s+(?:the folder\\s+|the directory\\s+)?(\\S+)$")
})

// command reads the command out of what follows "run".
func command(s string) (string, wants) {
	var w wants
	s = manner().ReplaceAllStringFunc(s, func(m string) string {
		switch m = strings.ToLower(m); {
		case strings.Contains(m, "background"):
			w.background = true
		case strings.Contains(m, "terminal"), strings.Contains(m, "ty"):
			w.tty = true
		default:
			w.escalated = true
		}
		return " "
	})
	s = strings.TrimSpace(s)
	s = strings.TrimPrefix(strings.TrimPrefix(s, "the command "), "command ")
	if m := inFolder().FindStringSubmatch(s); m != nil {
		s, w.workdir = m[1], fileName(m[2])
	}
	if strings.HasPrefix(s, "```") { // a fenced block: its lines are a script
		s = strings.TrimSuffix(strings.TrimPrefix(s, "```"), "```")
		if lang, body, ok := strings.Cut(s, "\n"); ok && !strings.Contains(lang, " ") {
			s = body
		}
		return strings.TrimSpace(s), w
	}
	if u := unquote(s); u != s {
		return u, w
	}
	// A full stop after a word ends a sentence, "./..." does not.
	if n := len(s); n > 1 && s[n-1] == '.' && (s[n-2] >= 'a' && s[n-2] <= 'z' || s[n-2] >= '0' && s[n-2] <= '9') {
		s = s[:n-1]
	}
	return s, w
}

func run(c *conversation, m []string) reply {
	cmd, w := command(m[1])
	return c.run(cmd, w)
}

// run starts a command, looks after it until it ends, and reports.
func (c *conversation) run(cmd string, w wants) reply {
	if !c.tools.has(toolExec) {
		return c.lacks(toolExec, "run "+span(cmd))
	}
	if c.count(toolExec) == 0 {
		args := execArgs{Cmd: cmd, Workdir: w.workdir, TTY: w.tty}
		if w.background {
			args.YieldMs = 250
		}
		text := "I'll run " + span(cmd) + "."
		if w.escalated {
			args.Permissions = "require_escalated"
			args.Justification = "You asked the rehearsal model to run this outside the sandbox. Allow it?"
			text = "I'll ask to run " + span(cmd) + " outside the sandbox."
		}
		return reply{text: label + text, calls: []toolCall{function(toolExec, args)}}
	}
	r, poll := c.finished()
	if poll != nil && !w.background {
		return reply{calls: []toolCall{*poll}}
	}
	return reply{text: label + report(cmd, r)}
}

// report says in words what a command did, with the output it really had.
func report(cmd string, r result) string {
	switch {
	case !r.ran:
		return span(cmd) + " did not run. I was told:\n\n" + fence("text", clip(r.output, 2000))
	case r.running:
		return fmt.Sprintf("%s is still running (session %d).\n\n%s", span(cmd), r.session, excerpt(r.output))
	}
	how := "ended well (exit code 0)"
	if r.exit != 0 {
		how = fmt.Sprintf("failed with exit code **%d**", r.exit)
	}
	return span(cmd) + " " + how + ". " + excerpt(r.output)
}

// excerpt is the start of a command's output with how long it is.
func excerpt(out string) string {
	out = strings.TrimRight(strings.ReplaceAll(out, "\r\n", "\n"), "\n")
	if strings.TrimSpace(out) == "" {
		return "It printed nothing."
	}
	lines := strings.Split(out, "\n")
	if len(lines) <= shownLines {
		n := fmt.Sprintf("It printed %d lines:", len(lines))
		if len(lines) == 1 {
			n = "It printed:"
		}
		return n + "\n\n" + fence("text", clip(out, 4000))
	}
	return fmt.Sprintf("It printed %d lines, the first of which are:\n\n%s", len(lines), fence("text", clip(strings.Join(lines[:shownLines], "\n"), 4000)))
}

// lacks says that a tool was not offered.
func (c *conversation) lacks(tool, to string) reply {
	return reply{text: label + "I would " + to + ", but the client did not offer me the " + span(tool) + " tool." +
		"\n\nClients offer tools by model name; the one I know works is " + span(Slug) + "."}
}

func runTests(c *conversation, _ []string) reply {
	return c.run(`if [ -f go.mod ]; then go test ./...; elif [ -f package.json ]; then npm test; elif [ -f Cargo.toml ]; then cargo test; elif [ -f Makefile ]; then make test; else echo "no tests found here"; exit 1; fi`, wants{})
}

func listFiles(c *conversation, m []string) reply {
	_, w := command(m[1])
	dir := ""
	if _, in, ok := strings.Cut(m[1], " in "); ok {
		dir = " -- " + shellQuote(fileName(in))
	}
	return c.run("ls -la"+dir, w)
}

func search(c *conversation, m []string) reply {
	what, w := command(m[1])
	return c.run("grep -rnI --exclude-dir=.git -e "+shellQuote(what)+" . | head -n 40", w)
}

func readFile(c *conversation, m []string) reply {
	return c.run("cat -- "+shellQuote(fileName(m[1])), wants{})
}

func longOutput(c *conversation, _ []string) reply {
	return c.run(`i=1; while [ $i -le 400 ]; do echo "line $i of 400: the quick brown fox jumps over the lazy dog"; i=$((i+1)); done`, wants{})
}

// runAndType starts a program on a terminal and writes to it.
func runAndType(c *conversation, m []string) reply {
	cmd, w := command(m[1])
	typed := unquote(m[2])
	if !c.tools.has(toolExec) || !c.tools.has(toolStdin) {
		return c.lacks(toolStdin, "run "+span(cmd)+" and type into it")
	}
	if c.count(toolExec) == 0 {
		args := execArgs{Cmd: cmd, TTY: true, YieldMs: 500, Workdir: w.workdir}
		return reply{text: label + "I'll run " + span(cmd) + " in a terminal and type into it.", calls: []toolCall{function(toolExec, args)}}
	}
	r, _ := c.finished()
	chars := ""
	switch c.count(toolStdin) {
	case 0:
		chars = typed + "\n"
	case 1:
		chars = "\x04" // end of input
	case 2:
		chars = "\x03" // interrupt
	}
	if r.running && chars != "" {
		return reply{calls: []toolCall{function(toolStdin, stdinArgs{Session: r.session, Chars: chars, YieldMs: 500})}}
	}
	return reply{text: label + report(cmd, r)}
}

// parallel starts several commands in one response.
func parallel(c *conversation, m []string) reply {
	_, w := command(m[0][strings.Index(m[0], m[1])+len(m[1]):])
	var cmds []string
	for _, p := range splitList(m[1]) {
		cmd, own := command(p)
		w.escalated = w.escalated || own.escalated
		if cmd != "" && len(cmds) < 8 {
			cmds = append(cmds, cmd)
		}
	}
	if !c.tools.has(toolExec) {
		return c.lacks(toolExec, "run those commands")
	}
	if c.count(toolExec) == 0 {
		r := reply{text: fmt.Sprintf("%sI'll run %d commands at once.", label, len(cmds))}
		for _, cmd := range cmds {
			args := execArgs{Cmd: cmd}
			if w.escalated {
				args.Permissions, args.Justification = "require_escalated", "One of several commands the rehearsal model was asked to run at once. Allow it?"
			}
			r.calls = append(r.calls, function(toolExec, args))
		}
		return r
	}
	var b strings.Builder
	b.WriteString(label + "All commands were answered:\n\n")
	for _, k := range c.calls {
		var args execArgs
		if k.name != toolExec || json.Unmarshal([]byte(k.input), &args) != nil {
			continue
		}
		r := parseResult(k.output)
		first, _, _ := strings.Cut(strings.TrimSpace(r.output), "\n")
		switch {
		case !r.ran:
			fmt.Fprintf(&b, "- %s did not run: %s\n", span(args.Cmd), clip(first, 200))
		case r.running:
			fmt.Fprintf(&b, "- %s is still running\n", span(args.Cmd))
		default:
			fmt.Fprintf(&b, "- %s: exit code %d, %s\n", span(args.Cmd), r.exit, span(clip(first, 120)))
		}
	}
	return reply{text: b.String()}
}

// splitList splits "a, b and c"; parts in backticks are kept whole.
func splitList(s string) []string {
	if strings.Count(s, "`") >= 2 {
		var out []string
		for i, p := range strings.Split(s, "`") {
			if i%2 == 1 {
				out = append(out, "`"+p+"`")
			}
		}
		return out
	}
	var out []string
	for _, p := range strings.Split(strings.ReplaceAll(strings.ReplaceAll(s, ", and ", ","), " and ", ","), ",") {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, p)
		}
	}
	return out
}

// shellQuote makes s one word of a shell command.
func shellQuote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./=:,@%+", r))
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
