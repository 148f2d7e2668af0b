package sshd

import (
	"context"
	"errors"
	"log/slog"
	"net"

	gossh "golang.org/x/crypto/ssh"

	"towline/appserver/protocol"
	"towline/sshd/auth"
)

// maxUserName bounds what is logged of a name anybody may send.
const maxUserName = 64

// loginConfig is one connection's. Public keys are the only way in; there is no
// password and no keyboard-interactive to guess at. The callbacks are x/crypto's
// own rather than the library's handlers, so that nothing the library keeps from
// one attempt can reach the next.
func (c *conn) loginConfig() *gossh.ServerConfig {
	cfg := &gossh.ServerConfig{
		MaxAuthTries:              c.s.cfg.Limits.AuthTries,
		PublicKeyCallback:         c.offered,
		VerifiedPublicKeyCallback: c.proved,
	}
	harden(cfg)
	return cfg
}

// offered is asked whether a key would do, by anybody and without proof. All
// refusals look alike from outside.
func (c *conn) offered(meta gossh.ConnMetadata, key gossh.PublicKey) (*gossh.Permissions, error) {
	grant, err := c.s.keys.Check(key, addrOf(meta.RemoteAddr()))
	if err != nil {
		c.mu.Lock()
		c.attempt = attempt{auth.Printable(meta.User(), maxUserName), gossh.FingerprintSHA256(key), err}
		c.mu.Unlock()
		return nil, err
	}
	perms := &gossh.Permissions{}
	if grant.NoTouch {
		perms.Extensions = map[string]string{"no-touch-required": ""}
	}
	return perms, nil
}

// proved is called when the client has signed with the key. What it returns is
// what the finished connection carries. The file is asked again: half a minute
// may have passed since the key was offered.
func (c *conn) proved(meta gossh.ConnMetadata, key gossh.PublicKey, perms *gossh.Permissions, algorithm string) (*gossh.Permissions, error) {
	grant, err := c.s.keys.Check(key, addrOf(meta.RemoteAddr()))
	if err != nil {
		return nil, err
	}
	if !c.place.admit(grant.Role == protocol.RoleAdmin) {
		c.log.Warn("login refused", "why", errFull)
		return nil, errFull
	}
	perms.ExtraData = map[any]any{identityKey{}: identity{key, grant}}
	c.log.Info(
		"logged in", "principal", grant.Name, "key", grant.Fingerprint, "role", grant.Role.String(),
		"user", auth.Printable(meta.User(), maxUserName), "line", grant.Line, "algorithm", algorithm,
	)
	c.audit(EventLogin, grant.Principal(), slog.String("role", grant.Role.String()))
	return perms, nil
}

// failed hears why a handshake ended. Strangers end theirs all day long; that
// two sides share no algorithm is worth an owner's while.
func (s *Server) failed(nc net.Conn, err error) {
	level := slog.LevelDebug
	if none := (*gossh.AlgorithmNegotiationError)(nil); errors.As(err, &none) {
		level = slog.LevelInfo
	}
	s.log.Log(context.Background(), level, "handshake ended", "remote", nc.RemoteAddr().String(), "why", err)
}
