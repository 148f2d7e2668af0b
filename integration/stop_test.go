package integration

import (
	"os/exec"
	"strings"
	"testing"

	"towline/config"
	"towline/integration/peer"
)

// A host told to stop in the middle of a turn ends in good order: the screen is
// restored and says so, and the turn is marked when somebody comes back.
func TestStopInATurn(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	term := h.Attach(90, 28)
	term.Wait(byRote)
	say(term, "count to 400 slowly")
	term.Wait("1 2 3")
	local := peer.Open(t, 90, 28, append(peer.Environ(t), "TOWLINE_HOME="+h.Home), peer.Binary(t), "attach")
	openThread(local, "count to 400")
	local.Wait("1 2 3")

	if err := h.Stop(); err != nil {
		t.Errorf("serve ended with %v", err)
	}
	// The line before the last is on the restored screen, not on the one that went.
	term.Wait("is stopping; your threads are kept", "ssh -p", "[exit 1]")
	local.Wait("unreachable", "r retry")

	h.Restart()
	again := h.Attach(90, 28)
	again.Wait("count to 400 slowly", "■ interrupted")
	local.Keys("r")
	local.Wait("■ interrupted")
}

// What goes wrong before a host is there is a sentence, a hint and a status.
func TestStartsThatFailSayWhy(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	bare := append(peer.Environ(t), "TOWLINE_HOME="+t.TempDir(), "PATH=/usr/bin:/bin")
	here := append(peer.Environ(t), "TOWLINE_HOME="+h.Home)
	for name, tc := range map[string]struct {
		env  []string
		args []string
		exit int
		says []string
	}{
		"a second daemon":    {here, []string{"serve", "--ssh-listen", "off"}, config.ExitUnavailable, []string{"one runs already", "towline status"}},
		"nothing to do it":   {bare, []string{"serve", "--ssh-listen", "off"}, config.ExitUnavailable, []string{"nothing here can do the work", "[engine.native]", "towline try"}},
		"no endpoint":        {bare, []string{"serve", "--engine", "native"}, config.ExitConfig, []string{"no endpoint", "base_url"}},
		"no such engine":     {bare, []string{"serve", "--engine", "codx"}, config.ExitUsage, []string{"auto, codex, native"}},
		"no such project":    {here, []string{"serve", "--project", "/nonexistent"}, config.ExitUsage, []string{"--project"}},
		"port in use":        {bare, []string{"serve", "--engine", "codex", "--ssh-listen", h.SSH}, config.ExitFailure, []string{"ssh:", "in use", "--ssh-listen"}},
		"open to all":        {bare, []string{"serve", "--engine", "codex", "--listen", "ws://0.0.0.0:0"}, config.ExitFailure, []string{"without auth", "--ws-auth access-token", "--ws-token-file"}},
		"no such command":    {bare, []string{"servee"}, config.ExitUsage, []string{"servee", "neither a command nor a host", "towline serve"}},
		"no daemon":          {bare, []string{"status"}, config.ExitUnavailable, []string{"no daemon answers", "towline serve"}},
		"home cannot be":     {append(peer.Environ(t), "TOWLINE_HOME=/proc/none"), []string{"serve"}, config.ExitConfig, []string{"/proc/none", "TOWLINE_HOME"}},
		"without a terminal": {here, []string{"attach"}, config.ExitUsage, []string{"needs a terminal"}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), peer.Binary(t), tc.args...)
			cmd.Env = tc.env
			out, err := cmd.CombinedOutput()
			if err == nil || cmd.ProcessState.ExitCode() != tc.exit {
				t.Errorf("exit: %v, want %d", err, tc.exit)
			}
			for _, want := range append(tc.says, "error: ", "hint: ") {
				if !strings.Contains(string(out), want) {
					t.Errorf("does not say %q:\n%s", want, out)
				}
			}
			if strings.Contains(string(out), "goroutine ") {
				t.Errorf("panicked:\n%s", out)
			}
		})
	}
}
