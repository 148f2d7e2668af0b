package integration

import (
	"os"
	"testing"

	"towline/integration/peer"
)

func TestMain(m *testing.M) {
	if issuer := os.Getenv(refresherVariable); issuer != "" {
		os.Exit(refresher(issuer))
	}
	code := m.Run()
	peer.CleanUp()
	os.Exit(code)
}
