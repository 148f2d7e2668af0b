package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestForbiddenRemoteControlNamesTheFile(t *testing.T) {
	m := newMandated(t, map[string]string{"towline/requirements.toml": "allow_remote_control = false\n"})
	const file = "/etc/towline/requirements.toml"
	for _, args := range [][]string{{"remote-control", "start"}, {"remote-control", "--no-daemon"}, {"remote-control", "pair"}} {
		m.fails(5, "", args, "remote control is not allowed on this machine", file)
	}
	if m.exists("towline/remote_control.json") {
		t.Error("it was enabled all the same")
	}
	out, err := m.run("", m.bin, "remote-control", "status", "--json")
	var r remoteStatusResult
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || r.Enabled || !strings.Contains(r.ForbiddenBy, file) {
		t.Errorf("status: %v, %s", err, out)
	}
	if out, err := m.run("", m.bin, "remote-control", "off"); err != nil {
		t.Errorf("closing is never forbidden: %v, %s", err, out)
	}
}

// What scripts read of Codex's daemon they find here as well. The members of the
// others were taken from codex 0.166.0 and 0.169.0, where asking them means to copy
// a few hundred megabytes.
func TestTheDaemonIsDescribedAsCodexDescribesIt(t *testing.T) {
	running := []string{"appServerVersion", "backend", "cliVersion", "managedCodexPath", "managedCodexVersion", "pid", "socketPath", "status"}
	m := newMandated(t, nil)
	script := `"$0" remote-control start --json && "$0" remote-control restart --json && "$0" remote-control stop --json && "$0" remote-control stop --json`
	out, err := m.run("", "/bin/sh", "-c", "{ "+script+"; } 2>/dev/null", m.bin)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var objects []map[string]any
	for d := json.NewDecoder(strings.NewReader(out[strings.IndexByte(out, '{'):])); d.More(); {
		var o map[string]any
		if err := d.Decode(&o); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		objects = append(objects, o)
	}
	if len(objects) != 4 {
		t.Fatalf("%d objects\n%s", len(objects), out)
	}
	daemon, _ := objects[0]["daemon"].(map[string]any)
	has := func(what string, o map[string]any, status string, keys []string) {
		t.Helper()
		for _, k := range keys {
			if v, ok := o[k]; !ok || v == "" {
				t.Errorf("%s has no %s: %v", what, k, o)
			}
		}
		if o["status"] != status {
			t.Errorf("%s: %v", what, o["status"])
		}
	}
	has("start", objects[0], "connected", []string{"mode", "serverName", "environmentId", "timedOut", "daemon"})
	has("its daemon", daemon, "started", running)
	has("restart", objects[1], "restarted", running)
	stopped := slices.DeleteFunc(slices.Clone(running), func(k string) bool { return k == "appServerVersion" || k == "backend" || k == "pid" })
	has("stop", objects[2], "stopped", stopped)
	has("a second stop", objects[3], "notRunning", stopped)
	for _, bin := range filepath.SplitList(os.Getenv("TOWLINE_TEST_CODEX")) {
		home := t.TempDir()
		cmd := exec.CommandContext(t.Context(), bin, "app-server", "daemon", "stop")
		cmd.Env = []string{"HOME=" + home, "CODEX_HOME=" + home, "PATH=/usr/bin:/bin"}
		raw, err := cmd.Output()
		var codexs map[string]any
		if err != nil || json.Unmarshal(raw, &codexs) != nil {
			t.Errorf("%s: %v, %s", bin, err, raw)
		}
		for k := range codexs {
			if _, ok := objects[3][k]; !ok {
				t.Errorf("%s says %s, and we do not", bin, k)
			}
		}
	}
}
