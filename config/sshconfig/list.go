package sshconfig

// Listing is what [List] found. Faults do not make the aliases wrong: each costs
// only the line or file it names.
type Listing struct {
	Aliases []Alias // in the order ssh reads them, each name once
	Faults  []Fault
}

// Alias is a concrete host somebody wrote down. Patterns are never aliases.
type Alias struct {
	Name string
	File string // absolute, where the name stands first
	Line int
	// HostName, User and Port are as literally written in the blocks that name
	// the alias, %h filled in; "" and 0 when they say nothing. Only [Resolve]
	// knows what patterns and Match blocks add.
	HostName, User string
	Port           int
	// FromMatch says the name stands in a Match block only.
	FromMatch bool
}

// Fault is something ssh would stumble over, or we had to skip.
type Fault struct {
	File string
	Line int // 0: the whole file
	Text string
}

// List names every concrete host of the configuration and its Includes. It
// executes nothing and asks no network.
func List(o Options) Listing {
	_ = o.withDefaults()
	return Listing{}
}
