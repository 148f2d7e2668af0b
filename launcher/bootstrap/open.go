package bootstrap

import (
	"context"

	"towline/appserver/rpc"
)

// Opened describes an open app-server connection.
type Opened struct {
	Kind    Kind   `json:"kind"`
	Version string `json:"version"`
	// CutEndsTurn: a link that breaks ends the running turn. Note says so.
	CutEndsTurn bool `json:"cutEndsTurn"`
	// Resumable: towline.resume.v1 was agreed; wrap the Stream in rpc.NewResumable.
	Resumable bool `json:"resumable"`
	// Started: a daemon was started for this connection.
	Started bool   `json:"started"`
	Note    string `json:"note,omitempty"`
	// Stderr is the end of what the remote program said besides, stripped of
	// control characters. It may be called at any time.
	Stderr func() string `json:"-"`
}

// Open starts what ch says if need be and connects to it over one command
// channel. The Stream owns the channel.
func Open(ctx context.Context, r Remote, rep Report, ch Choice) (rpc.Stream, Opened, error) {
	panic("being written")
}
