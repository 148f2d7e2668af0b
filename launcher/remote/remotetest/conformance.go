// Package remotetest holds what every carrier of an SSH connection must do,
// written once: [Conformance] runs over any remote.Conn. [StartSSHD] gives it a
// real OpenSSH server to talk to. Only tests import it.
package remotetest

import (
	"testing"

	"towline/launcher/remote"
)

// Conformance checks that what dial returns behaves as remote.Conn promises. The
// far end must be this machine, with a POSIX shell, forwarding allowed and at
// least ten sessions a connection. dial is called for several fresh connections
// and fails the test itself; Conformance closes them.
func Conformance(t *testing.T, dial func() remote.Conn) {
	t.Helper()
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			c := dial()
			t.Cleanup(func() { _ = c.Close() })
			check(t, c)
		})
	}
}

var checks = map[string]func(*testing.T, remote.Conn){}
