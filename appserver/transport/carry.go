package transport

import (
	"context"

	"towline/appserver/access"
	"towline/appserver/rpc"
)

// bearing is what a door found out about a connection.
type bearing struct {
	p           access.Principal
	via, remote string
	class       string // of the door: sessions do not change it
}

// ClassRemote marks the sessions of listeners that other machines reach.
const classRemote = "remote "

// RemoteSession reports whether owner, of a session of rpc.Sessions, came through
// a listener that other machines reach.
func RemoteSession(owner string) bool {
	return len(owner) >= len(classRemote) && owner[:len(classRemote)] == classRemote
}

// owner says whose a session is, and with which rights: somebody whose role or
// scope has changed is not who began it.
func (b bearing) owner() string {
	o := b.class + b.p.Key() + " " + b.p.Role.String()
	if b.p.Scope != nil {
		o += " " + b.p.Scope.String()
	}
	return o
}

// carry serves an open connection and closes it. The error is a link's.
func (o Options) carry(ctx context.Context, s rpc.Stream, b bearing, accept AcceptFunc) error {
	if !rpc.Resumes(s) {
		defer func() { _ = s.Close(nil) }()
		accept(ctx, s, b.p, b.via, b.remote)
		return nil
	}
	owner := b.owner()
	if b.p.Lapsed != nil {
		// The credential of this link, which need not be the one the session began
		// with, takes the session along when it ends.
		link, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		over := make(chan struct{})
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			select {
			case <-b.p.Lapsed:
				cancel(rpc.ErrExpelled)
			case <-over:
			}
		}()
		defer func() { close(over); <-watched }()
		ctx = link
	}
	return o.Sessions.Serve(ctx, s, owner, func(ctx context.Context, s rpc.Stream) {
		accept(ctx, s, b.p, b.via, b.remote)
		select {
		case <-b.p.Lapsed: // a nil one never
			rpc.Expel(s)
		default:
		}
	})
}
