package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"towline/appserver/access"
)

// EgressProtocol is the Upgrade token of a stream on which a client lends its
// network to the host. What is said on it is somebody else's business.
const EgressProtocol = "towline-egress.v1"

// EgressFunc decides about a client that offers its network, before it is told
// yes. The error is what it is told instead. serve has the stream from then on; it
// closes it, and returns when it is over, at the latest when its ctx ends.
type EgressFunc func(ctx context.Context, p access.Principal, remote string) (serve func(ctx context.Context, rw io.ReadWriteCloser), err error)

// offersEgress reports whether r is such an offer.
func offersEgress(r *http.Request) bool {
	return hasToken(r.Header.Values("Upgrade"), EgressProtocol)
}

// acceptEgress answers the offer in r and serves it. Only the last answer is left
// to do when it returns an error, which it has written already.
func (o Options) acceptEgress(ctx context.Context, w http.ResponseWriter, r *http.Request, p access.Principal, remote string, taken func()) error {
	serve, status, err := o.decideEgress(ctx, r, p, remote)
	if err != nil {
		http.Error(w, oneLine(err.Error()), status)
		return err
	}
	hj, ok := w.(http.Hijacker)
	if !ok {
		panic("a connection that cannot be taken over")
	}
	c, brw, err := hj.Hijack()
	if err != nil {
		return fmt.Errorf("take the connection over: %w", err)
	}
	taken()
	_ = c.SetDeadline(time.Time{}) // the request's does not count any more
	const yes = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + EgressProtocol + "\r\n\r\n"
	if _, err := io.WriteString(c, yes); err != nil {
		_ = c.Close()
		return fmt.Errorf("answer: %w", err)
	}
	serve(ctx, &rest{ReadWriteCloser: c, ahead: brw.Reader})
	return nil
}

func (o Options) decideEgress(ctx context.Context, r *http.Request, p access.Principal, remote string) (func(context.Context, io.ReadWriteCloser), int, error) {
	_, page := r.Header["Origin"]
	switch {
	case page:
		return nil, http.StatusForbidden, errors.New("a web page lends nothing")
	case r.Method != http.MethodGet || !hasToken(r.Header.Values("Connection"), "upgrade"):
		return nil, http.StatusBadRequest, errors.New("to lend a network, upgrade a GET")
	case o.Egress == nil:
		return nil, http.StatusNotImplemented, errors.New("this host takes no network")
	}
	serve, err := o.Egress(ctx, p, remote)
	if err != nil {
		return nil, http.StatusForbidden, err
	}
	return serve, 0, nil
}

// rest is a connection of which something was read ahead.
type rest struct {
	io.ReadWriteCloser
	ahead *bufio.Reader
}

func (c *rest) Read(p []byte) (int, error) {
	if c.ahead.Buffered() > 0 {
		return c.ahead.Read(p[:min(len(p), c.ahead.Buffered())])
	}
	return c.ReadWriteCloser.Read(p)
}

// oneLine keeps a refusal within one line of an answer.
func oneLine(s string) string {
	const most = 250
	s = strings.Join(slices.Collect(strings.FieldsSeq(s)), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
