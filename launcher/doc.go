// Package launcher turns the name of a host into a live app-server connection.
//
// [Connect] walks the stages of a connection in order: what ssh_config says
// (config/sshconfig), the SSH connection itself (sshclient in this process, or
// systemssh), what is on the other side and how it is started (bootstrap), and
// whether both ends understand each other. Each step is told as a
// [remote.Event]; each failure is a *config.Problem with the stage it happened
// at and what to type next.
//
// A [Session] is what comes out: one SSH connection for everything, however many
// clients use it. [Session.Dial] opens an app-server stream. Where the remote is
// Towline that stream is resumable: it outlives the SSH connection, which is made
// anew without asking anybody again. Where it is a stock Codex the stream ends
// with the link, and the next Dial makes both.
//
// What is remembered between runs, so that the second connection is fast and
// opens where the person was, is in a [Memory]. [Diagnose] walks the same stages
// to explain them rather than to use them.
//
// Nothing here draws or reads a terminal: questions go through the caller's
// [remote.Asker].
package launcher
