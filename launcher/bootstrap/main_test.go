package bootstrap

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/config"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		cleanUp()
		os.Exit(status)
	}))
}

// cleanUp removes what tests share.
var cleanUp = func() {}

// patience bounds waits on real programs; they take milliseconds.
const patience = 45 * time.Second

// refused checks stage, cause and hint of a Problem.
func refused(t testing.TB, err error, stage, want, hint string) {
	t.Helper()
	var p *config.Problem
	if !errors.As(err, &p) {
		t.Fatalf("error %v is no Problem", err)
	}
	if p.Stage != stage {
		t.Errorf("stage %q, want %q: %v", p.Stage, stage, err)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("%v\ndoes not say %q", err, want)
	}
	if h := strings.Join(config.Hints(err), "\n"); h == "" || !strings.Contains(h, hint) {
		t.Errorf("hints %q lack %q", h, hint)
	}
	for _, r := range err.Error() {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			t.Errorf("control characters in %q", err)
		}
	}
}
