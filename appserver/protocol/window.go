package protocol

// Window is a range of versions of what Towline adds to the app-server
// protocol (extension methods, the resumable stream), both ends included. Two
// programs understand each other when their windows meet. The zero Window is
// "unknown": a Codex, or a Towline from before windows.
type Window struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

// Spoken is what this build speaks. Raise Max with every addition a peer must
// know about, Min when the support for an old version ends.
var Spoken = Window{Min: 1, Max: 1}

// Meet is the newest version both windows hold, and whether there is one.
func (w Window) Meet(o Window) (version int, ok bool) {
	version = min(w.Max, o.Max)
	return version, version > 0 && version >= w.Min && version >= o.Min
}
