package sshd

import (
	"context"
	"errors"
	"net"
)

// Server is an open SSH front door.
type Server struct{}

// Listen opens the door: it reads or makes the host key, checks the
// authorized_keys file and binds the address. Nothing is accepted until Serve.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return nil, errors.ErrUnsupported
}

// Addr is the address bound.
func (s *Server) Addr() net.Addr { return nil }

// Fingerprint is the host key's, as ssh prints it: "SHA256:…".
func (s *Server) Fingerprint() string { return "" }

// Serve accepts until ctx ends, then tells every session, gives them
// Limits.Drain to finish, closes what is left and waits for all of it.
func (s *Server) Serve(ctx context.Context) error { return errors.ErrUnsupported }
