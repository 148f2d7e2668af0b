package integration

import (
	"os"
	"testing"

	"towline/integration/peer"
)

func TestMain(m *testing.M) {
	code := m.Run()
	peer.CleanUp()
	os.Exit(code)
}
