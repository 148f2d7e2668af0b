package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/integration/peer"
)

// execRun is one `towline exec`, or one `codex exec`, that runs or has ended.
type execRun struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	code int

	mu  sync.Mutex // guards what follows
	out bytes.Buffer
	err bytes.Buffer
}

// startExec starts a program with nothing on its standard input.
func startExec(t *testing.T, dir string, env []string, argv ...string) *execRun {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*peer.Patience)
	r := &execRun{t: t, done: make(chan struct{})}
	r.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	r.cmd.Dir, r.cmd.Env = dir, env
	r.cmd.Stdout, r.cmd.Stderr = lockedWriter{&r.mu, &r.out}, lockedWriter{&r.mu, &r.err}
	if err := r.cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		defer cancel()
		err := r.cmd.Wait()
		var exit *exec.ExitError
		if r.code = 0; errors.As(err, &exit) {
			r.code = exit.ExitCode()
		} else if err != nil {
			r.code = -1
		}
	}()
	t.Cleanup(func() { cancel(); <-r.done })
	return r
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// said is what it has printed so far.
func (r *execRun) said() (stdout, stderr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.String(), r.err.String()
}

// until waits until its standard output, or standard error, holds text.
func (r *execRun) until(text string) {
	r.t.Helper()
	for end := time.Now().Add(peer.Patience); ; time.Sleep(20 * time.Millisecond) {
		out, errs := r.said()
		if strings.Contains(out, text) || strings.Contains(errs, text) {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("it never said %q, but\n%s\n%s", text, out, errs)
		}
	}
}

// ended waits for its end and gives its lines and status.
func (r *execRun) ended() (lines []string, code int) {
	r.t.Helper()
	<-r.done
	out, _ := r.said()
	return strings.Split(strings.TrimSpace(out), "\n"), r.code
}

// execResult is the part of a result record that tests look at.
type execResult struct {
	Type      string `json:"type"`
	Status    string `json:"status"`
	ExitCode  int    `json:"exit_code"`
	ThreadID  string `json:"thread_id"`
	Message   string `json:"message"`
	Approvals []struct {
		Decision string `json:"decision"`
		By       *struct {
			Name string `json:"name"`
			Role string `json:"role"`
		} `json:"by"`
	} `json:"approvals"`
	Commands []struct {
		ExitCode *int `json:"exit_code"`
	} `json:"commands"`
	Reconnects int `json:"reconnects"`
}

// result is the last line, which must be a result that agrees with the status.
func (r *execRun) result() execResult {
	r.t.Helper()
	lines, code := r.ended()
	var res execResult
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &res); err != nil || res.Type != "result" || res.ExitCode != code {
		_, errs := r.said()
		r.t.Fatalf("status %d, %v; it said\n%s\n%s", code, err, strings.Join(lines, "\n"), errs)
	}
	return res
}

// towlineExec starts `towline exec --json` with a home.
func towlineExec(t *testing.T, home, dir string, env []string, args ...string) *execRun {
	t.Helper()
	return startExec(t, dir, append(append(peer.Environ(t), "TOWLINE_HOME="+home), env...), append([]string{peer.Binary(t), "exec", "--json"}, args...)...)
}

var (
	execID     = regexp.MustCompile(`"thread_id":"[0-9a-f-]+"`)
	execTokens = regexp.MustCompile(`(_tokens":)[0-9]+`)
)

// shape is a line with what differs from run to run taken out: the id of the thread,
// the folder, and with tokens false how many there were.
func shape(line, dir string, tokens bool) string {
	line = execID.ReplaceAllString(line, `"thread_id":"T"`)
	if !tokens {
		line = execTokens.ReplaceAllString(line, "${1}0")
	}
	return strings.ReplaceAll(line, dir, "DIR")
}

// gitFolder is a folder with a repository.
func gitFolder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "git", "init", "-q", dir).CombinedOutput(); err != nil {
		t.Fatalf("git init: %v\n%s", err, out)
	}
	return dir
}

// The same script of the model's, once by `codex exec --json` and once by `towline
// exec --json` with the same Codex behind it: every line is the same, byte for byte,
// but for the thread's id; ours has one more.
func TestExecSaysWhatCodexExecSays(t *testing.T) {
	t.Parallel()
	peer.Need(t, "git")
	newest := peer.Codexes(t)[0].Version
	peer.EachCodex(t, func(t *testing.T, c peer.Codex) {
		t.Parallel()
		env := peer.CodexEnv(t, peer.Rehearsal(t))
		home := t.TempDir()
		if err := os.WriteFile(filepath.Join(home, "config.toml"), fmt.Appendf(nil, "[engine]\nkind = \"codex\"\n[engine.codex]\nbinary = %q\n", c.Bin), 0o600); err != nil {
			t.Fatal(err)
		}
		schema := filepath.Join(home, "schema.json")
		if err := os.WriteFile(schema, []byte(`{"type":"object","properties":{"title":{"type":"string"}},"required":["title"],"additionalProperties":false}`), 0o600); err != nil {
			t.Fatal(err)
		}
		scripts := [][]string{
			{"-s", "workspace-write", "show me around"}, // thoughts, a plan, files, what is refused unasked
			{"-s", "workspace-write", "run echo out; exit 3"},
			{"fail"},
			{"think about tea"},
			{"--output-schema", schema, "name this"},
			{"-m", "gpt-fake", "say hello"}, // a warning before the turn
		}
		if c.Version != newest {
			scripts = scripts[:3]
		}
		for _, args := range scripts {
			ours, theirs := gitFolder(t), gitFolder(t)
			files := [2]string{filepath.Join(home, "ours"), filepath.Join(home, "theirs")}
			a := towlineExec(t, home, ours, env, append([]string{"-o", files[0]}, args...)...)
			res := a.result()
			b := startExec(t, theirs, env, append([]string{c.Bin, "exec", "--json", "-o", files[1]}, args...)...)
			got, code := a.ended()
			want, wantCode := b.ended()
			got = got[:len(got)-1]
			if code != wantCode || res.ExitCode != code {
				t.Errorf("%v: status %d, Codex's is %d", args, code, wantCode)
			}
			for i := range max(len(got), len(want)) {
				var g, w string
				if i < len(got) {
					g = shape(got[i], ours, false)
				}
				if i < len(want) {
					w = shape(want[i], theirs, false)
				}
				if g != w {
					t.Errorf("%v: line %d is\n%s\nCodex's is\n%s", args, i, g, w)
				}
			}
			first, _ := os.ReadFile(files[0]) // absent after a failure, with either
			second, _ := os.ReadFile(files[1])
			if string(first) != string(second) {
				t.Errorf("%v: the last message is %q, Codex's %q", args, first, second)
			}
		}
	})
}

// The native engine tells the same story: the same events about the same things in
// the same order.
func TestExecOfTheNativeEngineSaysTheSame(t *testing.T) {
	t.Parallel()
	peer.Need(t, "git")
	c := peer.Codexes(t)[0]
	env := peer.CodexEnv(t, peer.Rehearsal(t))
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte("[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, prompt := range []string{"show me around", "run exit 3", "fail"} {
		ours, theirs := gitFolder(t), gitFolder(t)
		a := towlineExec(t, home, ours, env, "-s", "workspace-write", prompt)
		a.result()
		b := startExec(t, theirs, env, c.Bin, "exec", "--json", "-s", "workspace-write", prompt)
		got, code := a.ended()
		want, wantCode := b.ended()
		got = got[:len(got)-1]
		if code != wantCode || len(got) != len(want) {
			t.Errorf("%s: status %d and %d lines, Codex's %d and %d:\n%s", prompt, code, len(got), wantCode, len(want), strings.Join(got, "\n"))
			continue
		}
		for i := range got {
			if g, w := shape(got[i], ours, false), shape(want[i], theirs, false); members(t, g) != members(t, w) {
				t.Errorf("%s: line %d is\n%s\nCodex's is\n%s", prompt, i, g, w)
			}
		}
	}
}

// members are the names and types of a line, with the values that machines branch on.
func members(t *testing.T, line string) string {
	t.Helper()
	var out []string
	var walk func(name string, v any)
	walk = func(name string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				walk(name+"."+k, v[k])
			}
		case []any:
			for _, one := range v {
				walk(name+"[]", one)
			}
		case string:
			last := name[strings.LastIndexByte(name, '.')+1:]
			if last == "type" || last == "status" || last == "kind" || last == "id" {
				name += "=" + v
			}
			out = append(out, name)
		case bool:
			out = append(out, fmt.Sprint(name, "=", v))
		default:
			out = append(out, fmt.Sprintf("%s %T", name, v))
		}
	}
	var v any
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	walk("", v)
	return strings.Join(out, "\n")
}

// A run is watched and approved from elsewhere while it runs; the record says by
// whom, whatever engine does the work.
func TestExecApprovedFromElsewhere(t *testing.T) {
	t.Parallel()
	eachEngineOnce(t, func(t *testing.T, h *peer.Host) {
		for decision, want := range map[string]struct {
			command, status string
			code            int
		}{
			"accept":  {"approve", "completed", 0},
			"decline": {"deny", "completed", 0}, // the agent goes on without
		} {
			r := towlineExec(t, h.Home, h.Project, nil, "--approval", "on-request", "run touch "+decision+" outside the sandbox")
			r.until("waiting for an answer")
			env := append(peer.Environ(t), "TOWLINE_HOME="+h.Home)
			list := startExec(t, h.Project, env, peer.Binary(t), "approvals", "list", "--json")
			lines, _ := list.ended()
			id := regexp.MustCompile(`"id": ?"([0-9a-f-]{36})"`).FindStringSubmatch(strings.Join(lines, "\n"))
			if id == nil {
				t.Fatalf("approvals list said %s", lines)
			}
			if _, code := startExec(t, h.Project, env, peer.Binary(t), "approvals", want.command, id[1]).ended(); code != 0 {
				t.Fatalf("approvals %s ended with status %d", want.command, code)
			}
			res := r.result()
			if res.Status != want.status || res.ExitCode != want.code || len(res.Approvals) != 1 || res.Approvals[0].Decision != decision || res.Approvals[0].By == nil {
				t.Errorf("%s: %+v", decision, res)
			}
			if _, err := os.Stat(filepath.Join(h.Project, decision)); (err == nil) != (decision == "accept") {
				t.Errorf("%s: the file: %v", decision, err)
			}
		}
	})
}

// A link that is cut in the middle of a turn and comes back: nothing is missing, and
// nothing is there twice. Under a Towline the stream outlives it; a stock Codex ends
// the connection, and the run reads what it missed.
func TestExecSurvivesACut(t *testing.T) {
	t.Parallel()
	c := peer.Codexes(t)[0]
	for name, serve := range map[string]func(t *testing.T) (addr, dir string){
		"towline": func(t *testing.T) (string, string) {
			h := peer.Start(t, peer.HostConfig{Args: []string{"--listen", "ws://127.0.0.1:0"}})
			return strings.TrimPrefix(h.WS(), "ws://"), h.Project
		},
		"stock codex": func(t *testing.T) (string, string) { return stockServer(t, c), gitFolder(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, dir := serve(t)
			link := peer.NewLink(t, addr)
			r := towlineExec(t, t.TempDir(), dir, nil, "--remote", "ws://"+link.Addr, "-C", dir, "-s", "danger-full-access", "run sleep 3; echo the-end")
			r.until(`"type":"command_execution"`)
			link.Cut()
			r.until("connection is lost")
			if name == "stock codex" {
				time.Sleep(4 * time.Second) // the command ends meanwhile: that is the test
			}
			link.Mend()
			res := r.result()
			if res.Status != "completed" || !strings.Contains(res.Message, "the-end") || res.Reconnects != 1 || len(res.Commands) != 1 {
				t.Errorf("%+v", res)
			}
			lines, _ := r.ended()
			var ids []string
			for _, l := range lines {
				if m := regexp.MustCompile(`"type":"item.completed","item":{"id":"(item_[0-9]+)"`).FindStringSubmatch(l); m != nil {
					ids = append(ids, m[1])
				}
			}
			if strings.Join(ids, " ") != "item_0 item_1 item_2" {
				t.Errorf("completed are %v in\n%s", ids, strings.Join(lines, "\n"))
			}
		})
	}
}

// stockServer is a codex app-server on a loopback port.
func stockServer(t *testing.T, c peer.Codex) (addr string) {
	t.Helper()
	cmd := exec.Command(c.Bin, "app-server", "--listen", "ws://127.0.0.1:0") //nolint:noctx // ended below
	cmd.Env, cmd.Dir = peer.CodexEnv(t, peer.Rehearsal(t)), t.TempDir()
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := make(chan string, 1)
	go func() { // ends with the process
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			if m := regexp.MustCompile(`ws://(127\.0\.0\.1:[0-9]+)`).FindStringSubmatch(lines.Text()); m != nil {
				select {
				case found <- m[1]:
				default:
				}
			}
		}
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	select {
	case addr = <-found:
	case <-time.After(peer.Patience):
		t.Fatal("codex app-server does not say where it listens")
	}
	return addr
}

// A host of the ssh configuration: the same command with --host, the same record, and
// what does not work has the statuses of any connection.
func TestExecOnAHost(t *testing.T) {
	t.Parallel()
	l, u := peer.NewLaptop(t), installed(t)
	s := peer.StartOpenSSH(t, peer.OpenSSH{NoForwarding: true})
	l.Reach("dev", s, u)
	u.Mkdir("src/shop")
	r := l.Towline("exec", "--json", "--host", "dev", "-C", "~/src/shop", "write made.txt with ahoy")
	if r.Code != 0 || !strings.Contains(r.Stdout, `"status":"completed"`) || !strings.Contains(r.Stdout, `"cwd":"`+u.Path("src/shop")+`"`) {
		t.Fatalf("%+v", r)
	}
	if b, err := os.ReadFile(u.Path("src/shop/made.txt")); err != nil || strings.TrimSpace(string(b)) != "ahoy" {
		t.Errorf("made.txt: %q, %v", b, err)
	}
	id := l.Towline("exec", "--host", "dev", "--detach", "count to 6 slowly")
	if id.Code != 0 {
		t.Fatalf("%+v", id)
	}
	if w := l.Towline("wait", strings.TrimSpace(id.Stdout), "--host", "dev"); w.Code != 0 || !strings.Contains(w.Stdout, "6 done") {
		t.Errorf("%+v", w)
	}
	if w := l.Towline("exec", "--host", "dev", "-C", "src/shop", "hello"); w.Code != 2 {
		t.Errorf("a relative folder: %+v", w)
	}
	s.Stop()
	if w := l.Towline("exec", "--json", "--host", "dev", "hello"); w.Code != 4 || !strings.Contains(w.Stdout, `"status":"not_started"`) {
		t.Errorf("no server: %+v", w)
	}
}

// The cron job of docs/ci.md, as it stands there.
func TestCronExampleOfTheDocumentation(t *testing.T) {
	t.Parallel()
	peer.Need(t, "git", "jq")
	doc, err := os.ReadFile("../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(doc), "```sh\n#!/bin/sh\n")
	script, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("docs/ci.md has no such script any more")
	}
	home, project := t.TempDir(), gitFolder(t)
	for name, text := range map[string]string{
		"bin/nightly":         "#!/bin/sh\n" + script,
		"towline/config.toml": "[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(home, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o700); err != nil { //nolint:gosec // a script
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(home, "towline/config.toml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(peer.Binary(t), filepath.Join(home, "bin/towline")); err != nil {
		t.Fatal(err)
	}
	for prompt, want := range map[string]int{"run echo fine": 0, "fail": 1} {
		env := []string{"HOME=" + home, "TOWLINE_HOME=" + filepath.Join(home, "towline"), "PROJECT=" + project, "PROMPT=" + prompt}
		r := startExec(t, home, env, filepath.Join(home, "bin/nightly"))
		_, code := r.ended()
		out, errs := r.said()
		if code != want || (out == "") != (want == 0) {
			t.Errorf("%s: status %d\n%s%s", prompt, code, out, errs)
		}
		if want == 0 {
			if b, err := os.ReadFile(filepath.Join(home, ".local/state/nightly/last.md")); err != nil || !strings.Contains(string(b), "ended well") {
				t.Errorf("last.md: %q, %v", b, err)
			}
		} else if !strings.Contains(out, "towline attach 0") || !strings.Contains(out, "error: turn:") {
			t.Errorf("cron would mail %q", out)
		}
	}
}
