package gate

import (
	"encoding/json"
	"strings"

	"towline/appserver/protocol"
	"towline/config"
)

// loginMembers are the params of account/login/start that are looked at here.
var loginMembers = []string{"type", "apiKey", "accessToken", "chatgptAccountId", "chatgptPlanType"}

// mandated holds a request against what the owner of the machine mandates.
func (g *Gate) mandated(env protocol.Envelope) *protocol.Error {
	switch env.Method {
	case protocol.AccountStart:
		return g.mayLogIn(env.Params)
	case "remoteControl/enable", "remoteControl/pairing/start":
		if g.cfg.MayRelay == nil {
			return nil
		}
		if err := g.cfg.MayRelay(); err != nil {
			return protocol.Errorf("%s", config.OneLine(err.Error()))
		}
	}
	return nil
}

// mayLogIn decides about an account/login/start. Its params must say to every
// engine what they say here: Codex reads a list as it reads an object, and the
// native engine finds members whatever the case of their names. A loan in such a
// form would have no lender, and a login no mandate.
func (g *Gate) mayLogIn(params json.RawMessage) *protocol.Error {
	if protocol.StringField(params, "type") == "" {
		return protocol.Errorf("Invalid request: missing field `type`")
	}
	for name := range protocol.Members(params) {
		for _, known := range loginMembers {
			if name != known && strings.EqualFold(name, known) {
				return protocol.Errorf("Invalid request: the parameter %q must be spelled %s", printable(name, 40), known)
			}
		}
	}
	if g.cfg.MayLogIn == nil {
		return nil
	}
	if err := g.cfg.MayLogIn(params); err != nil {
		return protocol.Errorf("%s", config.OneLine(err.Error()))
	}
	return nil
}
