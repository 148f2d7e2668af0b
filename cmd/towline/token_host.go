package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"time"

	"towline/appserver/access"
	"towline/appserver/access/token"
	"towline/appserver/audit"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config"
	"towline/config/managed"
	"towline/config/store"
)

const (
	// tokenLimit bounds a command about tokens.
	tokenLimit = 30 * time.Second
	// homePatience is how long another command may have the home, and homePause the
	// time between two tries.
	homePatience = 10 * time.Second
	homePause    = 50 * time.Millisecond
)

// tokenCall has this machine's host answer a towline/token/* request: its daemon
// where one runs, else this process with the home to itself.
func tokenCall(ctx context.Context, method string, params, result any) error {
	paths, cfg, err := setup()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tokenLimit)
	defer cancel()
	for end := time.Now().Add(homePatience); ; {
		st, err := transport.Dial(ctx, "unix://"+paths.FindSocket())
		if err == nil {
			return askTokens(ctx, st, method, params, result)
		}
		busy, err := tokensHere(ctx, paths, cfg, method, params, result)
		if !busy || time.Now().After(end) {
			return err
		}
		// A daemon that is just starting or ending, or another command.
		select {
		case <-time.After(homePause):
		case <-ctx.Done():
			return err
		}
	}
}

// askTokens asks the daemon at the other end of st.
func askTokens(ctx context.Context, st rpc.Stream, method string, params, result any) error {
	p := rpc.NewPeer(st, deaf{})
	served := make(chan struct{})
	go func() { defer close(served); _ = p.Serve(ctx) }()
	defer func() { p.Close(nil); <-served }()
	var refused *protocol.Error
	err := p.Call(ctx, "initialize", protocol.InitializeParams{ClientInfo: protocol.ClientInfo{Name: "towline-token", Version: version()}}, nil)
	if err != nil && !errors.As(err, &refused) { // an engine that is down answers so; the gate is there
		return &config.Problem{Stage: "daemon", Err: err, Hints: []string{"see how it is: `towline status`"}, Exit: config.ExitUnavailable}
	}
	err = p.Call(ctx, method, params, result)
	if !errors.As(err, &refused) {
		if err != nil {
			return &config.Problem{Stage: "daemon", Err: err, Hints: []string{"see how it is: `towline status`"}, Exit: config.ExitUnavailable}
		}
		return nil
	}
	var known *config.Problem
	if err := token.FromWire(err); errors.As(err, &known) {
		return err
	}
	if refused.Code == protocol.CodeMethodNotFound {
		return &config.Problem{
			Stage: "daemon", Err: errors.New("the daemon that runs here is an older Towline, which knows no access tokens"),
			Hints: []string{"end it with `towline app-server stop`, and start it again"}, Exit: config.ExitUnavailable,
		}
	}
	return &config.Problem{Stage: "token", Err: errors.New(printable(refused.Message)), Hints: []string{"see how the daemon is: `towline status`"}}
}

// tokensHere answers without a daemon; busy, when somebody else has the home.
func tokensHere(ctx context.Context, paths config.Paths, cfg config.Config, method string, params, result any) (busy bool, err error) {
	reads := method == protocol.ExtTokenList || method == protocol.ExtTokenShow
	if _, err := os.Stat(paths.Database()); reads && errors.Is(err, fs.ErrNotExist) {
		return false, nothingKept(method, result)
	}
	if err := paths.Ensure(); err != nil {
		return false, err
	}
	release, _, err := paths.Hold()
	if err != nil {
		return true, &config.Problem{
			Stage: "state", Err: fmt.Errorf("take the home %s: %w", paths.Home(), err), Exit: config.ExitUnavailable,
			Hints: []string{"see what has it: `towline status`"},
		}
	}
	defer release()
	st, err := store.Open(ctx, paths.Database())
	if err != nil {
		return false, &config.Problem{Stage: "state", Err: err, Exit: config.ExitConfig}
	}
	defer func() { _ = st.Close() }() // what was written is on the disk
	c := token.Config{Store: st, Policy: func() (managed.Policy, error) { return managed.Load(managed.Options{}) }}
	if !reads {
		// What cannot be recorded is not done.
		a, err := audit.Open(paths.Audit(), audit.Options{
			MaxSize: cfg.Audit.MaxBytes(), Keep: cfg.Audit.KeepFiles, Refuse: cfg.Audit.OnFailure == config.AuditRefuse,
			Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), // an entry that cannot be written is told there
		})
		if err != nil {
			return false, &config.Problem{
				Stage: "audit", Err: err, Exit: config.ExitConfig,
				Hints: []string{"run `towline audit verify` to see where the chain breaks"},
			}
		}
		defer func() { _ = a.Close() }()
		c.Audit = a.Record
	}
	m, err := token.New(c)
	if err != nil {
		return false, err
	}
	raw, err := json.Marshal(params)
	if err != nil {
		return false, err
	}
	answer, err := m.Extensions()[method](ctx, localPerson(), raw)
	if err != nil {
		return false, token.FromWire(err)
	}
	if raw, err = json.Marshal(answer); err != nil {
		return false, err
	}
	return false, json.Unmarshal(raw, result)
}

// nothingKept is what a home without a database knows: nothing is made to find out.
func nothingKept(method string, result any) error {
	if list, ok := result.(*token.List); ok && method == protocol.ExtTokenList {
		list.Data = []token.Token{}
		return nil
	}
	return &config.Problem{
		Stage: "token", Err: errors.New("this machine has no tokens"), Exit: config.ExitFailure,
		Hints: []string{"make one: `towline token create --name NAME`", "is TOWLINE_HOME set as for the daemon?"},
	}
}

// localPerson is who runs this process, as the daemon's own socket would say.
func localPerson() access.Principal {
	uid := strconv.Itoa(os.Getuid())
	p := access.Principal{Kind: access.KindLocal, ID: "uid:" + uid, Name: "uid " + uid, Role: protocol.RoleAdmin}
	if u, err := user.LookupId(uid); err == nil && u.Username != "" {
		p.Name = u.Username
	}
	return p
}
