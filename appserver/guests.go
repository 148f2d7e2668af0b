package appserver

import (
	"context"
	"io"
	"net"
	"sync"

	"towline/appserver/access"
	"towline/appserver/handover"
	"towline/appserver/rpc"
)

// Note implements [handover.Daemon].
func (s *Server) Note(n handover.Note) {
	var p access.Principal
	if n.Who != nil {
		p = n.Who.Principal()
	}
	s.audit.Record(n.Event, p, n.Attrs()...)
}

// Guest implements [handover.Daemon].
func (s *Server) Guest(ctx context.Context, g handover.Guest, c net.Conn) {
	if ph, _, _ := s.succ.now(); ph == retired {
		return // they come again, to whoever has the socket now
	}
	if g.Bytes {
		_ = s.ServeBytes(ctx, c, g.Principal(), g.Via, g.Remote) // the gate has logged why
		return
	}
	_ = s.Serve(ctx, rpc.NewLines(c), g.Principal(), g.Via, g.Remote)
}

// visit carries a client that is still here to the heir, until one of them ends.
func (s *Server) visit(ctx context.Context, st rpc.Stream, p access.Principal, via, remote string) error {
	defer func() { _ = st.Close(nil) }()
	c, err := handover.Visit(ctx, s.succ.path, handover.GuestOf(p, via, remote))
	if err != nil {
		return err
	}
	far := rpc.NewLines(c)
	var back sync.WaitGroup
	defer back.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	back.Go(func() {
		defer cancel()
		copyMessages(ctx, st, far)
	})
	copyMessages(ctx, far, st)
	return nil
}

func copyMessages(ctx context.Context, to, from rpc.Stream) {
	defer func() { _ = to.Close(nil) }()
	for {
		msg, err := from.Read(ctx)
		if err != nil || to.Write(ctx, msg) != nil {
			return
		}
	}
}

// visitBytes is visit for a client that has not shaken hands yet.
func (s *Server) visitBytes(ctx context.Context, rw io.ReadWriteCloser, p access.Principal, via, remote string) error {
	defer func() { _ = rw.Close() }()
	g := handover.GuestOf(p, via, remote)
	g.Bytes = true
	c, err := handover.Visit(ctx, s.succ.path, g)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close(); _ = rw.Close() })
	defer stop()
	var back sync.WaitGroup
	defer back.Wait()
	back.Go(func() {
		_, _ = io.Copy(rw, c)
		_ = rw.Close()
	})
	_, _ = io.Copy(c, rw)
	_ = c.Close()
	return nil
}
