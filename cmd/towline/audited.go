package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"towline/appserver/access"
	"towline/appserver/audit"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config"
	"towline/config/osfile"
)

// noteTime bounds telling a daemon what was done.
const noteTime = 5 * time.Second

// recordHere appends to this machine's audit what a command did to a credential of
// it. The daemon, where one runs, has the file; it is told.
func recordHere(ctx context.Context, paths config.Paths, event string, facts []slog.Attr) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTime)
	defer cancel()
	if tellDaemon(ctx, paths, event, facts) == nil {
		return nil
	}
	a, err := audit.Open(paths.Audit(), audit.Options{})
	if errors.Is(err, osfile.ErrLocked) { // one has just started
		return tellDaemon(ctx, paths, event, facts)
	}
	if err != nil {
		return err
	}
	a.Record(event, access.Principal{}, append([]slog.Attr{slog.String("via", "command")}, facts...)...)
	return a.Close()
}

// tellDaemon has the daemon append it.
func tellDaemon(ctx context.Context, paths config.Paths, event string, facts []slog.Attr) error {
	st, err := transport.Dial(ctx, "unix://"+paths.FindSocket())
	if err != nil {
		return err
	}
	p := rpc.NewPeer(st, deaf{})
	served := make(chan struct{})
	go func() { defer close(served); _ = p.Serve(ctx) }()
	defer func() { p.Close(nil); <-served }()
	var refused *protocol.Error
	err = p.Call(ctx, "initialize", protocol.InitializeParams{
		ClientInfo: protocol.ClientInfo{Name: "towline-credentials", Version: version()},
	}, nil)
	if err != nil && !errors.As(err, &refused) { // an engine that is down answers so; the gate is there
		return err
	}
	params := struct {
		Event string            `json:"event"`
		Facts map[string]string `json:"facts"`
	}{event, make(map[string]string, len(facts))}
	for _, f := range facts {
		params.Facts[f.Key] = f.Value.String()
	}
	return p.Call(ctx, protocol.ExtCredentialNote, params, nil)
}
