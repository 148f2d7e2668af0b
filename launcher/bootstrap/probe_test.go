//go:build linux

package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/launcher/remote"
)

// One question that hangs is named and ended; the others are answered.
func TestAQuestionThatHangsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	l := newLocal(t, "bash")
	l.write(t, "stuck/codex", "#!/bin/sh\nsleep 600 & wait\n", 0o700)
	l.fake(t, ".local/bin/codex", MinCodex)
	l.env = []string{"PATH=" + filepath.Join(l.home, "stuck") + ":/usr/bin:/bin"}
	l.write(t, ".bash_profile", "PATH="+l.env[0][len("PATH="):]+"\n", 0o600)
	o := options(t)
	o.ItemTimeout = 3 * time.Second
	rep := probe(t, l, o)
	if c := find(rep, ".local/bin/codex"); c == nil || c.Version != MinCodex {
		t.Errorf("found %+v", rep.Candidates)
	}
	c := find(rep, "stuck/codex")
	if c == nil || c.Fault == "" {
		t.Errorf("what hangs counts as usable: %+v", c)
	}
	within(t, "what hung to be ended", func() bool { return len(l.processes("sleep\x00600")) == 0 })
}

func TestReportSaysWhatMachineItIs(t *testing.T) {
	l := newLocal(t, "bash")
	l.write(t, ".bash_profile", "export https_proxy=http://me:secret@proxy:3128 no_proxy=localhost HTTP_PROXY='me:p@ss@proxy' NVM_DIR=$HOME/nvm\n", 0o600)
	l.fake(t, "nvm/versions/node/v22.1.0/bin/codex", MinCodex)
	busy, err := net.Listen("tcp", "127.0.0.1:1457")
	inUse := err == nil
	if inUse {
		defer func() { _ = busy.Close() }()
	}
	o := options(t)
	o.Now = func() time.Time { return time.Now().Add(-time.Hour) }
	rep := probe(t, l, o)
	if skew := rep.ClockSkew - time.Hour; skew.Abs() > 5*time.Second {
		t.Errorf("clock skew %v, want about an hour", rep.ClockSkew)
	}
	if rep.DiskFree <= 0 || !rep.Writable || rep.InstallDir != filepath.Join(l.home, ".local/share/towline") {
		t.Errorf("install folder %s: %d free, writable %v", rep.InstallDir, rep.DiskFree, rep.Writable)
	}
	if len(rep.Ports) != 2 || rep.Ports[1].State != "in use" {
		t.Errorf("ports %+v", rep.Ports)
	}
	if rep.Sandbox.UserNS == "" || rep.Linger.State == "" || rep.Kernel == "" || rep.User == "" || rep.Hostname == "" {
		t.Errorf("report %+v", rep)
	}
	if c := find(rep, "v22.1.0/bin/codex"); c == nil || c.From != "well-known" {
		t.Errorf("a Codex of nvm was not found: %+v", rep.Candidates)
	}
	raw, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"secret", "p@ss"} {
		if strings.Contains(string(raw), secret) {
			t.Errorf("the report tells a password: %s", raw)
		}
	}
	if !strings.Contains(string(raw), "proxy:3128") || rep.Env["no_proxy"] != "localhost" {
		t.Errorf("the report does not tell the proxies: %v", rep.Proxies)
	}
	var again Report
	if err := json.Unmarshal(raw, &again); err != nil || again.Home != rep.Home || len(again.Candidates) != len(rep.Candidates) {
		t.Errorf("the report does not survive JSON: %v", err)
	}
}

// Sockets count when they are ours, in a folder of ours, and somebody listens.
func TestDaemonsAreKnownByASocketOfOurOwn(t *testing.T) {
	listen := func(t *testing.T, path string) net.Listener {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		return ln
	}
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, ln net.Listener, path string)
		want  bool
	}{
		"alive": {func(*testing.T, net.Listener, string) {}, true},
		"a link": {func(t *testing.T, ln net.Listener, path string) {
			if err := os.Rename(path, path+".real"); err != nil {
				t.Fatal(err)
			}
			_ = ln.Close()
			listen(t, path+".2")
			if err := os.Symlink(path+".2", path); err != nil {
				t.Fatal(err)
			}
		}, true},
		"dead": {func(_ *testing.T, ln net.Listener, _ string) {
			ln.(*net.UnixListener).SetUnlinkOnClose(false)
			_ = ln.Close()
		}, false},
		"a file": {func(t *testing.T, ln net.Listener, path string) { _ = ln.Close(); _ = os.WriteFile(path, nil, 0o600) }, false},
		"an open folder": {func(t *testing.T, _ net.Listener, path string) {
			if err := os.Chmod(filepath.Dir(path), 0o777); err != nil { //nolint:gosec // what is tested
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLocal(t, "bash")
			l.fake(t, ".local/bin/towline", "1.0.0")
			short, err := os.MkdirTemp("", "tl")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(short) })
			l.env = append(l.env, "XDG_RUNTIME_DIR="+short)
			path := filepath.Join(short, "towline/towline.sock")
			tc.spoil(t, listen(t, path), path)
			rep := probe(t, l, options(t))
			ch := choose(t, rep, options(t))
			if got := ch.Action == Join && ch.Candidate.Socket == path; got != tc.want {
				t.Errorf("joined: %v, want %v (%+v)", got, tc.want, ch)
			}
		})
	}
}

func TestTowlinesOwnDoorNeedsNoShell(t *testing.T) {
	l := newLocal(t, "bash")
	l.server = doorServer
	rep := probe(t, l, options(t))
	ch := choose(t, rep, options(t))
	if !rep.Door || ch.Action != Join || ch.Candidate.Kind != Towline {
		t.Errorf("chose %+v", ch)
	}
	if _, err := Install(t.Context(), l, rep, Build{}, nil); err == nil {
		t.Error("it was installed on")
	}
}

// A program the configuration names is found where nobody would look.
func TestPinnedProgramIsLookedFor(t *testing.T) {
	l := newLocal(t, "bash")
	l.fake(t, ".local/bin/codex", MinCodex)
	l.fake(t, "odd place/codex", MinCodex)
	o := options(t)
	for _, pin := range []string{filepath.Join(l.home, "odd place/codex"), "~/odd place/codex"} {
		o.Pin = pin
		if ch := choose(t, probe(t, l, o), o); ch.Candidate.Path != filepath.Join(l.home, "odd place/codex") {
			t.Errorf("pinned to %s, chose %+v", pin, ch)
		}
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	l := newLocal(t, "bash")
	l.write(t, ".bash_profile", "sleep 600\n", 0o600)
	ctx, cancel := context.WithCancel(t.Context())
	o := options(t)
	o.EnvTimeout = 3 * time.Second
	o.Events = func(e remote.Event) {
		if strings.Contains(e.Text, "login shell, interactive") {
			cancel()
		}
	}
	rep, err := Probe(ctx, l, o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Probe: %v", err)
	}
	if rep.Kernel == "" {
		t.Error("what was learned before is lost")
	}
	within(t, "the login shell to be ended", func() bool { return len(l.processes("sleep\x00600")) == 0 })
}
