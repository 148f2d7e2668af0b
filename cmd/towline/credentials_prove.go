package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync"
	"time"

	"towline/appserver/account"
	"towline/config"
	"towline/config/secret"
	"towline/forward/custody"
)

// proofs is how often a proof is tried that an issuer out of order spoils.
const proofs = 3

// Prove implements custody.Host: the login is renewed here, by the same code that
// will keep renewing it.
func (h *receiving) Prove(ctx context.Context, m custody.Mark) (custody.Stored, custody.Verdict, error) {
	var last error
	for i := range proofs {
		if i > 0 {
			select {
			case <-ctx.Done():
				return custody.Stored{}, custody.Doubtful, errors.Join(last, context.Cause(ctx))
			case <-time.After(time.Duration(i) * h.again):
			}
		}
		st, verdict, err := h.proveOnce(ctx, m)
		if verdict != custody.Doubtful {
			return st, verdict, err
		}
		last = err
	}
	return custody.Stored{}, custody.Doubtful, last
}

func (h *receiving) proveOnce(ctx context.Context, m custody.Mark) (custody.Stored, custody.Verdict, error) {
	a, where, err := h.creds.store.Load(ctx)
	switch {
	case errors.Is(err, secret.ErrNone), err == nil && custody.MarkOf(a).Account != m.Account:
		return custody.Stored{}, custody.Absent, nil
	case err != nil:
		return custody.Stored{}, custody.Doubtful, err
	case custody.MarkOf(a) != m: // renewed already
		return h.proved(a, where), custody.Works, nil
	}
	h.wire.begin()
	if _, err = h.account.Refresh(ctx); err != nil {
		return custody.Stored{}, h.wire.verdict(err), err
	}
	a, where, err = h.creds.store.Load(ctx)
	if err != nil {
		return custody.Stored{}, custody.Doubtful, err
	}
	st := h.proved(a, where)
	if custody.MarkOf(a) == m {
		st.Note = "the issuer renewed the login and left its refresh token as it was"
	}
	return st, custody.Works, nil
}

func (h *receiving) proved(a secret.Auth, where secret.Where) custody.Stored {
	st := h.stored(a, where)
	st.Account = custody.MarkOf(a).Account
	h.note("credential.moved", slog.String("account", st.Account), slog.String("store", st.Store), slog.String("fingerprint", st.Fingerprint))
	return st
}

// watched is a way to the issuer that knows whether a request got there: a refresh
// token that was never shown is not spent.
type watched struct {
	next http.RoundTripper

	mu     sync.Mutex // guards what follows
	sent   bool       // a request that could spend one left this machine
	status int        // of its answer; 0 for none
}

func newWatched() *watched { return &watched{next: http.DefaultTransport} }

func (w *watched) client() *http.Client {
	return &http.Client{
		Transport: w, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // no token goes where nobody configured it to
	}
}

func (w *watched) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent, w.status = false, 0
}

// RoundTrip implements http.RoundTripper.
func (w *watched) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost {
		return w.next.RoundTrip(r)
	}
	trace := &httptrace.ClientTrace{WroteHeaders: func() { w.saw(true, 0) }}
	resp, err := w.next.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err == nil {
		w.saw(true, resp.StatusCode)
	}
	return resp, err
}

func (w *watched) saw(sent bool, status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent, w.status = w.sent || sent, status
}

// verdict is what an error of a refresh says about the refresh token.
func (w *watched) verdict(err error) custody.Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case errors.Is(err, account.ErrLoginExpired):
		return custody.Refused
	case !w.sent:
		return custody.Unspent
	case w.status >= 400 && w.status < 500: // it looked, and gave nothing
		return custody.Unspent
	}
	return custody.Doubtful
}

// piped makes one of two standard streams. Its Close ends a Read, which a read of
// a standard stream cannot be.
type piped struct {
	*io.PipeReader
	out *os.File
}

func newPiped(in, out *os.File) piped {
	r, w := io.Pipe()
	go func() { // ends with the input, or the process
		_, err := io.Copy(w, in)
		_ = w.CloseWithError(err)
	}()
	return piped{r, out}
}

func (p piped) Write(b []byte) (int, error) { return p.out.Write(b) }

func (p piped) Close() error {
	_ = p.PipeReader.Close()
	return nil
}

// note records what happened to a credential of this machine in its audit, through
// the daemon when one runs. That it cannot is told and stops nothing.
func note(ctx context.Context, paths config.Paths, event string, facts ...slog.Attr) {
	if err := recordHere(ctx, paths, event, facts); err != nil {
		slog.New(slog.NewTextHandler(os.Stderr, nil)).Warn("not in the audit", "event", event, "err", err)
	}
}
