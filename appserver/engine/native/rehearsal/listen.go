package rehearsal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Server is a Model on a loopback address.
type Server struct {
	ln    net.Listener
	model *Model
}

// Listen opens addr, which must be a loopback address ("127.0.0.1:0" picks a
// port): there is no authentication. Nothing is served until Serve.
func Listen(ctx context.Context, addr string, cfg Config) (*Server, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for the rehearsal model: %w", err)
	}
	if a, ok := ln.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		_ = ln.Close() // nothing was served on it
		return nil, fmt.Errorf("listen for the rehearsal model: %s is not a loopback address", addr)
	}
	return &Server{ln: ln, model: New(cfg)}, nil
}

// URL is the base URL to configure as the provider's, ending in /v1.
func (s *Server) URL() string { return "http://" + s.ln.Addr().String() + "/v1" }

// Close releases the address of a Server that is not served.
func (s *Server) Close() error { return s.ln.Close() }

// Serve answers until ctx ends, then ends running answers and returns nil.
func (s *Server) Serve(ctx context.Context) error {
	srv := &http.Server{
		Handler:           s.model,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(s.ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the rehearsal model: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := srv.Shutdown(end); err != nil { // handlers end with ctx; this is for idle peers
		_ = srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the rehearsal model: %w", err)
	}
	return nil
}
