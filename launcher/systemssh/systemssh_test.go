package systemssh

import (
	"testing"

	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

func TestConformance(t *testing.T) {
	d := remotetest.StartSSHD(t)
	// Keys are exchanged anew in the middle of things, under the proxy's feet.
	s := newSetting(t, "box", host("box", d, d.Port)+"  RekeyLimit 1M\n")
	s.knows("box", d)
	remotetest.Conformance(t, func() remote.Conn {
		c, err := s.dial()
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
}
