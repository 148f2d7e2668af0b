// Package supervisor keeps a daemon running in the background: it starts it,
// starts it again when it ends badly, more and more slowly the more often that
// happens, and remembers why it ended. It never gives up for good, unless the
// daemon itself says that trying again is of no use.
//
// A supervisor is a process of its own that does nothing else, so that what
// brings the daemon down leaves it standing. It holds a lock in the home, which
// goes with it however it ends; [Find] tells by that lock whether one is there,
// never by a pid a file mentions. When a supervisor is killed its daemon goes on,
// and the next supervisor takes it up where it is.
//
// The daemon writes to its log itself, not through a pipe: nothing it says can be
// lost or block, whichever of the two ends first.
//
// Start with [New], then [Supervisor.Run]. What a supervisor does and did is in
// one file, supervisor.json, see [State].
package supervisor
