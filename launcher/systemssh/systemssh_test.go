package systemssh

import (
	"testing"

	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

func TestConformance(t *testing.T) {
	d := remotetest.StartSSHD(t)
	s := newSetting(t, "box", host("box", d, d.Port))
	s.knows("box", d)
	remotetest.Conformance(t, func() remote.Conn {
		c, err := s.dial()
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
}
