package sshclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"towline/config"
	"towline/launcher/remote"
)

const (
	// defaultPatience is how long a machine may take for one step when no
	// ConnectTimeout is set: slow enough for a satellite link, quick enough for
	// somebody looking at the screen.
	defaultPatience = 30 * time.Second
	// maxLoginPatience is how long a login may take to be judged. ConnectTimeout
	// says nothing of that in ssh, and directories and delays after a wrong
	// password take their time, so it is ten times the patience up to this.
	maxLoginPatience = time.Minute
	// maxAttempts bounds ConnectionAttempts.
	maxAttempts = 100
)

func itoa(n int) string { return strconv.Itoa(n) }

// patience is how long each step of h may take without a person being asked.
func (h *hop) patience() time.Duration {
	if h.target.ConnectTimeout > 0 {
		return h.target.ConnectTimeout
	}
	return defaultPatience
}

// loginPatience is patience for the steps of a login.
func (h *hop) loginPatience() time.Duration {
	return max(h.patience(), min(10*h.patience(), maxLoginPatience))
}

// connect opens h's byte stream: through the hop before it, through a
// ProxyCommand, or straight.
func (h *hop) connect(ctx context.Context) (net.Conn, error) {
	address := net.JoinHostPort(h.target.HostName, itoa(h.port()))
	switch {
	case h.via != nil:
		tctx, cancel := context.WithTimeout(ctx, h.patience())
		defer cancel()
		c, err := h.via.link.dialTCP(tctx, address)
		if err != nil && ctx.Err() != nil {
			return nil, h.cut(remote.StageDial, ctx)
		}
		if err != nil {
			if cause := h.via.link.why(); cause != nil {
				err = cause
			}
			return nil, h.dialProblem(err)
		}
		return c, nil
	case h.target.ProxyCommand != "":
		p, err := startProxy(h.run.cfg.Environ("SHELL"), h.target.ProxyCommand)
		if err != nil {
			return nil, h.problem(remote.StageDial, fmt.Errorf("ProxyCommand: %w", err), "", config.ExitUnavailable,
				"check the ProxyCommand of `Host "+h.label+"` in ~/.ssh/config")
		}
		h.proxy = p
		return p, nil
	}
	return h.dialDirect(ctx, address)
}

func (h *hop) dialDirect(ctx context.Context, address string) (net.Conn, error) {
	network := map[string]string{"inet": "tcp4", "inet6": "tcp6"}[h.target.AddressFamily]
	if network == "" {
		network = "tcp"
	}
	d := net.Dialer{Timeout: h.patience(), KeepAlive: -1}
	if h.target.TCPKeepAlive {
		d.KeepAlive = 0 // the system's rhythm
	}
	var err error
	if d.LocalAddr, err = h.localAddress(network); err != nil {
		return nil, h.problem(remote.StageDial, err, "", config.ExitConfig,
			"check BindAddress and BindInterface of `Host "+h.label+"` in ~/.ssh/config")
	}
	for attempt := 1; ; attempt++ {
		c, err := d.DialContext(ctx, network, address)
		switch {
		case err == nil:
			return c, nil
		case ctx.Err() != nil:
			return nil, h.cut(remote.StageDial, ctx)
		case attempt >= min(h.target.ConnectionAttempts, maxAttempts):
			return nil, h.dialProblem(err)
		}
		h.detail(remote.StageDial, fmt.Sprintf("attempt %d: %v", attempt, err))
		select { // as ssh does with ConnectionAttempts
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, h.cut(remote.StageDial, ctx)
		}
	}
}

// localAddress is what BindAddress or BindInterface stands for, nil for any.
func (h *hop) localAddress(network string) (net.Addr, error) {
	if a := h.target.BindAddress; a != "" {
		ip, err := net.ResolveIPAddr("ip"+network[len("tcp"):], a)
		if err != nil {
			return nil, fmt.Errorf("BindAddress %s: %w", printable(a, 255), err)
		}
		return &net.TCPAddr{IP: ip.IP, Zone: ip.Zone}, nil
	}
	name := h.target.BindInterface
	if name == "" {
		return nil, nil
	}
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("BindInterface %s: %w", printable(name, 64), err)
	}
	addrs, err := ifc.Addrs()
	if err != nil {
		return nil, fmt.Errorf("BindInterface %s: %w", printable(name, 64), err)
	}
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLinkLocalUnicast() || network == "tcp6" && ip.IP.To4() != nil || network != "tcp6" && ip.IP.To4() == nil {
			continue
		}
		return &net.TCPAddr{IP: ip.IP}, nil
	}
	return nil, fmt.Errorf("BindInterface %s has no address to dial from", printable(name, 64))
}

// greetingProblem explains a handshake that ended before there was SSH.
func (h *hop) greetingProblem(w *wire, err error) *config.Problem {
	words := w.preamble()
	switch {
	case h.proxy != nil:
		said := h.proxy.said()
		if words == "" {
			words = said
		} else if said != "" {
			words += "; " + said
		}
		text := "the ProxyCommand ended before there was a connection"
		if errors.Is(w.aborted(), errSlow) {
			text = "nothing came through the ProxyCommand within " + h.patience().String()
		}
		return h.problem(remote.StageDial, &described{text, err}, words, config.ExitUnavailable,
			"run it by hand: `"+printable(h.target.ProxyCommand, 300)+"`",
			"or set `transport = \"system\"` for this host, so that ssh runs it with a terminal's help")
	case errors.Is(w.aborted(), errSlow):
		return h.problem(remote.StageDial, &described{"connected, but no SSH greeting within " + h.patience().String(), err}, words, config.ExitUnavailable,
			"look at what listens there: `nc "+h.target.HostName+" "+itoa(h.port())+"`")
	case words != "":
		return h.problem(remote.StageDial, &described{"what listens there does not speak SSH", err}, words, config.ExitUnavailable,
			"check the port of `Host "+h.label+"` in ~/.ssh/config")
	}
	return h.problem(remote.StageDial, &described{"it hung up before saying anything: a firewall, a full sshd (MaxStartups) or a ban", err}, "", config.ExitUnavailable,
		"wait a minute and try again, or look at sshd's log there: `journalctl -u ssh`")
}
