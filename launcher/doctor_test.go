package launcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

// finding is the first with that stage and name; name "" is any.
func finding(t *testing.T, d Diagnosis, stage, name string) Finding {
	t.Helper()
	for _, f := range d.Findings {
		if f.Stage == stage && (name == "" || f.Name == name) {
			return f
		}
	}
	t.Errorf("nothing was said about %q %q:\n%+v", stage, name, d.Findings)
	return Finding{}
}

// answering makes the far end of every stream an app-server that answers
// initialize and status.
func answering(w *world, st protocol.HostStatus) {
	w.answer = func(m []byte) []byte {
		e, err := protocol.Peek(m)
		if err != nil || e.Kind != protocol.KindRequest {
			return nil
		}
		var result any
		switch e.Method {
		case "initialize":
			result = map[string]any{"userAgent": "towline/1.2.3 (Debian 12; x86_64)"}
		case protocol.ExtStatus:
			result = st
		}
		out, err := protocol.NewResponse(e.ID, result)
		if err != nil {
			panic(err)
		}
		return out
	}
}

func TestDoctorWalksAllStages(t *testing.T) {
	w := newWorld(t)
	st := protocol.HostStatus{Engine: protocol.EngineState{Kind: "codex", State: "ready", Version: "0.169.0"}}
	st.Threads.Working = 2
	answering(w, st)
	w.report.ClockSkew = -3e9
	w.report.Ports = []bootstrap.Port{{Port: 1455, State: "in use"}, {Port: 1457, State: "free"}}
	w.report.Sandbox = bootstrap.Sandbox{Landlock: "yes", UserNS: "no"}
	w.report.Linger = bootstrap.Linger{Systemd: true, State: "no", Kills: true}
	w.report.Proxies = []string{"https_proxy=http://proxy:3128"}
	w.report.DiskFree = 1 << 20
	var told []Finding
	d := Diagnose(t.Context(), w.config(), func(f Finding) { told = append(told, f) })
	if !d.OK || len(told) != len(d.Findings) || d.Took <= 0 || d.Report == nil || d.Choice == nil {
		t.Errorf("ok %v, %d of %d told, took %v", d.OK, len(told), len(d.Findings), d.Took)
	}
	for _, stage := range everyStage {
		finding(t, d, stage, "")
	}
	for name, want := range map[string]string{
		"clock": "3s behind this machine", "proxies": "https_proxy=http://proxy:3128", "login ports": "1455 in use, 1457 free",
		"sandbox": "landlock yes, user namespaces no", "linger": "work stops with the last connection", "disk": "1.0 MB free",
	} {
		if f := finding(t, d, remote.StageProbe, name); !strings.Contains(f.Text, want) {
			t.Errorf("%s: %q", name, f.Text)
		}
	}
	if f := finding(t, d, remote.StageProbe, "linger"); f.Status != FindingNote || !strings.Contains(f.Next[0], "loginctl enable-linger") {
		t.Errorf("linger: %+v", f)
	}
	if f := finding(t, d, remote.StageReady, "engine"); f.Status != FindingOK || f.Text != "codex 0.169.0 ready" {
		t.Errorf("engine: %+v", f)
	}
	if f := finding(t, d, remote.StageReady, "threads"); !strings.Contains(f.Text, "2 working") {
		t.Errorf("threads: %+v", f)
	}
	raw, err := json.Marshal(d)
	if err != nil || !strings.Contains(string(raw), `"stage":"ready"`) {
		t.Errorf("as JSON: %s, %v", raw, err)
	}
}

func TestDoctorSaysWhatAnEngineLacks(t *testing.T) {
	w := newWorld(t)
	answering(w, protocol.HostStatus{Engine: protocol.EngineState{Kind: "codex", State: "failed", Problem: "codex is not installed", Hints: []string{"npm install -g @openai/codex"}}})
	d := Diagnose(t.Context(), w.config(), nil)
	f := finding(t, d, remote.StageReady, "engine")
	if d.OK || f.Status != FindingFailed || f.Cause != "codex is not installed" || f.Next[0] != "npm install -g @openai/codex" {
		t.Errorf("ok %v, %+v", d.OK, f)
	}
}

// A part that tells its error as text does not make it be read twice.
func TestDoctorSaysACauseOnce(t *testing.T) {
	var d Diagnosis
	doc := &doctor{d: &d, last: make(map[string]string)}
	err := &config.Problem{Stage: remote.StageDial, Err: errors.New("box: nothing\nlistens"), Hints: []string{"mend it"}}
	doc.event(remote.Event{Stage: remote.StageDial, Hop: "box", Text: err.Error(), Err: err})
	doc.event(remote.Event{Stage: remote.StageStart, Hop: "box", Text: "start towline"})
	doc.event(remote.Event{Stage: remote.StageStart, Hop: "box", Err: err})
	for i, want := range []string{"failed", "start towline"} {
		if f := d.Findings[i]; f.Text != want || f.Cause != "box: nothing listens" || f.Next[0] != "mend it" {
			t.Errorf("%+v", f)
		}
	}
}

// What failed is named with its cause and what to do; what comes after is named
// as not reached.
func TestDoctorGoesOnWhereItCan(t *testing.T) {
	broken := errors.New("it broke")
	for part, stage := range map[string]string{
		"resolve": remote.StageResolve, "dial": remote.StageDial, "probe": remote.StageProbe, "choose": remote.StageFind, "open": remote.StageStart,
	} {
		t.Run(part, func(t *testing.T) {
			w := newWorld(t)
			w.setFailure(part, &config.Problem{Stage: stage, Err: broken, Hints: []string{"mend it"}})
			d := Diagnose(t.Context(), w.config(), nil)
			var failed, skipped []string
			for _, f := range d.Findings {
				switch f.Status {
				case FindingFailed:
					failed = append(failed, f.Stage)
					if f.Cause != "it broke" || f.Next[0] != "mend it" {
						t.Errorf("%+v", f)
					}
				case FindingSkipped:
					skipped = append(skipped, f.Stage)
				}
			}
			if d.OK || len(failed) != 1 || failed[0] != stage || skipped[len(skipped)-1] != remote.StageReady {
				t.Errorf("failed %v, skipped %v", failed, skipped)
			}
			if part == "choose" || part == "open" {
				finding(t, d, remote.StageProbe, "clock") // what could be looked at was
			}
		})
	}
	t.Run("nothing there", func(t *testing.T) {
		w := newWorld(t)
		w.choice = bootstrap.Choice{Action: bootstrap.Offer}
		w.report.PathSearched = []string{"/usr/bin"}
		w.report.Candidates = []bootstrap.Candidate{{Kind: bootstrap.Codex, Version: "0.1.0", Path: "/usr/bin/codex", Fault: "too old"}}
		d := Diagnose(t.Context(), w.config(), nil)
		f := finding(t, d, remote.StageFind, "dev")
		if f.Status != FindingFailed || !strings.Contains(f.Next[0], "--install") {
			t.Errorf("%+v", f)
		}
		if f := finding(t, d, remote.StageFind, "found"); !strings.Contains(f.Text, "codex 0.1.0 at /usr/bin/codex: too old") {
			t.Errorf("%+v", f)
		}
		if f := finding(t, d, remote.StageFind, "looked in"); f.Text != "/usr/bin" {
			t.Errorf("%+v", f)
		}
	})
	t.Run("too old", func(t *testing.T) {
		w := newWorld(t)
		answering(w, protocol.HostStatus{Engine: protocol.EngineState{State: "ready"}})
		w.choice.Skew = bootstrap.Skew{Kind: bootstrap.OutOfWindow, Block: true, Notice: "too old"}
		d := Diagnose(t.Context(), w.config(), nil)
		f := finding(t, d, remote.StageVersion, "")
		if d.OK || f.Status != FindingFailed || !strings.Contains(f.Next[0], "--install") {
			t.Errorf("%+v", f)
		}
		if f := finding(t, d, remote.StageReady, "round trip"); f.Status != FindingOK {
			t.Errorf("the walk did not go on: %+v", f)
		}
	})
}

// sshHost is a real sshd, and the configuration that names it.
func sshHost(t *testing.T, directives ...string) (*remotetest.SSHD, Config) {
	t.Helper()
	home := t.TempDir() // nothing is installed there
	s := remotetest.StartSSHD(t, append(directives, "SetEnv HOME="+home)...)
	file := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("Host dev\n HostName 127.0.0.1\n Port %d\n User %s\n IdentityFile %s\n IdentitiesOnly yes\n UserKnownHostsFile %s\n GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n",
		s.Port, s.User, s.Key, s.KnownHosts())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, Config{
		Host: "dev", SSH: sshconfig.Options{UserFile: file}, Version: "1.2.3", RuntimeDir: t.TempDir(), Pin: string(bootstrap.Towline),
		Environ: func(string) string { return "" },
	}
}

func TestCheckAndDoctorOfARealHost(t *testing.T) {
	s, cfg := sshHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for _, transport := range []string{config.TransportBuiltin, config.TransportSystem} {
		t.Run(transport, func(t *testing.T) {
			cfg := cfg
			cfg.Transport = transport
			c := Check(ctx, cfg)
			if c.Err != nil || c.Kind != "" || c.Why == "" {
				t.Fatalf("checked %+v", c)
			}
			d := Diagnose(ctx, cfg, nil)
			for _, stage := range []string{remote.StageResolve, remote.StageHostKey, remote.StageAuth, remote.StageShell, remote.StageProbe} {
				if f := finding(t, d, stage, ""); f.Status != FindingOK {
					t.Errorf("%+v", f)
				}
			}
			if f := finding(t, d, remote.StageFind, "dev"); f.Status != FindingFailed || f.Cause == "" || len(f.Next) == 0 {
				t.Errorf("%+v", f)
			}
			for _, name := range []string{"machine", "login shell", "clock", "disk", "sandbox", "login ports", "linger", "proxies"} {
				finding(t, d, remote.StageProbe, name)
			}
		})
	}
	s.Stop()
	c := Check(ctx, cfg)
	p := problemOf(t, c.Err)
	if p.Stage != remote.StageDial {
		t.Errorf("a host that is down: %+v", p)
	}
	d := Diagnose(ctx, cfg, nil)
	if f := finding(t, d, remote.StageDial, "dev"); d.OK || f.Status != FindingFailed {
		t.Errorf("a host that is down: %+v", f)
	}
	if f := finding(t, d, remote.StageReady, ""); f.Status != FindingSkipped {
		t.Errorf("a host that is down: %+v", f)
	}
}

var _ rpc.Handler = silent{}

// A program's path is the host's word, and the command is typed here.
func TestSecurityDoctorQuotesThePathOfAHost(t *testing.T) {
	d := &doctor{d: &Diagnosis{Host: "dev", Choice: &bootstrap.Choice{Candidate: bootstrap.Candidate{Path: "/x;touch /tmp/owned'`id`"}}}}
	if next := d.next(remote.StageStart, nil); next[0] != "try it there by hand: `ssh dev '/x;touch /tmp/owned'\\''`id`' --version`" {
		t.Errorf("the advice is %s", next)
	}
}
