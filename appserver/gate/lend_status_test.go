package gate

import (
	"strings"
	"testing"

	"towline/appserver/protocol"
)

func TestStatusNamesTheLenderAndNoToken(t *testing.T) {
	r := newRig(t, nil, true)
	other := r.join("other", protocol.RoleObserver, true)
	lender := r.join("lender", protocol.RoleAdmin, false)
	lent := func() string { return string(protocol.Field(other.must(protocol.ExtStatus, nil), "lent")) }
	if got := lent(); got != "" {
		t.Errorf("nothing is lent: %s", got)
	}
	lender.must(protocol.AccountStart, lendParams(canary, "acct-1"))
	if got := lent(); !strings.Contains(got, `"account":"acct-1"`) || !strings.Contains(got, `"name":"lender"`) || strings.Contains(got, "canary") {
		t.Errorf("got %s", got)
	}
	lender.must("account/logout", nil)
	if got := lent(); got != "" {
		t.Errorf("it was taken back: %s", got)
	}
}
