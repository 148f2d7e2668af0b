package native_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"towline/appserver/engine/native/sandbox"
)

// TestMain lets the test binary be its own sandbox helper, and fails the run
// when a goroutine outlives its engine.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		forgetSchemas()
		os.Exit(code)
	}))
}
