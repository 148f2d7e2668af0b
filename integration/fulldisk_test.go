package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/integration/peer"
)

// quiet is a client that answers nothing.
type quiet struct{}

func (quiet) Request(_ context.Context, r *rpc.Request) { r.Fail(protocol.Errorf("nobody is here")) }

func (quiet) Notification(context.Context, string, json.RawMessage) {}

// smallDisk is a host whose home is a file system of four megabytes, in a mount
// namespace of its own.
type smallDisk struct {
	t    *testing.T
	home string
	pid  int
	rpc  *rpc.Peer
}

func newSmallDisk(t *testing.T, onFailure string) *smallDisk {
	t.Helper()
	peer.Need(t, "unshare", "nsenter")
	dir := t.TempDir()
	d := &smallDisk{t: t, home: filepath.Join(dir, "home")}
	cfg := filepath.Join(dir, "config.toml")
	text := "[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n[audit]\non_failure = \"" + onFailure + "\"\n"
	if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.home, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-ec",
		`mount -t tmpfs -o size=4m,mode=700 none "$1"; cp "$2" "$1/config.toml"; chmod 600 "$1/config.toml"
		exec "$3" serve --json --ssh-listen off --listen ws://127.0.0.1:0 --project /tmp --stop-with-stdin`, "sh", d.home, cfg, peer.Binary(t))
	cmd.Env = append(peer.Environ(t), "TOWLINE_HOME="+d.home)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // how it ends is not what is tested
		if t.Failed() {
			t.Log(log.String())
		}
	})
	d.pid = cmd.Process.Pid
	var ready struct{ Listen []string }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	s, err := transport.Dial(t.Context(), ready.Listen[0])
	if err != nil {
		t.Fatal(err)
	}
	d.rpc = rpc.NewPeer(s, quiet{})
	served := make(chan struct{})
	go func() { defer close(served); _ = d.rpc.Serve(t.Context()) }()
	t.Cleanup(func() { d.rpc.Close(nil); <-served })
	if err := d.rpc.Call(t.Context(), "initialize", protocol.InitializeParams{ClientInfo: protocol.ClientInfo{Name: "disk", Version: "1"}}, nil); err != nil {
		t.Fatal(err)
	}
	return d
}

// inside runs a shell command where the host sees its disk.
func (d *smallDisk) inside(script string) string {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), "nsenter", "-t", fmt.Sprint(d.pid), "-m", "sh", "-c", script, "sh", d.home, peer.Binary(d.t))
	cmd.Env = append(peer.Environ(d.t), "TOWLINE_HOME="+d.home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// act asks for something that is on record, and gives the refusal.
func (d *smallDisk) act() string {
	err := d.rpc.Call(d.t.Context(), "thread/archive", map[string]any{"threadId": "01a20488-49f4-7e50-86ea-dbd7e3dd93e7"}, nil)
	if err == nil {
		d.t.Fatal("a thread that is not there was archived")
	}
	return err.Error()
}

func (d *smallDisk) trouble() *protocol.AuditTrouble {
	d.t.Helper()
	var st protocol.HostStatus
	if err := d.rpc.Call(d.t.Context(), protocol.ExtStatus, nil, &st); err != nil {
		d.t.Fatal(err)
	}
	return st.Audit
}

// A full disk never loses a decision silently: what cannot be recorded is kept and
// told, and where the host is set up so, nothing more is done until it is.
func TestFullDiskNeverLosesAnEntrySilently(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"refuse", "continue"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			d := newSmallDisk(t, policy)
			d.inside(`head -c 8m /dev/zero > "$1/fill" 2>&1; true`)
			const cannot = "audit log cannot be written"
			refusals := 0
			for range 60 { // the last page of the file has room for some
				if strings.Contains(d.act(), cannot) {
					refusals++
				}
			}
			st := d.trouble()
			if st == nil || st.Waiting == 0 || st.Refuses != (policy == "refuse") || !strings.Contains(st.Problem, "no space") {
				t.Fatalf("status tells %+v", st)
			}
			if (refusals > 0) != (policy == "refuse") {
				t.Errorf("%d were refused", refusals)
			}
			err := d.rpc.Call(t.Context(), "turn/interrupt", map[string]any{"threadId": "x", "turnId": "y"}, nil)
			if err != nil && strings.Contains(err.Error(), cannot) {
				t.Errorf("a turn cannot be stopped: %v", err)
			}
			d.inside(`rm "$1/fill"`)
			peer.Eventually(t, "a log that is whole again", func() bool { d.act(); return d.trouble() == nil })
			log := d.inside(`"$2" audit verify && cat "$1/audit.jsonl"`)
			if !strings.Contains(log, "the chain is whole") || !strings.Contains(log, `"event":"audit.late"`) {
				t.Error(log)
			}
			if n := strings.Count(log, `"method":"thread/archive"`); policy == "continue" && n < 61 {
				t.Errorf("%d of 61 actions are on record", n)
			}
		})
	}
}
