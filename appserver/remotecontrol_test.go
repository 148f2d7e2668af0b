//go:build unix

package appserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config"
)

// asks sends a request and returns its answer, or the error of its connection.
func asks(t *testing.T, s rpc.Stream, request string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Write(ctx, []byte(request)); err != nil {
		return "", err
	}
	for {
		msg, err := s.Read(ctx)
		if err != nil || strings.Contains(string(msg), `"id":9`) {
			return string(msg), err
		}
	}
}

const (
	turnOn  = `{"id":9,"method":"` + protocol.ExtRemoteControl + `","params":{"enabled":true}}`
	turnOff = `{"id":9,"method":"` + protocol.ExtRemoteControl + `","params":{"enabled":false}}`
)

// Whoever came through what they close ends their own connection with it; it is
// closed all the same, for good, and without waiting for them.
func TestRemoteControlIsSwitchedOffFromAfar(t *testing.T) {
	var sw *RemoteControl
	s := opened(t, func(c *Config) {
		c.Listen = []string{"ws://0.0.0.0:0"}
		c.Listeners.Auth.Capability[0].Role = protocol.RoleAdmin
		if err := c.Paths.SetRemoteControl(true); err != nil {
			t.Fatal(err)
		}
		var err error
		if sw, err = NewRemoteControl(c.Paths, nil, false); err != nil {
			t.Fatal(err)
		}
		c.Remote = sw
	})
	serve(t, s)
	changes := make(chan bool, 10)
	sw.Watch(func() { changes <- sw.Enabled() })
	urls, on := s.Remote()
	if !on || len(urls) != 1 {
		t.Fatalf("%q, %v", urls, on)
	}
	_, far, err := remote(t.Context(), urls[0], false)
	if err != nil {
		t.Fatal(err)
	}
	initialize(t, far)
	if answer, err := asks(t, far, turnOff); err == nil && !strings.Contains(answer, `"enabled":false`) {
		t.Errorf("answered %s", answer)
	}
	_ = gone(t, far)
	select {
	case on := <-changes:
		if on {
			t.Error("watched it go on")
		}
	case <-time.After(patience):
		t.Fatal("the switch does not turn")
	}
	sw.wait()
	if kept, err := s.cfg.Paths.RemoteControl(); err != nil || kept.Switch != config.SwitchOff {
		t.Errorf("kept: %+v, %v", kept, err)
	}
	if _, _, err := remote(t.Context(), urls[0], false); err == nil {
		t.Error("the listener is open")
	}

	local, err := transport.Dial(t.Context(), "unix://"+s.cfg.Paths.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = local.Close(nil) }()
	initialize(t, local)
	if answer, err := asks(t, local, turnOn); err != nil || !strings.Contains(answer, `"result":{"enabled":true}`) {
		t.Errorf("on: %s, %v", answer, err)
	}
	if answer, err := asks(t, local, strings.Replace(turnOn, "true", `"yes"`, 1)); err != nil || !strings.Contains(answer, "takes {enabled") {
		t.Errorf("nonsense: %s, %v", answer, err)
	}
	_, again, err := remote(t.Context(), urls[0], false)
	if err != nil {
		t.Fatal(err)
	}
	initialize(t, again)
	_ = again.Close(nil)
	audit, err := os.ReadFile(s.cfg.Paths.Audit())
	if err != nil || strings.Count(string(audit), `"remote_control"`) < 2 {
		t.Errorf("the audit does not tell: %v\n%s", err, audit)
	}
}

func TestRemoteControlIsOffUntilItIsEnabled(t *testing.T) {
	forbidden := errors.New("remote control is not allowed on this machine")
	for name, tc := range map[string]struct {
		kept     string
		explicit bool
		may      error
		on, bad  bool
	}{
		"nobody said anything":         {},
		"a listener was typed":         {explicit: true, on: true},
		"on":                           {kept: `{"switch":"on"}`, on: true},
		"off":                          {kept: `{"switch":"off"}`},
		"off, and a listener typed":    {kept: `{"switch":"off"}`, explicit: true},
		"on, and forbidden":            {kept: `{"switch":"on"}`, may: forbidden, bad: true},
		"typed, and forbidden":         {explicit: true, may: forbidden, bad: true},
		"unreadable":                   {kept: `{"switch":"on`, bad: true},
		"unreadable, a listener typed": {kept: `{"switch":1}`, explicit: true, bad: true},
		"off, and forbidden":           {kept: `{"switch":"off"}`, may: forbidden},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			paths := config.Paths{Config: home, State: home, Runtime: filepath.Join(home, "run")}
			if tc.kept != "" {
				if err := os.WriteFile(filepath.Join(home, "remote_control.json"), []byte(tc.kept), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r, err := NewRemoteControl(paths, func() error { return tc.may }, tc.explicit)
			if r.Enabled() != tc.on || (err != nil) != tc.bad {
				t.Errorf("on %v, %v", r.Enabled(), err)
			}
			if tc.may == nil {
				return
			}
			if err := r.Set(t.Context(), true, true); !errors.Is(err, forbidden) || r.Enabled() {
				t.Errorf("enabled what is forbidden: %v", err)
			}
			if err := r.Set(t.Context(), false, true); err != nil {
				t.Errorf("closing is never forbidden: %v", err)
			}
		})
	}
}
