// Package transport opens the doors clients come through and knocks at the
// doors of others: a WebSocket over a unix socket (Codex's own framing there),
// a WebSocket over TCP, and lines on stdio. What comes out is an rpc.Stream and,
// on the listening side, the principal at its other end.
//
// Who may come in, when no authentication is configured:
//
//   - unix: the user this process runs as, by the kernel's peer credentials.
//   - ws, loopback only: a process of the same user, found in the kernel's
//     socket table. Where that cannot be known, nobody.
//
// Root is another user unless this process is root. A request that carries an
// Origin comes from a web page and is refused on every listener, and a Host
// header that is not loopback means a rebound name. So a shared machine and a
// web page are no way in.
//
// Start with [Listen] or [Dial].
package transport
