package sshd

import (
	"charm.land/ssh"
	gossh "golang.org/x/crypto/ssh"

	"towline/sshd/auth"
	"towline/sshd/session"
)

// policy is the reason given for what the protocol offers and this host does not.
const policy = "switched off on this host by policy"

// channelHandlers serve sessions and refuse the rest, with a reason ssh prints.
func channelHandlers() map[string]ssh.ChannelHandler {
	m := map[string]ssh.ChannelHandler{"session": serveSession, "direct-tcpip": serveForward, "default": unknownChannel}
	for typ, what := range map[string]string{
		"direct-streamlocal@openssh.com": "socket forwarding",
		"tun@openssh.com":                "tunnelling",
	} {
		m[typ] = func(_ *ssh.Server, _ *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
			connOf(ctx).refuse(what)
			_ = nc.Reject(gossh.Prohibited, what+" is "+policy) // a dead connection needs no answer
		}
	}
	return m
}

func unknownChannel(_ *ssh.Server, _ *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
	what := "channel " + auth.Printable(nc.ChannelType(), 40)
	connOf(ctx).refuse(what)
	_ = nc.Reject(gossh.UnknownChannelType, what+" is unknown here")
}

// requestHandlers answer requests about the whole connection. A refusal carries
// no reason on the wire, so the next session's stderr does.
func requestHandlers() map[string]ssh.RequestHandler {
	m := map[string]ssh.RequestHandler{
		"default": func(ssh.Context, *ssh.Server, *gossh.Request) (bool, []byte) { return false, nil },
	}
	for typ, what := range map[string]string{
		"tcpip-forward":                   "remote port forwarding",
		"streamlocal-forward@openssh.com": "remote socket forwarding",
	} {
		m[typ] = func(ctx ssh.Context, _ *ssh.Server, _ *gossh.Request) (bool, []byte) {
			c := connOf(ctx)
			c.refuse(what)
			c.notice(what + " is " + policy)
			return false, nil
		}
	}
	return m
}

// serveSession runs one session channel.
func serveSession(srv *ssh.Server, sc *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
	c := connOf(ctx)
	id, ok := identityOf(sc)
	if !ok { // the handshake cannot end without one
		_ = nc.Reject(gossh.Prohibited, "not logged in")
		return
	}
	if err := c.begin(); err != nil {
		_ = nc.Reject(gossh.ResourceShortage, err.Error())
		return
	}
	defer c.end()
	v := &visit{c: c, grant: id.grant, principal: id.grant.Principal(), user: auth.Printable(sc.User(), maxUserName)}
	session.Serve(c.ctx, srv, sc, nc, ctx, session.Rules{
		Terminal: id.grant.Terminal, Subsystem: v.subsystem, Refused: c.refuse, Handle: v.handle, Log: c.log,
	})
}
