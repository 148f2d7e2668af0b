package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"towline/appserver/account"
	"towline/config"
	"towline/forward/login"
)

// eventWriter writes whole lines, from any goroutine. A driver that does not read
// any more ends the login.
type eventWriter struct {
	mu   sync.Mutex
	out  io.Writer
	gone context.CancelCauseFunc
}

func (w *eventWriter) write(e login.Event) {
	var line bytes.Buffer
	enc := json.NewEncoder(&line) // ends the line
	enc.SetEscapeHTML(false)      // an address is read by people too
	if err := enc.Encode(e); err != nil {
		return // strings and numbers only: it does not happen
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.out.Write(line.Bytes()); err != nil {
		w.gone(fmt.Errorf("%w: nobody reads the events", errDriverLeft))
	}
}

var errDriverLeft = errors.New("the program that drives this login left")

// loginEvents logs in for a program that shows it to a person.
func loginEvents(cmd *cobra.Command, f loginFlags, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	w := &eventWriter{out: cmd.OutOrStdout(), gone: cancel}
	st, err := driveLogin(ctx, f, log, w, cancel)
	if err == nil {
		w.write(login.Event{
			Event: login.EventDone, Account: st.Email, Workspace: st.AccountID, Plan: st.Plan, Mode: string(st.Mode),
			Store: string(st.Where.Kind), Path: st.Where.Path, Fingerprint: st.Fingerprint,
		})
		return nil
	}
	if left := context.Cause(ctx); errors.Is(left, errDriverLeft) {
		err = &config.Problem{Stage: "login", Err: left}
	}
	e := login.Event{Event: login.EventFailed, Error: err.Error(), Hints: config.Hints(err)}
	var p *config.Problem
	if errors.As(err, &p) {
		e.Stage, e.Error = p.Stage, p.Err.Error()
	}
	w.write(e)
	return &said{err}
}

func driveLogin(ctx context.Context, f loginFlags, log *slog.Logger, w *eventWriter, cancel context.CancelCauseFunc) (account.Status, error) {
	_, m, err := openAccount(log, nil)
	if err != nil {
		return account.Status{}, err
	}
	defer m.Close()
	if f.withAPIKey || f.withAccessToken {
		text, err := readSecret(ctx, os.Stdin)
		if err != nil {
			return account.Status{}, err
		}
		if f.withAPIKey {
			return m.SetAPIKey(ctx, text)
		}
		return m.SetAccessToken(ctx, text)
	}
	// The driver's end is ours; what it writes is what its person pasted.
	pasted := make(chan string)
	go func() { // ends with standard input, or the process
		for line := range inputLines(ctx, os.Stdin) {
			select {
			case pasted <- line:
			case <-ctx.Done():
				return
			}
		}
		cancel(errDriverLeft)
	}()
	before, err := m.Before(ctx)
	if err != nil {
		return account.Status{}, err
	}
	if before.Current.LoggedIn {
		w.write(login.Event{Event: login.EventStep, Text: "now logged in with " + loginOrigin(before.Current) + "; this login replaces it"})
	}
	for i, id := range before.Workspaces {
		if i == 0 {
			w.write(login.Event{Event: login.EventStep, Text: fmt.Sprintf("only these workspaces may log in here (set by %s):", before.Source)})
		}
		w.write(login.Event{Event: login.EventStep, Text: "  " + id})
	}
	if f.deviceAuth {
		return m.Device(ctx, func(d account.DeviceCode) {
			w.write(login.Event{Event: login.EventDevice, URL: d.URL, CompleteURL: d.CompleteURL, Code: d.Code, Expires: &d.Expires})
		})
	}
	return m.Browser(ctx, account.BrowserOptions{
		Ready: func(url string, port int) { w.write(login.Event{Event: login.EventURL, URL: url, Port: &port}) },
		Step:  func(text string) { w.write(login.Event{Event: login.EventStep, Text: text}) },
		Busy:  portHolder,
		Paste: pasted,
	})
}
