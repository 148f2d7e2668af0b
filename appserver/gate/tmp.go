package gate

type ledger struct{}
type client struct{}
type thread struct{}
type upstream struct{}

func newLedger(g *Gate) *ledger { return &ledger{} }
