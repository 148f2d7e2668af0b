package native

import (
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// accountRead says that nobody need log in: the endpoint's credentials are the host's.
func (c *conn) accountRead(*rpc.Request) (any, error) {
	return map[string]any{"account": nil, "userId": nil, "requiresOpenaiAuth": false, "workspaceRouting": nil}, nil
}

func (c *conn) accountRateLimitsRead(*rpc.Request) (any, error) {
	return nil, protocol.Errorf("codex account authentication required to read rate limits")
}

func (c *conn) accountUsageRead(*rpc.Request) (any, error) {
	return nil, protocol.Errorf("codex account authentication required to read token usage")
}

// accountLoginStart refuses: a key a client sends would have to be kept, and
// whoever may send one could make the host's work go to an account of theirs.
func (c *conn) accountLoginStart(r *rpc.Request) (any, error) {
	var p struct {
		Type string `json:"type"`
	}
	if err := decode(r, &p, "type"); err != nil {
		return nil, err
	}
	return nil, protocol.Errorf("there is nothing to log in to: this engine takes its key from the environment variable named by api_key_env in the host's config.toml")
}

func (c *conn) accountLoginCancel(r *rpc.Request) (any, error) {
	var p struct {
		ID string `json:"loginId"`
	}
	if err := decode(r, &p, "loginId"); err != nil {
		return nil, err
	}
	return nil, protocol.Errorf("invalid login id: %s", p.ID)
}

// accountLogout is true already: nobody is logged in, as account/read says.
func (c *conn) accountLogout(r *rpc.Request) (any, error) {
	r.Reply(nil)
	c.e.broadcast("account/updated", map[string]any{"authMode": nil, "planType": nil})
	return nil, nil
}

func (c *conn) gatewayOAuthRead(*rpc.Request) (any, error) {
	return map[string]any{
		"providerId": c.e.cfg.Provider, "providerName": c.e.cfg.Provider, "required": false,
		"supportsDeviceAuth": false, "status": nil, "error": nil,
	}, nil
}
