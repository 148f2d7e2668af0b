package native_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"towline/appserver/engine/native"
	"towline/appserver/protocol"
)

// switchboard is a host's switch in memory.
type switchboard struct {
	mu    sync.Mutex
	on    bool
	kept  []bool
	no    error
	watch []func()
}

func (s *switchboard) Enabled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on
}

func (s *switchboard) Watch(f func()) { s.watch = append(s.watch, f) }

func (s *switchboard) Set(_ context.Context, on, keep bool) error {
	s.mu.Lock()
	if s.no != nil {
		s.mu.Unlock()
		return s.no
	}
	s.on = on
	if keep {
		s.kept = append(s.kept, on)
	}
	s.mu.Unlock()
	for _, f := range s.watch {
		f()
	}
	return nil
}

// Codex's words where it has nobody to ask, taken from codex 0.166.0 and 0.169.0.
func TestRemoteControlWithoutASwitchIsCodexsWithoutAnAccount(t *testing.T) {
	c := start(t, nil).connect()
	const account, off = "remote control requires ChatGPT authentication", "remote control pairing requires remote control to be enabled"
	if raw := c.call("remoteControl/status/read", nil); protocol.StringField(raw, "status") != "disabled" {
		t.Errorf("status: %s", raw)
	}
	for _, tc := range []struct {
		method string
		params any
		want   string
	}{
		{"remoteControl/enable", nil, account},
		{"remoteControl/enable", map[string]any{}, account},
		{"remoteControl/disable", nil, account},
		{"remoteControl/client/list", map[string]any{}, "Invalid request: missing field `environmentId`"},
		{"remoteControl/client/list", map[string]any{"environmentId": "e"}, account},
		{"remoteControl/client/revoke", map[string]any{}, "Invalid request: missing field `environmentId`"},
		{"remoteControl/client/revoke", map[string]any{"environmentId": "e", "clientId": "c"}, account},
		{"remoteControl/pairing/start", map[string]any{"manualCode": true}, off},
		{"remoteControl/pairing/status", map[string]any{}, "remoteControl/pairing/status requires pairingCode or manualPairingCode"},
		{"remoteControl/pairing/status", map[string]any{"pairingCode": "x"}, off},
		{
			"remoteControl/pairing/status",
			map[string]any{"pairingCode": "x", "manualPairingCode": "y"},
			"remoteControl/pairing/status accepts either pairingCode or manualPairingCode, not both",
		},
	} {
		c.refused(tc.method, tc.params, tc.want)
	}
}

func TestRemoteControlTurnsTheHostsSwitch(t *testing.T) {
	sw := &switchboard{}
	h := start(t, func(c *native.Config) { c.Remote = sw })
	c, other := h.connect(), h.connect()
	from := other.mark()
	for _, tc := range []struct {
		method, status string
		params         any
	}{
		{"remoteControl/enable", "connected", nil},
		{"remoteControl/disable", "disabled", map[string]any{}},
		{"remoteControl/enable", "connected", map[string]any{"ephemeral": true}},
	} {
		raw := c.call(tc.method, tc.params)
		if protocol.StringField(raw, "status") != tc.status || protocol.StringField(raw, "serverName") == "" || protocol.StringField(raw, "installationId") == "" {
			t.Errorf("%s: %s", tc.method, raw)
		}
	}
	if !slices.Equal(sw.kept, []bool{true, false}) {
		t.Errorf("kept: %v", sw.kept)
	}
	other.wait(from, "the last change", func(n note) bool {
		return n.Method == "remoteControl/status/changed" && strings.Contains(string(n.Params), `"connected"`)
	})
	if raw := c.call("remoteControl/client/list", map[string]any{"environmentId": "e"}); string(protocol.Field(raw, "data")) != "[]" {
		t.Errorf("clients: %s", raw)
	}
	c.refused("remoteControl/pairing/start", map[string]any{}, "remote control pairing is unavailable until enrollment completes: no relay is configured on this host")
	c.refused("remoteControl/client/revoke", map[string]any{"environmentId": "e", "clientId": "c"}, "remote control client not found: c")
	sw.no = errors.New("remote control is not allowed on this machine (set by /etc/towline/requirements.toml)")
	c.refused("remoteControl/enable", nil, "not allowed on this machine")
}
