package sandbox

import (
	"errors"
	"io"
	"log/slog"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"towline/appserver/protocol"
	"towline/config"
)

func TestWritable(t *testing.T) {
	ws, outside := project(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	for link, to := range map[string]string{"out": outside, "file": outside + "/precious", "dangling": outside + "/none", "in": ws + "/sub", "git": ws + "/.git", "loop": ws + "/loop"} {
		if err := os.Symlink(to, filepath.Join(ws, link)); err != nil {
			t.Fatal(err)
		}
	}
	more := workspace
	more.WritableRoots = []string{outside, "relative/ignored"}
	git := workspace
	git.WritableRoots = []string{ws + "/.git"}
	noTmp := workspace
	noTmp.ExcludeTmpdirEnvVar = true
	slashTmp := protocol.SandboxPolicy{Type: protocol.PolicyWorkspaceWrite}
	for name, tc := range map[string]struct {
		policy protocol.SandboxPolicy
		path   string
		want   bool
	}{
		"inside":              {workspace, ws + "/new", true},
		"relative":            {workspace, "a/b/c", true},
		"root itself":         {workspace, ws, true},
		"outside":             {workspace, outside + "/new", false},
		"dots":                {workspace, "../outside/new", false},
		"similar name":        {workspace, ws + "2/new", false},
		"symlinked directory": {workspace, "out/new", false},
		"symlinked file":      {workspace, "file", false},
		"dangling symlink":    {workspace, "dangling", false},
		"dangling, deeper":    {workspace, "dangling/x/y", false},
		"symlink inside":      {workspace, "in/new", true},
		"symlink loop":        {workspace, "loop/x", false},
		"git folder":          {workspace, ".git/hooks/pre-commit", false},
		"git by symlink":      {workspace, "git/config", false},
		"git elsewhere":       {workspace, "sub/.git/config", true},
		"gitignore":           {workspace, ".gitignore", true},
		"missing control":     {workspace, ".agents/x", false},
		"further root":        {more, outside + "/new", true},
		"further root, link":  {more, "out/new", true},
		"explicit git":        {git, ".git/config", true},
		"tmpdir":              {workspace, tmp + "/x", true},
		"tmpdir excluded":     {noTmp, tmp + "/x", false},
		"slash tmp":           {slashTmp, "/tmp/towline-x", true},
		"slash tmp excluded":  {workspace, "/tmp/towline-x", false},
		"read-only":           {readOnly, ws + "/new", false},
		"full":                {protocol.SandboxPolicy{Type: protocol.PolicyFullAccess}, "/etc/passwd", true},
		"external":            {protocol.SandboxPolicy{Type: protocol.PolicyExternal}, "/etc/passwd", true},
		"unknown policy":      {protocol.SandboxPolicy{Type: "tomorrow"}, ws + "/new", false},
		"no policy":           {protocol.SandboxPolicy{}, ws + "/new", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Writable(tc.policy, ws, tc.path); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestNetworkAllowed(t *testing.T) {
	for _, tc := range []struct {
		typ    string
		access any
		want   bool
	}{
		{protocol.PolicyFullAccess, nil, true},
		{protocol.PolicyFullAccess, false, true},
		{protocol.PolicyReadOnly, nil, false},
		{protocol.PolicyReadOnly, true, true},
		{protocol.PolicyWorkspaceWrite, false, false},
		{protocol.PolicyWorkspaceWrite, "yes", false},
		{protocol.PolicyExternal, nil, false},
		{protocol.PolicyExternal, "restricted", false},
		{protocol.PolicyExternal, "enabled", true},
		{"", nil, false},
	} {
		if got := NetworkAllowed(protocol.SandboxPolicy{Type: tc.typ, NetworkAccess: tc.access}); got != tc.want {
			t.Errorf("%s with %v: %v", tc.typ, tc.access, got)
		}
	}
}

func TestDenied(t *testing.T) {
	for _, tc := range []struct {
		code   int
		output string
		want   bool
	}{
		{0, "Permission denied", false},
		{1, "sh: cannot create /x: Read-only file system", true},
		{1, "mkdir: Permission denied", true},
		{6, "curl: (6) Could not resolve host: example.com", true},
		{1, "Error: listen EPERM", true},
		{159, "", true},
		{1, "assertion failed", false},
		{2, "permission denied", false},
		{127, "sh: x: Permission denied", false},
		{1, "Permission denied" + strings.Repeat("x", 1<<20), false},
		{ExitHelper, complaint + "permission denied", false},
	} {
		if got := Denied(tc.code, tc.output); got != tc.want {
			t.Errorf("Denied(%d, %.40q) = %v", tc.code, tc.output, got)
		}
	}
}

// TestNothingRestrictedRunsWithoutAHelper has a binary that is no helper: the
// answer must be a refusal with hints, not an unconfined run.
func TestNothingRestrictedRunsWithoutAHelper(t *testing.T) {
	r := New("/bin/false", slog.New(slog.DiscardHandler))
	var p *config.Problem
	if err := r.Check(); !errors.As(err, &p) || len(p.Hints) == 0 {
		t.Fatalf("got %v", err)
	}
	cmd := osexec.Command("/bin/true")
	if err := r.Confine(cmd, readOnly); err == nil {
		t.Error("confined by nothing")
	}
	if err := r.Confine(cmd, protocol.SandboxPolicy{Type: protocol.PolicyFullAccess}); err != nil || cmd.Path != "/bin/true" {
		t.Errorf("full access: %v, %s", err, cmd.Path)
	}
	if err := r.Confine(cmd, protocol.SandboxPolicy{Type: protocol.PolicyExternal, NetworkAccess: "enabled"}); err != nil || cmd.Path != "/bin/true" {
		t.Errorf("external: %v, %s", err, cmd.Path)
	}
}

func TestHelperExplainsItself(t *testing.T) {
	for name, args := range map[string][]string{
		"typed by hand": {}, "no json": {"{", "--", "true"}, "no program": {`{"program":"/towline/none"}`, "--", "none"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := osexec.Command(self(t), append([]string{Command}, args...)...)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != ExitHelper || !strings.HasPrefix(string(out), complaint) {
				t.Errorf("%v: %q", err, out)
			}
		})
	}
}

func BenchmarkStart(b *testing.B) {
	r := runner(b)
	for _, bc := range []struct {
		name   string
		policy protocol.SandboxPolicy
		mounts bool
	}{
		{"direct", protocol.SandboxPolicy{Type: protocol.PolicyFullAccess}, true},
		{"landlock", workspace, false},
		{"namespaces", workspace, true},
	} {
		b.Run(bc.name, func(b *testing.B) {
			r := r
			if !bc.mounts {
				r = New(r.self, r.log)
				r.probe.Do(func() {})
			}
			for b.Loop() {
				cmd := &osexec.Cmd{Path: "/bin/true", Args: []string{"true"}, Dir: "/", Env: []string{}, Stderr: io.Discard}
				if err := r.Confine(cmd, bc.policy); err != nil {
					b.Fatal(err)
				}
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
