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
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/account"
	"towline/config"
)

// loginEvent is a line of `towline login --events`. Which members there are depends
// on Event:
//
//	url      URL, Port      open URL; the browser comes back to Port (0: paste the address it ends at)
//	device   URL, CompleteURL, Code, Expires
//	step     Text           what is being done, for a person
//	done     Account, Workspace, Plan, Mode, Store, Path, Fingerprint
//	failed   Stage, Error, Hints
//
// done or failed is the last line. Lines on standard input are redirect addresses
// a person pasted; its end says that the driver left, and ends the login.
type loginEvent struct {
	Event       string     `json:"event"`
	URL         string     `json:"url,omitempty"`
	CompleteURL string     `json:"completeUrl,omitempty"`
	Port        *int       `json:"port,omitempty"`
	Code        string     `json:"code,omitempty"`
	Expires     *time.Time `json:"expires,omitempty"`
	Text        string     `json:"text,omitempty"`
	Account     string     `json:"account,omitempty"`
	Workspace   string     `json:"workspace,omitempty"`
	Plan        string     `json:"plan,omitempty"`
	Mode        string     `json:"mode,omitempty"`
	Store       string     `json:"store,omitempty"`
	Path        string     `json:"path,omitempty"`
	Fingerprint string     `json:"fingerprint,omitempty"`
	Stage       string     `json:"stage,omitempty"`
	Error       string     `json:"error,omitempty"`
	Hints       []string   `json:"hints,omitempty"`
}

// eventWriter writes whole lines, from any goroutine. A driver that does not read
// any more ends the login.
type eventWriter struct {
	mu   sync.Mutex
	out  io.Writer
	gone context.CancelCauseFunc
}

func (w *eventWriter) write(e loginEvent) {
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
		w.write(loginEvent{
			Event: "done", Account: st.Email, Workspace: st.AccountID, Plan: st.Plan, Mode: string(st.Mode),
			Store: string(st.Where.Kind), Path: st.Where.Path, Fingerprint: st.Fingerprint,
		})
		return nil
	}
	if left := context.Cause(ctx); errors.Is(left, errDriverLeft) {
		err = &config.Problem{Stage: "login", Err: left}
	}
	e := loginEvent{Event: "failed", Error: err.Error(), Hints: config.Hints(err)}
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
		w.write(loginEvent{Event: "step", Text: "now logged in with " + loginOrigin(before.Current) + "; this login replaces it"})
	}
	for i, id := range before.Workspaces {
		if i == 0 {
			w.write(loginEvent{Event: "step", Text: fmt.Sprintf("only these workspaces may log in here (set by %s):", before.Source)})
		}
		w.write(loginEvent{Event: "step", Text: "  " + id})
	}
	if f.deviceAuth {
		return m.Device(ctx, func(d account.DeviceCode) {
			w.write(loginEvent{Event: "device", URL: d.URL, CompleteURL: d.CompleteURL, Code: d.Code, Expires: &d.Expires})
		})
	}
	return m.Browser(ctx, account.BrowserOptions{
		Ready: func(url string, port int) { w.write(loginEvent{Event: "url", URL: url, Port: &port}) },
		Step:  func(text string) { w.write(loginEvent{Event: "step", Text: text}) },
		Busy:  portHolder,
		Paste: pasted,
	})
}
