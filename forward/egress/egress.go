// Package egress lends one machine's way to the network to another, for a short
// list of addresses: a host without egress reaches its model's endpoint through
// the laptop that is connected to it. The bytes are not looked at; what is
// encrypted between the host and the endpoint stays so.
//
// It needs one byte stream, which the laptop opens to the host's daemon
// ([Offer]). The laptop serves it ([Server]), the host dials through it
// ([Outlet]). The laptop alone decides what is reached: an address that is not on
// its list is refused whatever the host says of it, and a name on the list that
// leads to a private address is refused too, unless a person named it.
//
// # Wire format
//
// The laptop sends on the fresh stream, as a client of HTTP/1.1:
//
//	GET /egress HTTP/1.1
//	Connection: Upgrade
//	Upgrade: towline-egress.v1
//
// and gets "101 Switching Protocols", or a refusal whose body is one line of
// text. From then on the stream is HTTP/2 with prior knowledge, the other way
// round: the host is its client. The host sends
//
//	GET /lease
//
// whose answer lasts as long as the loan and is lines of JSON: first a [Lease],
// and, if the laptop leaves in good order, {"bye":true}. It says with
//
//	POST /status
//
// and a [Status] in JSON how far it is with using the loan. For each connection
// it wants it sends
//
//	CONNECT host:port
//
// and has its bytes in the bodies of request and answer: 200 is a connection; 403
// an address that is not lent; 502 one that could not be reached; each with one
// line of text. When the endpoint ends its direction the stream ends; when the
// host ends its own, the endpoint hears that and may go on speaking.
package egress

import (
	"errors"
	"time"
)

// Protocol is the Upgrade token.
const Protocol = "towline-egress.v1"

// Limits, and what they are for.
const (
	// maxTargets bounds a list: a laptop lends a handful of addresses.
	maxTargets = 64
	// maxStreams is how many connections a host may have at a time: an engine
	// needs a few, and one that leaks them must not take the laptop's descriptors.
	maxStreams = 64
	// streamWindow is how many bytes of one connection wait at the laptop for a
	// slow endpoint, connWindow of all of them.
	streamWindow = 512 << 10
	connWindow   = 4<<20 - 1
	// dialTime bounds reaching an endpoint, from the laptop.
	dialTime = 20 * time.Second
	// offerTime bounds the handshake, maxAnswer its size in bytes.
	offerTime = 30 * time.Second
	maxAnswer = 16 << 10
	// pingAfter a silence the other end is asked for a sign of life, and given up
	// pingTime later.
	pingAfter = 15 * time.Second
	pingTime  = 20 * time.Second
	// maxLine bounds one line of a lease or a status, and maxText a refusal's text,
	// in bytes.
	maxLine = 32 << 10
	maxText = 300
	// Gap is for how long a host waits for a laptop whose link broke before it
	// counts it as gone, and gapDial for how long one connection waits for it.
	Gap     = 2 * time.Minute
	gapDial = 25 * time.Second
)

// Errors of dialing through a loan. Branch with errors.Is.
var (
	// ErrNotLent: the laptop does not lend that address.
	ErrNotLent = errors.New("the laptop does not lend its network for that address")
	// ErrUnreached: the laptop could not connect to it.
	ErrUnreached = errors.New("the laptop could not reach it")
	// ErrGone: the laptop is not there.
	ErrGone = errors.New("the laptop that lent its network is gone")
)

// Lease is what a laptop lends.
type Lease struct {
	// Allow lists host:port, as [Target.String] writes it.
	Allow []string `json:"allow,omitempty"`
	// From is what the laptop calls itself, for people.
	From string `json:"from,omitempty"`
	// Bye: the laptop leaves in good order and will not come back by itself.
	Bye bool `json:"bye,omitempty"`
}

// Status is how far a host is with using a loan.
type Status struct {
	// Ready: what works there uses the loan.
	Ready bool `json:"ready"`
	// Text is for the laptop's person: what it waits for, or why it will not.
	Text string `json:"text,omitempty"`
	// Failed: it never will be.
	Failed bool `json:"failed,omitempty"`
}
