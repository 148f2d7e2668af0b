package gate

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"towline/appserver/protocol"
)

// A mandate of the machine's holds for logins through the app-server, whatever
// engine is behind the gate: a stock Codex does not read /etc/towline.
func TestSecurityMandatesHoldBehindTheGate(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.MayLogIn = func(params json.RawMessage) error {
			if protocol.StringField(params, "type") == protocol.LoginAPIKey {
				return errors.New("an API key is not allowed on this machine (set by /etc/towline/requirements.toml)")
			}
			return nil
		}
	}, true)
	p := r.join("admin", protocol.RoleAdmin, false)
	_, err := p.call(protocol.AccountStart, protocol.LoginStart{Type: protocol.LoginAPIKey, APIKey: canary})
	if err == nil || !strings.Contains(err.Error(), "/etc/towline/requirements.toml") || strings.Contains(err.Error(), "canary") {
		t.Fatalf("a forbidden login was not refused as it should be: %v", err)
	}
	if auth, _ := r.e.account(); auth != "" {
		t.Fatalf("the engine has %q", auth)
	}
}

// What the gate takes for no loan must be none to any engine: a loan without a
// lender is never taken back, and a mandate does not see it.
func TestSecurityLoansCannotBeDisguised(t *testing.T) {
	for name, params := range map[string]string{
		"a list":         `["chatgptAuthTokens","` + canary + `","acct-1",null]`,
		"other case":     `{"Type":"chatgptAuthTokens","accessToken":"` + canary + `","chatgptAccountId":"acct-1"}`,
		"beside a type":  `{"type":"apiKey","TYPE":"chatgptAuthTokens","apiKey":"k","accessToken":"` + canary + `","chatgptAccountId":"acct-1"}`,
		"other account":  `{"type":"chatgptAuthTokens","accessToken":"` + canary + `","chatgptAccountId":"acct-1","ChatgptAccountId":"acct-2"}`,
		"type no string": `{"type":{"chatgptAuthTokens":null},"accessToken":"` + canary + `"}`,
		"nothing":        `null`,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, true)
			p := r.join("admin", protocol.RoleAdmin, false)
			if _, err := p.call(protocol.AccountStart, json.RawMessage(params)); err == nil || strings.Contains(err.Error(), "canary") {
				t.Fatalf("it was not refused: %v", err)
			}
			if auth, token := r.e.account(); auth != "" || token != "" {
				t.Fatalf("the engine has %q", auth)
			}
		})
	}
}

// A stock Codex does not know that the machine is not to be reached through a relay.
func TestSecurityRelaysNeedTheMandate(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.MayRelay = func() error { return errors.New("remote control is not allowed on this machine") }
	}, true)
	p := r.join("admin", protocol.RoleAdmin, false)
	for _, method := range []string{"remoteControl/enable", "remoteControl/pairing/start"} {
		if _, err := p.call(method, struct{}{}); err == nil || !strings.Contains(err.Error(), "remote control is not allowed on this machine") {
			t.Errorf("%s: %v", method, err)
		}
	}
}
