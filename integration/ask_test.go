package integration

import (
	"strings"
	"testing"

	"towline/integration/peer"
)

// A question for a key ends with Ctrl-D and Ctrl-C, says so, and leaves a terminal
// that shows what is typed.
func TestAQuestionForAKeyCanBeLeft(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"C-d", "C-c"} {
		term := peer.Open(t, 80, 24, nil, "sh", "-c", peer.Binary(t)+` login --with-api-key; echo "left with $?"; cat`)
		term.Wait("(it is not shown):")
		term.Type("sk-canary")
		term.Keys("C-u", key)
		term.Wait("left with 130", "nothing was entered")
		term.Type("seen again")
		if screen := term.Wait("seen again"); strings.Contains(screen, "canary") {
			t.Errorf("what was typed is shown:\n%s", screen)
		}
	}
}
