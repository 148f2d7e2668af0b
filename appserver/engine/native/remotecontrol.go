package native

import (
	"context"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

// RemoteControl is the host's switch of remote control, which this engine shows and
// turns in Codex's words. Its methods may be called from any goroutine.
type RemoteControl interface {
	Enabled() bool
	// Set turns it; with keep for longer than this process lives. It is done also
	// when ctx ends first: turning it off may end the connection of who asked.
	Set(ctx context.Context, on, keep bool) error
	// Watch has f called after each change.
	Watch(f func())
}

// errNoRemote is Codex's answer where nobody is logged in to the account its relay
// wants: all there is to say where the host has no switch.
func errNoRemote() error {
	return protocol.Errorf("remote control requires ChatGPT authentication")
}

// remoteControl is the state of the host's remote control. A host that listens by
// itself is connected as soon as that is on; there is no environment without a
// relay.
func (e *Engine) remoteControl() remoteStatus {
	status := "disabled"
	if r := e.cfg.Remote; r != nil && r.Enabled() {
		status = "connected"
	}
	return remoteStatus{InstallationID: e.install, ServerName: hostname(), Status: status}
}

// remoteStatus is what clients hear of remote control, each as it comes.
type remoteStatus struct {
	EnvironmentID  *string `json:"environmentId"` // there is none
	InstallationID string  `json:"installationId"`
	ServerName     string  `json:"serverName"`
	Status         string  `json:"status"`
}

func (e *Engine) tellRemoteControl() {
	e.broadcast("remoteControl/status/changed", e.remoteControl())
}

func (c *conn) remoteControlStatusRead(*rpc.Request) (any, error) { return c.e.remoteControl(), nil }

func (c *conn) remoteControlEnable(r *rpc.Request) (any, error) {
	var p struct {
		Ephemeral bool `json:"ephemeral"`
	}
	if err := decode(r, &p); err != nil {
		return nil, err
	}
	return c.remoteControlSet(true, !p.Ephemeral)
}

func (c *conn) remoteControlDisable(r *rpc.Request) (any, error) {
	var p struct {
		Ephemeral bool `json:"ephemeral"`
	}
	if err := decode(r, &p); err != nil {
		return nil, err
	}
	return c.remoteControlSet(false, !p.Ephemeral)
}

func (c *conn) remoteControlSet(on, keep bool) (any, error) {
	if c.e.cfg.Remote == nil {
		return nil, errNoRemote()
	}
	if err := c.e.cfg.Remote.Set(c.ctx, on, keep); err != nil {
		return nil, protocol.Errorf("%s", config.OneLine(err.Error()))
	}
	return c.e.remoteControl(), nil
}

// remoteClientList is of the devices paired through a relay: there is none to have
// paired any.
func (c *conn) remoteClientList(r *rpc.Request) (any, error) {
	var p struct {
		Environment string `json:"environmentId"`
	}
	if err := decode(r, &p, "environmentId"); err != nil {
		return nil, err
	}
	if c.e.cfg.Remote == nil {
		return nil, errNoRemote()
	}
	return emptyPage, nil
}

func (c *conn) remoteClientRevoke(r *rpc.Request) (any, error) {
	var p struct {
		Environment string `json:"environmentId"`
		Client      string `json:"clientId"`
	}
	if err := decode(r, &p, "environmentId", "clientId"); err != nil {
		return nil, err
	}
	if c.e.cfg.Remote == nil {
		return nil, errNoRemote()
	}
	return nil, protocol.Errorf("remote control client not found: %s", config.OneLine(p.Client))
}

func (c *conn) remotePairingStart(r *rpc.Request) (any, error) {
	var p struct {
		Manual bool `json:"manualCode"`
	}
	if err := decode(r, &p); err != nil {
		return nil, err
	}
	return nil, c.pairingUnavailable()
}

func (c *conn) remotePairingStatus(r *rpc.Request) (any, error) {
	var p struct {
		Code   *string `json:"pairingCode"`
		Manual *string `json:"manualPairingCode"`
	}
	if err := decode(r, &p); err != nil {
		return nil, err
	}
	switch {
	case p.Code == nil && p.Manual == nil:
		return nil, protocol.Errorf("remoteControl/pairing/status requires pairingCode or manualPairingCode")
	case p.Code != nil && p.Manual != nil:
		return nil, protocol.Errorf("remoteControl/pairing/status accepts either pairingCode or manualPairingCode, not both")
	}
	return nil, c.pairingUnavailable()
}

// pairingUnavailable is what stands in the way of a pairing, in Codex's words and
// order, and the reason of ours.
func (c *conn) pairingUnavailable() error {
	if r := c.e.cfg.Remote; r == nil || !r.Enabled() {
		return protocol.Errorf("remote control pairing requires remote control to be enabled")
	}
	return protocol.Errorf("remote control pairing is unavailable until enrollment completes: no relay is configured on this host")
}
