package config

// Gate narrows what clients may do.
type Gate struct {
	// DisableUnsandboxed refuses the methods that reach files or run programs
	// outside the agent's sandbox, for every role.
	DisableUnsandboxed bool `toml:"disable_unsandboxed"`
	// Rate bounds what one principal may ask for, over all of its connections.
	// The user this program runs as is not bounded.
	Rate Rates `toml:"rate"`
}

// Rates are the bounds of people (SSH keys, paired devices) and of tokens (access
// tokens, capability tokens, signed bearer tokens).
type Rates struct {
	People Rate `toml:"people"`
	Tokens Rate `toml:"tokens"`
}

// Rate bounds one principal. Zero is no bound. Answers to approvals and
// interrupts have a wide one of their own; what is beyond gets Codex's error -32001.
type Rate struct {
	// Requests are those a second that may go on for ever, Burst how many may come
	// at once; zero is as many as there are requests in ten seconds.
	Requests int `toml:"requests"`
	Burst    int `toml:"burst"`
	// Turns may be started per minute, all of them at once.
	Turns int `toml:"turns"`
	// Running turns, of a token with a scope.
	Running int `toml:"running"`
	// Bytes of requests that have no answer yet. One request always passes.
	Bytes int64 `toml:"bytes"`
}

// defaultRates hardly show to a person, and keep a token that was stolen or a
// pipeline that runs wild from taking the machine.
func defaultRates() Rates {
	return Rates{
		People: Rate{Requests: 2000, Burst: 10_000, Turns: 600, Running: 0, Bytes: 256 << 20},
		Tokens: Rate{Requests: 200, Burst: 1000, Turns: 60, Running: 16, Bytes: 64 << 20},
	}
}

func (g Gate) validate(bad func(key, format string, args ...any)) {
	g.Rate.People.validate("gate.rate.people.", bad)
	g.Rate.Tokens.validate("gate.rate.tokens.", bad)
}

func (r Rate) validate(prefix string, bad func(key, format string, args ...any)) {
	for _, v := range []struct {
		key string
		n   int64
	}{{"requests", int64(r.Requests)}, {"burst", int64(r.Burst)}, {"turns", int64(r.Turns)}, {"running", int64(r.Running)}, {"bytes", r.Bytes}} {
		if v.n < 0 {
			bad(prefix+v.key, "%d is below zero; 0 is no bound", v.n)
		}
	}
	if r.Burst > 0 && r.Burst < r.Requests {
		bad(prefix+"burst", "%d is less than the requests of one second", r.Burst)
	}
}
