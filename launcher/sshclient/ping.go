package sshclient

import (
	"context"
	"net"
)

// Ping asks the target for a sign of life and waits for it, for when there is
// reason to doubt the connection and no time to wait for the keepalive. An error
// is that nothing came before ctx ended, or that the connection has.
func (c *Client) Ping(ctx context.Context) error {
	answered := make(chan error, 1)
	if !c.last.spawn(func() {
		// A refusal is a sign of life too.
		_, _, err := c.last.conn.SendRequest("keepalive@openssh.com", true, nil)
		answered <- err
	}) {
		return net.ErrClosed
	}
	select {
	case err := <-answered:
		return err
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
