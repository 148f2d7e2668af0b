package config

import (
	"strings"
	"testing"
)

func TestRatesOfTheGate(t *testing.T) {
	c, err := Parse([]byte("[gate.rate.tokens]\nrequests = 5\nburst = 50\n"), Paths{})
	if err != nil || c.Gate.Rate.Tokens.Requests != 5 || c.Gate.Rate.Tokens.Turns == 0 || c.Gate.Rate.People.Requests == 0 {
		t.Errorf("%+v, %v: what is not said keeps its default", c.Gate.Rate, err)
	}
	_, err = Parse([]byte("[gate.rate.people]\nrequests = 5\nburst = 4\nturns = -1\n[gate.rate.tokens]\nbytes = -1\n"), Paths{})
	for _, want := range []string{"gate.rate.people.burst", "gate.rate.people.turns", "gate.rate.tokens.bytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if _, err = Parse([]byte("[gate.rate.token]\nrequests = 5\n"), Paths{}); err == nil || !strings.Contains(err.Error(), "line") {
		t.Errorf("an unknown key: %v", err)
	}
}
