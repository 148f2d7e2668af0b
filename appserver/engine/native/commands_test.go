package native_test

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"towline/appserver/engine/native/sandbox"
	"towline/appserver/protocol"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

type execResult struct {
	ExitCode       int
	Stdout, Stderr string
}

var unconfined = map[string]any{"type": "dangerFullAccess"}

func TestCommandExec(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	run := func(p map[string]any) (out execResult) {
		t.Helper()
		if p["sandboxPolicy"] == nil {
			p["sandboxPolicy"] = unconfined
		}
		c.read(c.call("command/exec", p), &out)
		return out
	}
	for name, tc := range map[string]struct {
		p    map[string]any
		want execResult
	}{
		"both streams": {map[string]any{"command": []string{"sh", "-c", "pwd; echo err >&2; exit 3"}}, execResult{3, h.cwd + "\n", "err\n"}},
		"folder":       {map[string]any{"command": []string{"pwd"}, "cwd": "/"}, execResult{0, "/\n", ""}},
		"environment": {map[string]any{
			"command": []string{"sh", "-c", "echo $NEW-${LEFT-gone}"}, "env": map[string]any{"NEW": "v", "LEFT": nil},
		}, execResult{0, "v-gone\n", ""}},
		"out of time": {map[string]any{"command": []string{"sleep", "60"}, "timeoutMs": 50}, execResult{124, "", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := run(tc.p); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
	long := run(map[string]any{"command": []string{"sh", "-c", "yes | head -c 100000"}, "outputBytesCap": 1000})
	if len(long.Stdout) > 2000 {
		t.Errorf("%d bytes came back, the cap was 1000", len(long.Stdout))
	}
	for text, p := range map[string]map[string]any{
		"requires a client-supplied processId": {"command": []string{"sh"}, "tty": true},
		"must not be empty":                    {"command": []string{}},
		"size requires tty":                    {"command": []string{"sh"}, "size": map[string]int{"rows": 1, "cols": 1}},
		"both timeoutMs and disableTimeout":    {"command": []string{"sh"}, "timeoutMs": 1, "disableTimeout": true},
		"failed to spawn command":              {"command": []string{"no-such-program-here"}, "sandboxPolicy": unconfined},
		"unknown permission profile":           {"command": []string{"sh"}, "permissionProfile": ":all"},
		"cwd is not a directory":               {"command": []string{"sh"}, "cwd": "/nowhere"},
	} {
		c.refused("command/exec", p, text)
	}
}

// needSandbox skips, or in CI fails, a test of confinement on a machine that
// cannot confine.
func needSandbox(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := sandbox.New(self, slog.New(slog.DiscardHandler)).Check(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("NOT TESTED, this machine cannot confine programs: %v", err)
	}
}

func TestCommandExecIsConfined(t *testing.T) {
	needSandbox(t)
	h := start(t, nil)
	c := h.connect()
	outside := filepath.Join(filepath.Dir(h.cwd), "outside")
	var got execResult
	c.read(c.call("command/exec", map[string]any{
		"command": []string{"sh", "-c", "echo in > inside; echo out > " + outside}, "env": map[string]string{"TMPDIR": "/nonexistent"},
		"sandboxPolicy": map[string]any{"type": "workspaceWrite", "excludeSlashTmp": true, "excludeTmpdirEnvVar": true},
	}), &got)
	if got.ExitCode == 0 {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("a confined command wrote outside of its folder")
	}
	if _, err := os.Stat(filepath.Join(h.cwd, "inside")); err != nil {
		t.Error(err)
	}
}

// output joins the deltas a process sent.
func (c *client) output(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, n := range c.notes {
		if strings.HasSuffix(n.Method, "/outputDelta") && protocol.StringField(n.Params, "processId")+protocol.StringField(n.Params, "processHandle") == id {
			raw, _ := base64.StdEncoding.DecodeString(protocol.StringField(n.Params, "deltaBase64"))
			b.Write(raw)
		}
	}
	return b.String()
}

func (c *client) until(id, text string) {
	c.t.Helper()
	c.wait(0, text, func(note) bool { return false || c.has(id, text) })
}

func (c *client) has(id, text string) bool {
	// wait holds the lock while it looks, so the notes are read as they are.
	var b strings.Builder
	for _, n := range c.notes {
		if protocol.StringField(n.Params, "processId")+protocol.StringField(n.Params, "processHandle") == id {
			raw, _ := base64.StdEncoding.DecodeString(protocol.StringField(n.Params, "deltaBase64"))
			b.Write(raw)
		}
	}
	return strings.Contains(b.String(), text)
}

func TestATerminalForAClient(t *testing.T) {
	h := start(t, nil)
	c, other := h.connect(), h.connect()
	done := make(chan json.RawMessage, 1)
	go func() {
		raw, _ := c.try("command/exec", map[string]any{
			"command": []string{"sh", "-c", `stty size; read a; echo "got $a"; stty size; read b`}, "sandboxPolicy": unconfined,
			"processId": "p1", "tty": true, "size": map[string]int{"rows": 11, "cols": 33}, "env": map[string]string{"TERM": "dumb"},
		})
		done <- raw
	}()
	c.until("p1", "11 33")
	c.refused("command/exec", map[string]any{"command": []string{"true"}, "processId": "p1"}, `duplicate active command/exec process id: "p1"`)
	other.refused("command/exec/write", map[string]any{"processId": "p1", "deltaBase64": b64("x\n")}, `no active command/exec for process id "p1"`)
	c.refused("command/exec/write", map[string]any{"processId": "p1", "deltaBase64": "%"}, "valid base64")
	c.call("command/exec/resize", map[string]any{"processId": "p1", "size": map[string]int{"rows": 22, "cols": 44}})
	c.call("command/exec/write", map[string]any{"processId": "p1", "deltaBase64": b64("typed\n")})
	c.until("p1", "got typed")
	c.until("p1", "22 44")
	c.call("command/exec/terminate", map[string]any{"processId": "p1"})
	var got execResult
	c.read(<-done, &got)
	if got != (execResult{ExitCode: 137}) {
		t.Errorf("result = %+v", got)
	}
	c.refused("command/exec/terminate", map[string]any{"processId": "p1"}, `no active command/exec`)
}

func TestProcessSpawn(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	c.call("process/spawn", map[string]any{
		"command": []string{"sh", "-c", "echo one; cat; echo two >&2; exit 5"}, "cwd": h.cwd, "processHandle": "a", "streamStdin": true,
	})
	c.refused("process/spawn", map[string]any{"command": []string{"true"}, "cwd": h.cwd, "processHandle": "a"}, "duplicate active process handle")
	c.call("process/writeStdin", map[string]any{"processHandle": "a", "deltaBase64": b64("fed\n"), "closeStdin": true})
	var got struct {
		ExitCode         int
		Stdout, Stderr   string
		StdoutCapReached bool
	}
	c.read(c.method(0, "process/exited").Params, &got)
	if got.ExitCode != 5 || got.Stdout != "one\nfed\n" || got.Stderr != "two\n" || got.StdoutCapReached {
		t.Errorf("exited = %+v", got)
	}
	from := c.mark()
	c.call("process/spawn", map[string]any{
		"command": []string{"sh", "-c", "yes"}, "cwd": h.cwd, "processHandle": "a", "streamStdoutStderr": true, "outputBytesCap": 10,
	})
	c.wait(from, "cap", func(n note) bool { return strings.Contains(string(n.Params), `"capReached":true`) })
	c.call("process/kill", map[string]any{"processHandle": "a"})
	c.read(c.method(from, "process/exited").Params, &got)
	if got.ExitCode != 137 || got.Stdout != "" {
		t.Errorf("exited = %+v", got)
	}
	if out := strings.TrimPrefix(c.output("a"), "one\nfed\n"); len(out) != 10 {
		t.Errorf("%d bytes were streamed past a cap of 10", len(out))
	}
	c.refused("process/spawn", map[string]any{"command": []string{"true"}, "cwd": "rel", "processHandle": "b"}, "AbsolutePathBuf")
	c.refused("process/writeStdin", map[string]any{"processHandle": "a", "deltaBase64": ""}, "no active process")
}

func TestProcessesDieWithTheirConnection(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	pidFile := filepath.Join(h.cwd, "pid")
	c.call("process/spawn", map[string]any{
		"command": []string{"sh", "-c", "echo $$ > pid.tmp; mv pid.tmp pid; echo up; exec sleep 600"}, "cwd": h.cwd, "processHandle": "a", "streamStdoutStderr": true,
	})
	c.until("a", "up")
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	c.close()
	for end := time.Now().Add(patience); syscall.Kill(pid, 0) == nil; {
		if time.Now().After(end) {
			t.Fatalf("process %d outlived its connection", pid)
		}
		time.Sleep(time.Millisecond) // the kernel has no event for somebody else's child
	}
}

func TestFiles(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	path := func(names ...string) string { return filepath.Join(append([]string{h.cwd}, names...)...) }
	c.call("fs/createDirectory", map[string]any{"path": path("a", "b")})
	c.refused("fs/createDirectory", map[string]any{"path": path("x", "y"), "recursive": false}, "No such file or directory (os error 2)")
	c.call("fs/writeFile", map[string]any{"path": path("a", "f"), "dataBase64": b64("text\x00")})
	c.refused("fs/writeFile", map[string]any{"path": path("a", "f"), "dataBase64": "%%"}, "valid base64")
	if raw := c.call("fs/readFile", map[string]any{"path": path("a", "f")}); protocol.StringField(raw, "dataBase64") != b64("text\x00") {
		t.Errorf("read %s", raw)
	}
	if err := os.Symlink("f", path("a", "link")); err != nil {
		t.Fatal(err)
	}
	var meta struct {
		IsDirectory, IsFile, IsSymlink bool
		ModifiedAtMs                   int64
	}
	c.read(c.call("fs/getMetadata", map[string]any{"path": path("a", "link")}), &meta)
	if meta.IsDirectory || !meta.IsFile || !meta.IsSymlink || meta.ModifiedAtMs == 0 {
		t.Errorf("metadata = %+v", meta)
	}
	raw := c.call("fs/readDirectory", map[string]any{"path": path("a")})
	for _, want := range []string{`{"fileName":"b","isDirectory":true,"isFile":false}`, `{"fileName":"link","isDirectory":false,"isFile":true}`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s is missing in %s", want, raw)
		}
	}
	c.refused("fs/copy", map[string]any{"sourcePath": path("a"), "destinationPath": path("c")}, "requires recursive: true")
	c.refused("fs/copy", map[string]any{"sourcePath": path("a"), "destinationPath": path("a", "b", "c"), "recursive": true}, "into itself")
	c.call("fs/copy", map[string]any{"sourcePath": path("a"), "destinationPath": path("c"), "recursive": true})
	if b, err := os.ReadFile(path("c", "link")); err != nil || string(b) != "text\x00" {
		t.Errorf("copy holds %q, %v", b, err)
	}
	c.refused("fs/remove", map[string]any{"path": path("c"), "recursive": false}, "os error")
	c.call("fs/remove", map[string]any{"path": path("c")})
	c.call("fs/remove", map[string]any{"path": path("c")})
	c.refused("fs/remove", map[string]any{"path": path("c"), "force": false}, "No such file or directory (os error 2)")
	c.refused("fs/readFile", map[string]any{"path": "rel"}, "AbsolutePathBuf")
	c.refused("fs/readFile", map[string]any{"path": "/dev/zero"}, "regular files only")
	c.refused("fs/readDirectory", map[string]any{"path": path("none")}, "No such file or directory (os error 2)")
}
