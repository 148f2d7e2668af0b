package sshclient

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// maxAgentChannels bounds how many of the remote's programs may talk to the agent
// at once.
const maxAgentChannels = 16

// forwardedAgent is the socket of the agent the configuration forwards, "" for
// none: ForwardAgent is no, yes, a path, or a variable that holds one.
func (h *hop) forwardedAgent() string {
	switch f := h.target.ForwardAgent; {
	case f == "" || strings.EqualFold(f, "no") || strings.EqualFold(f, "false"):
		return ""
	case strings.EqualFold(f, "yes") || strings.EqualFold(f, "true"):
		return agentPath(h.target.IdentityAgent, h.run.cfg.Environ)
	default:
		return agentPath(f, h.run.cfg.Environ)
	}
}

// serveAgent joins a channel the server opened with the local agent. The bytes are
// the agent's protocol, and none of our business.
func (l *link) serveAgent(nc ssh.NewChannel) {
	select {
	case l.agents <- struct{}{}:
	default:
		_ = nc.Reject(ssh.ResourceShortage, "too many agent connections")
		return
	}
	served := l.spawn(func() {
		defer func() { <-l.agents }()
		ctx, cancel := context.WithTimeout(context.Background(), agentPatience)
		defer cancel()
		local, err := dialAgent(ctx, l.h.forwardedAgent())
		if err != nil {
			_ = nc.Reject(ssh.ConnectionFailed, "the agent is not there")
			return
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			_ = local.Close()
			return
		}
		l.join(l.newStream(ch, reqs, streamAddr{"ssh", channelAgent}), local)
	})
	if !served {
		<-l.agents
	}
}

// join copies both ways until both ended, or the link did. It closes both.
func (l *link) join(far *stream, local net.Conn) {
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(local, far)
		endWrite(local)
	})
	both.Go(func() {
		_, _ = io.Copy(far, local)
		_ = far.CloseWrite()
	})
	over := make(chan struct{})
	go func() {
		both.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-l.done: // nobody reads the agent's answer any more
	}
	_, _ = local.Close(), far.Close()
	<-over
}

// endWrite says that nothing more comes, where a connection can say so.
func endWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
		return
	}
	_ = c.Close()
}
