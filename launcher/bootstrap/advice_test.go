package bootstrap

import (
	"slices"
	"strings"
	"testing"
)

// What a program there advises is no part of why it failed.
func TestComplaint(t *testing.T) {
	said, advised := complaint("WARNING: proceeding\nerror: start: nothing here can do the work\nhint: install it: `npm install`\x1b[2J\nhint: or name an endpoint\nCaused by:\n0: unknown\n")
	if said != "start: nothing here can do the work" {
		t.Errorf("said %q", said)
	}
	if want := []string{"install it: `npm install`", "or name an endpoint"}; !slices.Equal(advised, want) {
		t.Errorf("advised %q", advised)
	}
	if _, advised = complaint(strings.Repeat("hint: more\n", 100)); len(advised) != maxAdvised {
		t.Errorf("%d pieces of advice", len(advised))
	}
}
