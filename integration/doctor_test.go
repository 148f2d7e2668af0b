package integration

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"towline/integration/peer"
	"towline/launcher"
	stage "towline/launcher/remote"
)

// What doctor says of a host that works: every stage with its time, and what
// would matter to an agent there.
func TestDoctorOfAHostThatWorks(t *testing.T) {
	t.Parallel()
	r := newRemote(t, peer.Account{Files: map[string]string{
		".bashrc":  "export PATH=\"$HOME/tools/bin:$PATH\"\nexport https_proxy=http://someone:hunter2@proxy.example:3128\n",
		".profile": ". ~/.bashrc\n",
	}}, peer.OpenSSH{})
	r.user.Rehearse()
	r.user.Place(peer.Binary(t), ".local/bin/towline")
	// Another that hangs, as on a dead file server, and one that is no program.
	r.user.Write("tools/bin/codex", "#!/bin/sh\nsleep 1000\n", 0o755)
	r.user.Write(".bun/bin/codex", "not a program", 0o755)

	d := doctor(t, r.laptop, "dev")
	if !d.OK {
		t.Fatalf("it fails: %+v", failedAt(d))
	}
	at := -1
	for _, want := range []string{
		stage.StageResolve, stage.StageDial, stage.StageHostKey, stage.StageAuth, stage.StageShell, stage.StageProbe,
		stage.StageFind, stage.StageVersion, stage.StageStart, stage.StageHandshake, stage.StageReady,
	} {
		i := slices.IndexFunc(d.Findings, func(f launcher.Finding) bool { return f.Stage == want })
		if i <= at {
			t.Errorf("%q comes at %d, after %d", want, i, at)
		}
		at = i
	}
	text := func(name string) string {
		for _, f := range d.Findings {
			if f.Name == name {
				return f.Text + " " + f.Cause + " " + strings.Join(f.Next, " ")
			}
		}
		return ""
	}
	if got := text("proxies"); !strings.Contains(got, "proxy.example:3128") || strings.Contains(got, "hunter2") {
		t.Errorf("proxies: %q", got)
	}
	for name, want := range map[string]string{
		"machine": "linux/", "login shell": "bash", "clock": "as this machine's", "disk": "free", "sandbox": "landlock",
		"login ports": "1455", "linger": "", "round trip": "", "engine": "native",
	} {
		if got := text(name); got == "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q does not say %q", name, got, want)
		}
	}
	if d.Report == nil || !slices.Contains(d.Report.PathSearched, r.user.Path("tools/bin")) {
		t.Errorf("what was searched: %+v", d.Report)
	}
	if d.Choice == nil || d.Choice.Candidate.Path != r.user.Path(".local/bin/towline") || d.Choice.Why == "" || len(d.Choice.Others) == 0 {
		t.Errorf("the choice: %+v", d.Choice)
	}
}

// A PATH that lacks everything is worked with and reported.
func TestBrokenPathIsReportedAndWorkedWith(t *testing.T) {
	t.Parallel()
	r := newRemote(t, peer.Account{Files: map[string]string{".bashrc": "export PATH=/nowhere\n", ".profile": ". ~/.bashrc\n"}}, peer.OpenSSH{})
	r.user.Rehearse()
	r.user.Place(peer.Binary(t), ".local/bin/towline")
	d := doctor(t, r.laptop, "dev")
	bad := failedAt(d)
	if bad == nil || bad.Name != "PATH" || len(bad.Next) == 0 {
		t.Errorf("%+v", bad)
	}
	if last := d.Findings[len(d.Findings)-1]; last.Stage != stage.StageReady || last.Status != launcher.FindingOK {
		t.Errorf("it is not ready: %+v", last)
	}
}

// Two programs: the choice is explained, and can be pinned.
func TestTheChoiceOfTwoCanBePinned(t *testing.T) {
	t.Parallel()
	r := newRemote(t, peer.Account{}, peer.OpenSSH{})
	r.user.Rehearse()
	r.user.Place(peer.Binary(t), ".local/bin/towline")
	other := r.user.Place(peer.Binary(t), "elsewhere/towline")
	r.laptop.Write(".config/towline/config.toml", "[hosts.dev]\ntowline = \""+other+"\"\n", 0o600)
	d := doctor(t, r.laptop, "dev")
	if d.Choice == nil || d.Choice.Candidate.Path != other {
		t.Errorf("pinned to %s, chosen: %+v, %+v", other, d.Choice, failedAt(d))
	}
	r.laptop.Write(".config/towline/config.toml", "[hosts.dev]\ntowline = \"/nowhere/towline\"\n", 0o600)
	d = doctor(t, r.laptop, "dev")
	if bad := failedAt(d); bad == nil || bad.Stage != stage.StageFind || !strings.Contains(bad.Cause, "/nowhere/towline") {
		t.Errorf("pinned to what is not there: %+v", bad)
	}
}

// Hosts are listed with what is there, also those that cannot be reached, and
// nothing that is no host.
func TestHostsAreListedAndChecked(t *testing.T) {
	t.Parallel()
	r := newRemote(t, peer.Account{}, peer.OpenSSH{})
	r.user.Rehearse()
	r.user.Place(peer.Binary(t), ".local/bin/towline")
	r.laptop.Configure("Host *\n  Include more\nHost gone\n  HostName 127.0.0.1\n  Port 1\nHost *.example.com !bad *\n  ServerAliveInterval 7\n")
	r.laptop.Write(".ssh/more", "Host included\n  HostName 127.0.0.1\n  Port 1\n", 0o600)
	out := r.laptop.Towline("hosts", "--json")
	for _, want := range []string{`"dev"`, `"gone"`, `"included"`, r.laptop.Path(".ssh/more")} {
		if !strings.Contains(out.Stdout, want) {
			t.Errorf("hosts lacks %s:\n%s%s", want, out.Stdout, out.Stderr)
		}
	}
	if strings.Contains(out.Stdout, "*") || strings.Contains(out.Stdout, "bad") {
		t.Errorf("hosts lists patterns:\n%s", out.Stdout)
	}
	began := time.Now()
	out = r.laptop.Towline("hosts", "--check")
	if !strings.Contains(out.Stdout, "towline") || !strings.Contains(out.Stdout, "refused") {
		t.Errorf("after %v:\n%s%s", time.Since(began), out.Stdout, out.Stderr)
	}
}

// No failure of a connection lacks a stage: wherever one is made, it has one.
func TestNoFailureOfAConnectionLacksAStage(t *testing.T) {
	files := token.NewFileSet()
	made := 0
	for _, dir := range []string{"launcher", "config/sshconfig"} {
		err := filepath.WalkDir(filepath.Join(root(t), dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "remotetest") {
				return err
			}
			f, err := parser.ParseFile(files, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				lit, ok := n.(*ast.CompositeLit)
				if !ok {
					return true
				}
				sel, ok := lit.Type.(*ast.SelectorExpr)
				if !ok || sel.Sel.Name != "Problem" {
					return true
				}
				made++
				for _, e := range lit.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok && kv.Key.(*ast.Ident).Name == "Stage" {
						return true
					}
				}
				t.Errorf("%s: a Problem without a Stage", files.Position(lit.Pos()))
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if made < 20 {
		t.Errorf("only %d places that make a Problem were found", made)
	}
}
